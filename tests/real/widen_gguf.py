#!/usr/bin/env python3
"""Writes a quantised GGUF file again with its tensors as the plain numbers that they stand for.

    widen_gguf.py FROM.gguf TO.gguf VENV    VENV: a folder in the build tree for the package `gguf`

For what is made of plain weights while they are loaded (`weights: int4`), measured on a model that is only published
quantised. Exit code 77: the package index does not answer.
"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "formats"))
from gguf_package_test import enter_venv  # noqa: E402


def main():
    source, target, venv = map(pathlib.Path, sys.argv[1:])
    enter_venv(venv)
    import gguf
    import numpy

    reader = gguf.GGUFReader(source)
    partial = target.with_suffix(".partial")
    architecture = reader.fields["general.architecture"].contents()
    writer = gguf.GGUFWriter(partial, architecture)
    for field in reader.fields.values():
        if field.name.startswith("GGUF.") or field.name == "general.architecture":
            continue
        of = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(field.name, field.contents(), field.types[0], sub_type=of)
    for tensor in reader.tensors:
        values = gguf.dequantize(tensor.data, tensor.tensor_type)
        writer.add_tensor(tensor.name, numpy.ascontiguousarray(values, dtype=numpy.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    partial.rename(target)
    print(target)


if __name__ == "__main__":
    main()
