"""One random-weight checkpoint in the formats of several engines: a Hugging Face folder in bf16, the same weights in
eight bits (compressed-tensors, W8A8) and in four (GPTQ) for vLLM, and as GGUF in bf16, f16, Q8_0 and Q4_0 for llama.cpp,
OpenVINO GenAI and Kvasir. What such a model says means nothing; how fast it says it does.

Needs Debian's python3-numpy."""

import json
import mmap
import pathlib
import shutil
import struct

import numpy

import random_checkpoint

GROUP = 128  # of GPTQ's codes
FIRST_FILLER = 4096


def write_plain(folder, like, shape, seed=1):
    """A folder in bf16, whose tokenizer knows as many tokens as the shape: some engines ask for the name of each id."""
    random_checkpoint.write(folder, like, shape, seed)
    path = folder / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    vocabulary = tokenizer["model"]["vocab"]
    for token in range(len(vocabulary), shape["vocab_size"]):
        vocabulary[f"\u0120filler{token}"] = token
    path.write_text(json.dumps(tokenizer))


class Tensors:
    """The tensors of a folder's model.safetensors, mapped."""

    def __init__(self, folder):
        with open(pathlib.Path(folder) / "model.safetensors", "rb") as file:
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        length = int.from_bytes(self._map[:8], "little")
        self.header = json.loads(self._map[8:8 + length])
        self.names = sorted((name for name in self.header if name != "__metadata__"),
                            key=lambda name: self.header[name]["data_offsets"][0])
        self._base = 8 + length

    def raw(self, name):
        begin, end = self.header[name]["data_offsets"]
        return numpy.frombuffer(self._map, numpy.uint16, (end - begin) // 2, self._base + begin)

    def f32(self, name):
        return (self.raw(name).astype(numpy.uint32) << 16).view(numpy.float32).reshape(self.header[name]["shape"])


def write_safetensors(path, tensors):
    """`tensors`: (name, type, shape, function that returns the bytes) of each, which are made one at a time."""
    header, offset = {}, 0
    for name, kind, shape, _ in tensors:
        size = int(numpy.prod(shape)) * {"BF16": 2, "F32": 4, "I8": 1, "I32": 4}[kind]
        header[name] = {"dtype": kind, "shape": list(shape), "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, _, _, make in tensors:
            data = make()
            begin, end = header[name]["data_offsets"]
            assert len(data) == end - begin, name
            file.write(data)


def is_linear(name):
    return name.endswith("_proj.weight")


def linears(source, tensors):
    """Names and shapes of the weights that are quantised; what stays as it is goes into `tensors`."""
    for name in source.names:
        shape = source.header[name]["shape"]
        if is_linear(name):
            yield name, shape
        else:
            tensors.append((name, "BF16", shape, lambda name=name: source.raw(name).tobytes()))


def bf16_bytes(values):
    return (numpy.ascontiguousarray(values, numpy.float32).view(numpy.uint32) >> 16).astype(numpy.uint16).tobytes()


def int8_rows(weights):
    """[outputs, inputs] to codes of the same shape and a scale for each output."""
    scales = numpy.abs(weights).max(axis=1, keepdims=True) / 127
    return numpy.rint(weights / scales).astype(numpy.int8), scales.astype(numpy.float32)


def gptq_codes(weights, group=GROUP):
    """[outputs, inputs] to GPTQ's: eight codes of four bits in an int32 along the inputs, the lowest first, [inputs / 8,
    outputs]; and scales [inputs / group, outputs]. A code of 8 is zero."""
    columns = numpy.ascontiguousarray(weights.T)
    inputs, outputs = columns.shape
    grouped = columns.reshape(inputs // group, group, outputs)
    scales = numpy.abs(grouped).max(axis=1) / 7
    codes = numpy.clip(numpy.rint(grouped / scales[:, None]) + 8, 0, 15).astype(numpy.uint32)
    codes = codes.reshape(inputs // 8, 8, outputs)
    packed = numpy.zeros((inputs // 8, outputs), numpy.uint32)
    for nibble in range(8):
        packed |= codes[:, nibble] << numpy.uint32(4 * nibble)
    return packed, scales.astype(numpy.float32)


def _with_quantization(plain, folder, quantization):
    folder.mkdir(parents=True, exist_ok=True)
    for path in plain.iterdir():
        if path.suffix == ".json" and path.name != "config.json":
            (folder / path.name).write_bytes(path.read_bytes())
    config = json.loads((plain / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": quantization}))


def write_w8a8(plain, folder):
    """compressed-tensors: weights by output, inputs by token while running."""
    def arguments(strategy, dynamic):
        return {"num_bits": 8, "type": "int", "symmetric": True, "strategy": strategy, "dynamic": dynamic}

    _with_quantization(plain, folder, {
        "quant_method": "compressed-tensors", "format": "int-quantized", "quantization_status": "compressed",
        "ignore": ["lm_head"], "config_groups": {"group_0": {
            "targets": ["Linear"], "weights": arguments("channel", False),
            "input_activations": arguments("token", True)}}})
    source, tensors = Tensors(plain), []
    for name, shape in linears(source, tensors):
        tensors.append((name, "I8", shape, lambda name=name: int8_rows(source.f32(name))[0].tobytes()))
        tensors.append((name + "_scale", "F32", (shape[0], 1),
                        lambda name=name: int8_rows(source.f32(name))[1].tobytes()))
    write_safetensors(folder / "model.safetensors", tensors)


def write_gptq(plain, folder):
    _with_quantization(plain, folder, {"quant_method": "gptq", "bits": 4, "group_size": GROUP, "sym": True,
                                       "desc_act": False, "checkpoint_format": "gptq", "lm_head": False})
    source, tensors = Tensors(plain), []
    for name, shape in linears(source, tensors):
        outputs, inputs = shape
        stem = name.removesuffix("weight")
        groups = inputs // GROUP
        tensors += [
            (stem + "qweight", "I32", (inputs // 8, outputs),
             lambda name=name: gptq_codes(source.f32(name))[0].tobytes()),
            # The format's zeros are one less than the zero.
            (stem + "qzeros", "I32", (groups, outputs // 8),
             lambda size=groups * outputs // 8: b"\x77" * (4 * size)),
            (stem + "scales", "BF16", (groups, outputs),
             lambda name=name: bf16_bytes(gptq_codes(source.f32(name))[1])),
            (stem + "g_idx", "I32", (inputs,),
             lambda inputs=inputs: (numpy.arange(inputs, dtype=numpy.int32) // GROUP).tobytes()),
        ]
    write_safetensors(folder / "model.safetensors", tensors)


# GGUF: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
_U32, _F32, _STRING, _ARRAY, _I32 = 4, 6, 8, 9, 5
_ALIGNMENT = 32
_LAYER = {"input_layernorm": "attn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k",
          "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output", "post_attention_layernorm": "ffn_norm",
          "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down"}


def gguf_name(name):
    whole = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight",
             "lm_head.weight": "output.weight"}
    if name in whole:
        return whole[name]
    _, _, layer, rest = name.split(".", 3)
    return f"blk.{layer}.{_LAYER[rest.removesuffix('.weight')]}.weight"


def _string(text):
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def _field(key, kind, value):
    if kind == _ARRAY:
        inner, values = value
        packed = b"".join(map(_string, values)) if inner == _STRING else struct.pack(f"<{len(values)}i", *values)
        data = struct.pack("<IQ", inner, len(values)) + packed
    else:
        data = _string(value) if kind == _STRING else struct.pack("<f" if kind == _F32 else "<I", value)
    return _string(key) + struct.pack("<I", kind) + data


def q8_0_blocks(weights):
    """Of 32 values a scale in f16 and 32 codes; [values / 32, 34] bytes."""
    values = weights.reshape(-1, 32)
    scales = numpy.abs(values).max(axis=1, keepdims=True) / 127
    codes = numpy.rint(values / scales).astype(numpy.int8)
    return numpy.concatenate([scales.astype(numpy.float16).view(numpy.uint8), codes.view(numpy.uint8)], axis=1)


def q4_0_blocks(weights):
    """Of 32 values a scale in f16, and codes of which 8 is zero: value i in the low half of byte i, value 16 + i in the
    high half; [values / 32, 18] bytes. The largest value has code 0."""
    values = weights.reshape(-1, 32)
    largest = numpy.take_along_axis(values, numpy.abs(values).argmax(axis=1)[:, None], axis=1)
    scales = largest / -8
    codes = numpy.minimum(values / scales + 8.5, 15).astype(numpy.uint8)
    packed = codes[:, :16] | codes[:, 16:] << 4
    return numpy.concatenate([scales.astype(numpy.float16).view(numpy.uint8), packed], axis=1)


# name: the format's number for a tensor and for a file, bytes of 32 values, and what makes them of f32
GGUF_KINDS = {
    "bf16": (30, 32, 64, bf16_bytes),
    "f16": (1, 1, 64, lambda values: values.astype(numpy.float16).tobytes()),
    "q8_0": (8, 7, 34, lambda values: q8_0_blocks(values).tobytes()),
    "q4_0": (2, 2, 18, lambda values: q4_0_blocks(values).tobytes()),
}


def write_gguf(plain, path, kind):
    """All matrices in one format. Rows of Q and K are left in the order of the folder: the weights are random anyway."""
    tensor_number, file_number, bytes_of_32, encode = GGUF_KINDS[kind]
    config = json.loads((plain / "config.json").read_text())
    tokenizer = json.loads((plain / "tokenizer.json").read_text())
    tokens = [name for name, _ in sorted(tokenizer["model"]["vocab"].items(), key=lambda item: item[1])]
    special = {token["id"] for token in tokenizer["added_tokens"]}
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in tokenizer["model"]["merges"]]
    fields = [
        ("general.architecture", _STRING, "llama"), ("general.name", _STRING, "random"),
        ("general.file_type", _U32, file_number), ("general.quantization_version", _U32, 2),
        ("llama.block_count", _U32, config["num_hidden_layers"]),
        ("llama.context_length", _U32, config["max_position_embeddings"]),
        ("llama.embedding_length", _U32, config["hidden_size"]),
        ("llama.feed_forward_length", _U32, config["intermediate_size"]),
        ("llama.attention.head_count", _U32, config["num_attention_heads"]),
        ("llama.attention.head_count_kv", _U32, config["num_key_value_heads"]),
        ("llama.attention.layer_norm_rms_epsilon", _F32, config["rms_norm_eps"]),
        ("llama.rope.dimension_count", _U32, config["head_dim"]),
        ("llama.rope.freq_base", _F32, config["rope_theta"]),
        ("llama.vocab_size", _U32, config["vocab_size"]),
        ("tokenizer.ggml.model", _STRING, "gpt2"), ("tokenizer.ggml.pre", _STRING, "gpt-2"),
        ("tokenizer.ggml.tokens", _ARRAY, (_STRING, tokens)),
        ("tokenizer.ggml.token_type", _ARRAY, (_I32, [3 if id in special else 1 for id in range(len(tokens))])),
        ("tokenizer.ggml.merges", _ARRAY, (_STRING, merges)),
        ("tokenizer.ggml.bos_token_id", _U32, 0), ("tokenizer.ggml.eos_token_id", _U32, 0),
        ("tokenizer.ggml.padding_token_id", _U32, 3),
    ]
    source, infos, offset = Tensors(plain), b"", 0
    for name in source.names:
        shape = source.header[name]["shape"]
        vector = len(shape) == 1  # stays f32
        infos += _string(gguf_name(name)) + struct.pack("<I", len(shape))
        infos += b"".join(struct.pack("<Q", size) for size in reversed(shape))
        infos += struct.pack("<IQ", 0 if vector else tensor_number, offset)
        count = int(numpy.prod(shape))
        size = 4 * count if vector else count // 32 * bytes_of_32
        offset += -(-size // _ALIGNMENT) * _ALIGNMENT
    head = b"GGUF" + struct.pack("<IQQ", 3, len(source.names), len(fields))
    head += b"".join(_field(*field) for field in fields) + infos

    def padded(data):
        return data + b"\0" * (-len(data) % _ALIGNMENT)

    with open(path, "wb") as file:
        file.write(padded(head))
        for name in source.names:
            values = source.f32(name)
            file.write(padded(values.tobytes() if values.ndim == 1 else encode(values)))


MAKERS = {
    "w8a8": write_w8a8,
    "gptq": write_gptq,
    **{f"{kind}.gguf": lambda plain, path, kind=kind: write_gguf(plain, path, kind) for kind in GGUF_KINDS},
}


def make(folder, like, shape, names):
    """Makes what of `names` is not there yet, each whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ["plain", *(name for name in names if name != "plain")]:
        path = folder / name
        if path.exists():
            continue
        print(f"making {path}", flush=True)
        part = folder / f"part-{name}"
        if part.is_dir():
            shutil.rmtree(part)
        if name == "plain":
            part.mkdir()
            write_plain(part, like, shape)
        else:
            MAKERS[name](folder / "plain", part)
        part.rename(path)
