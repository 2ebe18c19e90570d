"""A Hugging Face folder with random weights of any Llama shape, for figures of a daemon that serves a larger model than
those at hand. Activations stay near one, so nothing overflows; what it says means nothing."""

import json
import pathlib
import random
import shutil

SHAPE_25M = {"hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 8, "num_attention_heads": 8,
             "num_key_value_heads": 2, "head_dim": 64}


def _tensors(shape):
    """(name, rows, columns) in the order of the file; a vector has one row."""
    hidden, inner = shape["hidden_size"], shape["intermediate_size"]
    queries = shape["num_attention_heads"] * shape["head_dim"]
    keys = shape["num_key_value_heads"] * shape["head_dim"]
    yield "model.embed_tokens.weight", shape["vocab_size"], hidden
    for layer in range(shape["num_hidden_layers"]):
        prefix = f"model.layers.{layer}."
        yield prefix + "input_layernorm.weight", 1, hidden
        yield prefix + "self_attn.q_proj.weight", queries, hidden
        yield prefix + "self_attn.k_proj.weight", keys, hidden
        yield prefix + "self_attn.v_proj.weight", keys, hidden
        yield prefix + "self_attn.o_proj.weight", hidden, queries
        yield prefix + "post_attention_layernorm.weight", 1, hidden
        yield prefix + "mlp.gate_proj.weight", inner, hidden
        yield prefix + "mlp.up_proj.weight", inner, hidden
        yield prefix + "mlp.down_proj.weight", hidden, inner
    yield "model.norm.weight", 1, hidden
    if not shape.get("tie_word_embeddings", False):
        yield "lm_head.weight", shape["vocab_size"], hidden


# bf16 with a random sign, the exponent of 1/64 and a random mantissa: 1/64 to 1/32 in size.
_HIGH_BYTE = bytes((byte & 0x80) | 0x3C for byte in range(256))


def _values(generator, rows, columns):
    count = rows * columns
    values = bytearray(2 * count)
    if rows == 1:  # a norm's weights: one
        values[0::2], values[1::2] = b"\x80" * count, b"\x3f" * count
    else:
        values[0::2] = generator.randbytes(count)
        values[1::2] = generator.randbytes(count).translate(_HIGH_BYTE)
    return values


def write(folder, like, shape=SHAPE_25M, seed=1):
    """Writes the checkpoint into `folder`: tokenizer, vocabulary and context from the folder `like`, the rest from
    `shape`."""
    folder, like = pathlib.Path(folder), pathlib.Path(like)
    config = {**json.loads((like / "config.json").read_text()), **shape}
    (folder / "config.json").write_text(json.dumps(config))
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        shutil.copy(like / name, folder / name)
    header, offset = {}, 0
    for name, rows, columns in _tensors(config):
        size = 2 * rows * columns
        header[name] = {"dtype": "BF16", "shape": [columns] if rows == 1 else [rows, columns],
                        "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    generator = random.Random(seed)
    with open(folder / "model.safetensors", "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for _, rows, columns in _tensors(config):
            file.write(_values(generator, rows, columns))
