#!/usr/bin/env python3
"""A checkpoint that says what another one says and costs a multiple of it: behind its layers come copies of the last one
whose output projections are zero, so that they are computed and add nothing. With the original as its draft model it shows
what speculation gains where the draft model is always right.

    tests/bench/made_models/deepened_checkpoint.py deploy/models/tale-7m-gqa2 OUT --layers 80"""

import argparse
import json
import pathlib
import re
import shutil
import struct

OUTPUTS = ("self_attn.o_proj.weight", "mlp.down_proj.weight")


def deepen(source, target, layers):
    config = json.loads((source / "config.json").read_text())
    last = config["num_hidden_layers"] - 1
    config["num_hidden_layers"] = layers
    target.mkdir(parents=True)
    (target / "config.json").write_text(json.dumps(config, indent=2))
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        if (source / name).exists():
            shutil.copy(source / name, target / name)

    content = (source / "model.safetensors").read_bytes()
    (length,) = struct.unpack_from("<Q", content)
    header = json.loads(content[8:8 + length])
    header.pop("__metadata__", None)
    tensors = []  # name, type, shape, bytes
    for name, tensor in header.items():
        begin, end = (8 + length + offset for offset in tensor["data_offsets"])
        data = content[begin:end]
        tensors.append((name, tensor["dtype"], tensor["shape"], data))
        of_last = re.fullmatch(rf"(model\.layers\.){last}(\..*)", name)
        if of_last:
            added = bytes(len(data)) if name.endswith(OUTPUTS) else data
            for layer in range(last + 1, layers):
                tensors.append((f"{of_last[1]}{layer}{of_last[2]}", tensor["dtype"], tensor["shape"], added))

    offset, entries = 0, {}
    for name, dtype, shape, data in tensors:
        entries[name] = {"dtype": dtype, "shape": shape, "data_offsets": [offset, offset + len(data)]}
        offset += len(data)
    head = json.dumps(entries).encode()
    head += b" " * (-len(head) % 8)
    with open(target / "model.safetensors", "wb") as file:
        file.write(struct.pack("<Q", len(head)) + head)
        for _, _, _, data in tensors:
            file.write(data)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=pathlib.Path, help="a Llama in one model.safetensors, no layers sharing K/V")
    parser.add_argument("target", type=pathlib.Path, help="the folder to make")
    parser.add_argument("--layers", type=int, required=True)
    arguments = parser.parse_args()
    deepen(arguments.source, arguments.target, arguments.layers)
