"""Kvasir's GGUF reader and dequantisation against the PyPI package `gguf`, bit for bit: random blocks of every type,
and every tensor of the quantised files in ../shared/gguf where those are.

    gguf_package_test.py TOOL VENV    TOOL: dequantize_tool; VENV: a folder in the build tree for the package
    gguf_package_test.py --vectors TOOL VENV    writes tests/golden/block_vectors.json instead

Skips (77) where the package index does not answer.
"""

import json
import os
import pathlib
import subprocess
import sys
import tempfile
import zlib

PACKAGE = "gguf==0.19.0"
SOURCE = pathlib.Path(__file__).resolve().parents[2]
SHARED = pathlib.Path(os.environ.get("KVASIR_SHARED", SOURCE.parent / "shared")) / "gguf"

# Where the 16-bit floats of a block stand: their random bits must be no infinity, or most values would be NaN.
SCALE_OFFSETS = {"Q8_0": [0], "Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "IQ4_NL": [0], "MXFP4": [],
                 "NVFP4": [], "Q2_K": [80, 82], "Q3_K": [108], "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208],
                 "IQ4_XS": [0]}


def enter_venv(folder):
    """Runs this script again under an interpreter that has the package."""
    python = folder / "bin" / "python3"
    if pathlib.Path(sys.prefix).resolve() == folder.resolve():
        return
    installed = python.exists() and subprocess.run([python, "-c", "import gguf"], capture_output=True).returncode == 0
    if not installed:
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
        result = subprocess.run([python, "-m", "pip", "install", "-q", "--timeout", "20", "--retries", "1", PACKAGE],
                                capture_output=True, text=True)
        if result.returncode != 0:
            print("SKIPPED: the package index does not give", PACKAGE, "\n", result.stderr[-500:])
            sys.exit(77)
    os.execv(python, [python, "-B"] + sys.argv)


def run_tool(tool, path):
    import numpy
    output = subprocess.run([tool, path], check=True, capture_output=True).stdout
    tensors, at = {}, 0
    while at < len(output):
        end = output.index(b"\n", at)
        name, count = output[at:end].decode().rsplit(" ", 1)
        at = end + 1 + 4 * int(count)
        tensors[name] = numpy.frombuffer(output[end + 1:at], dtype=numpy.float32)
    return tensors


def check_equal(name, ours, theirs):
    import numpy
    theirs = numpy.ascontiguousarray(theirs, dtype=numpy.float32).reshape(-1)
    assert ours.shape == theirs.shape, f"{name}: {ours.shape} values, want {theirs.shape}"
    same = (ours.view(numpy.uint32) == theirs.view(numpy.uint32)) | (numpy.isnan(ours) & numpy.isnan(theirs))
    if not same.all():
        at = int(numpy.argmin(same))
        sys.exit(f"{name}: value {at} is {ours[at]!r}, the package says {theirs[at]!r}")


def random_blocks(name, count, generator):
    import gguf
    import numpy
    size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[name]][1]
    blocks = generator.integers(0, 256, size=(count, size), dtype=numpy.uint8)
    for offset in SCALE_OFFSETS[name]:
        high = blocks[:, offset + 1]
        high[(high & 0x7C) == 0x7C] &= 0xBF
    return blocks


def check_random_blocks(tool):
    import gguf
    import numpy
    generator = numpy.random.default_rng(16)
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "random.gguf")
        writer = gguf.GGUFWriter(path, "llama")
        expected = {}
        for name in SCALE_OFFSETS:
            kind = gguf.GGMLQuantizationType[name]
            blocks = random_blocks(name, 600, generator)
            expected[name] = gguf.dequantize(blocks.reshape(3, -1), kind)
            writer.add_tensor(name, blocks.reshape(3, -1), raw_dtype=kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        ours = run_tool(tool, path)
    assert ours.keys() == expected.keys()
    for name in expected:
        check_equal(name, ours[name], expected[name])
    print(len(expected), "types of random blocks: equal")


def check_shared_files(tool):
    import gguf
    files = sorted(SHARED.glob("*.gguf"))
    if not files:
        print("NOT CHECKED: no files in", SHARED)
    for path in files:
        ours = run_tool(tool, path)
        tensors = gguf.GGUFReader(path).tensors
        assert {t.name for t in tensors} == ours.keys(), path
        for tensor in tensors:
            check_equal(f"{path.name}: {tensor.name}", ours[tensor.name],
                        gguf.dequantize(tensor.data, tensor.tensor_type))
        print(path.name, len(tensors), "tensors: equal")


def write_vectors():
    import gguf
    import numpy
    generator = numpy.random.default_rng(7)
    vectors = []
    for name in SCALE_OFFSETS:
        kind = gguf.GGMLQuantizationType[name]
        blocks = random_blocks(name, 2, generator)
        values = gguf.dequantize(blocks.reshape(-1), kind).astype(numpy.float32)
        vectors.append({"type": name, "blocks": blocks.tobytes().hex(), "count": values.size,
                        "first": [float(v) for v in values[:3]], "crc32": zlib.crc32(values.tobytes())})
    lines = ",\n".join(json.dumps(v) for v in vectors)
    (SOURCE / "tests/golden/block_vectors.json").write_text("[\n" + lines + "\n]\n")


if __name__ == "__main__":
    enter_venv(pathlib.Path(sys.argv[-1]))
    if sys.argv[1] == "--vectors":
        write_vectors()
    else:
        check_random_blocks(sys.argv[1])
        check_shared_files(sys.argv[1])
