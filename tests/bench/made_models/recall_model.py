#!/usr/bin/python3
"""Writes a small model that retrieves, with weights made by hand, as a Hugging Face folder.

    recall_model.py --scheme mha|gqa|mqa|cla [--heads peaked|spread] --tokenizer DIR --out DIR

Small trained models hardly use far context, so they cannot tell whether sparse attention finds what
matters in it. This one copies: it continues the last tokens as they went on the last time.

    layer 0   heads 0 to 6 attend 1 to 7 positions back (constant q and k in the fast rotary pairs,
              turned by the distance) and write that token into a slot of its own; head 7 is
              spread over the whole context by content
    layer 1,2 all heads compare the tokens before each position with the newest ones (in the slow
              rotary pairs, which turn by less than a quarter of a radian over 2048 positions) and
              write the token that followed into a slot that the LM head reads

Each head compares 4 to 7 tokens through random projections of its own, with noise from the fast pairs.
Where all of them match, the copied position holds 0.46 to 1.0 of a peaked head's attention, and 0.08
to 0.95 of a spread one's, whose rest lies on hundreds of others; where few match, less. Dimensions
differ in size (log-normal), which is what SparQ lives on, as trained heads' do. `cla`: layer 2 reads
layer 1's K and V.

numpy only; the same seed writes the same bytes.
"""
import argparse
import json
import pathlib
import shutil
import struct

import numpy as np

VOCAB, CODE, LAYERS, HEADS, HEAD_DIM = 4096, 80, 3, 8, 128
SHIFTS = 7  # slots behind the token's own
HIDDEN = 768
THETA = 1e8
FAST_PAIRS, SLOW_FROM, PAIRS = 24, 32, HEAD_DIM // 2  # pairs between turn too far to match, too slowly to place
MATCHED = (7, 6, 5, 7, 4, 7, 6, 5)  # tokens that each head compares
AGE = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7)  # what a match of the newest token, the one before, ... counts
# Of the matching heads: nats per fully matched token, and nats of noise.
SHARPNESS_AND_NOISE = {"peaked": (3.3, 0.8), "spread": (2.4, 1.2)}

# The residual stream: own token, tokens 1 to 7 back, what comes next, a constant, context noise.
SLOT = [slice(i * CODE, (i + 1) * CODE) for i in range(SHIFTS + 1)]
NEXT = slice((SHIFTS + 1) * CODE, (SHIFTS + 2) * CODE)
CONSTANT = NEXT.stop
CONTEXT = slice(CONSTANT + 1, HIDDEN)


def pair_dims(pairs):
    """Both dimensions of each rotary pair (rotate-half: p and p + d / 2)."""
    return np.concatenate([pairs, pairs + PAIRS])


FAST = pair_dims(np.arange(FAST_PAIRS))
SLOW = pair_dims(np.arange(SLOW_FROM, PAIRS))


def projection(random, dims, columns):
    """[HEAD_DIM, columns]: random, nearly keeps products, its rows log-normally large."""
    rows = random.normal(size=(len(dims), columns)) * np.exp(random.normal(scale=0.5, size=(len(dims), 1)))
    rows /= np.sqrt((rows**2).sum() / columns)
    full = np.zeros((HEAD_DIM, columns))
    full[dims] = rows
    return full


def heads_of(blocks):
    return np.concatenate(blocks).astype(np.float32)


def shift_layer(random, kv_heads):
    # A gap of 14 nats between the wanted position and its neighbours: e^-14 of 2048 positions is nothing.
    frequency = THETA ** (-np.arange(FAST_PAIRS) / PAIRS)
    size = np.sqrt(14 * np.sqrt(HEAD_DIM) / (1 - np.cos(frequency)).sum())
    norm = np.sqrt(2 / HIDDEN)  # RMS of a token's code and the constant, both of length 1
    content = [projection(random, SLOW, CODE) for _ in range(kv_heads)]
    q, k, v, o = [], [], [], np.zeros((HIDDEN, HEADS * HEAD_DIM))
    for head in range(HEADS):
        rows = np.zeros((HEAD_DIM, HIDDEN))
        if head < SHIFTS:
            angle = (head + 1) * frequency
            rows[:FAST_PAIRS, CONSTANT] = np.cos(angle) * size * norm
            rows[PAIRS:PAIRS + FAST_PAIRS, CONSTANT] = -np.sin(angle) * size * norm
            o[SLOT[head + 1], head * HEAD_DIM:head * HEAD_DIM + CODE] = np.eye(CODE)
        else:
            rows[:, SLOT[0]] = content[head * kv_heads // HEADS] * 2.0 * np.sqrt(HEAD_DIM) * norm
            o[CONTEXT, head * HEAD_DIM:head * HEAD_DIM + CODE] = random.normal(
                scale=0.1, size=(HIDDEN - CONSTANT - 1, CODE))
        q.append(rows)
    for head in range(kv_heads):
        rows = np.zeros((HEAD_DIM, HIDDEN))
        rows[:FAST_PAIRS, CONSTANT] = size * norm
        rows[:, SLOT[0]] += content[head] * norm
        k.append(rows)
        rows = np.zeros((HEAD_DIM, HIDDEN))
        rows[:CODE, SLOT[0]] = np.eye(CODE) * norm
        v.append(rows)
    return heads_of(q), heads_of(k), heads_of(v), o.astype(np.float32)


def match_layer(random, kv_heads, keys, sharpness, noise_nats):
    """`keys`: the projections of the layer whose K this one reads, or None to make them."""
    # Codes of the token, of seven more and the constant, each of length 1; context noise is small.
    norm = np.sqrt((SHIFTS + 2) / HIDDEN)
    if keys is None:
        keys = [([projection(random, SLOW, CODE) for _ in AGE], projection(random, FAST, CODE))
                for _ in range(kv_heads)]
    q, k, v, o = [], [], [], np.zeros((HIDDEN, HEADS * HEAD_DIM))
    for head in range(HEADS):
        slots, noise = keys[head * kv_heads // HEADS]
        own_sharpness = sharpness * np.exp(random.normal(scale=0.1)) * np.sqrt(HEAD_DIM)
        rows = np.zeros((HEAD_DIM, HIDDEN))
        for m in range(MATCHED[head]):
            rows[:, SLOT[m]] += slots[m] * AGE[m] * own_sharpness * norm
        own = projection(random, FAST, CODE) + noise
        rows[:, SLOT[0]] += own * noise_nats * np.sqrt(HEAD_DIM) * np.sqrt(len(FAST) / 2) * norm
        q.append(rows)
        o[NEXT, head * HEAD_DIM:head * HEAD_DIM + CODE] = np.eye(CODE) / HEADS
    for slots, noise in keys:
        rows = np.zeros((HEAD_DIM, HIDDEN))
        for m, age in enumerate(AGE):
            rows[:, SLOT[m + 1]] += slots[m] * age * norm
        rows[:, SLOT[0]] += noise * norm
        k.append(rows)
        rows = np.zeros((HEAD_DIM, HIDDEN))
        rows[:CODE, SLOT[0]] = np.eye(CODE) * norm
        v.append(rows)
    return (heads_of(q), heads_of(k), heads_of(v), o.astype(np.float32)), keys


def make_tensors(scheme, heads, seed):
    random = np.random.default_rng(seed)
    kv_heads = {"mha": HEADS, "gqa": 2, "mqa": 1, "cla": 2}[scheme]
    codes = random.normal(size=(VOCAB, CODE))
    codes /= np.linalg.norm(codes, axis=1, keepdims=True)
    embedding = np.zeros((VOCAB, HIDDEN), np.float32)
    embedding[:, SLOT[0]] = codes
    embedding[:, CONSTANT] = 1
    head = np.zeros((VOCAB, HIDDEN), np.float32)
    head[:, NEXT] = codes  # RMSNorm makes a well-matched token's logit about ten
    tensors = {
        "model.embed_tokens.weight": embedding,
        "model.norm.weight": np.ones(HIDDEN, np.float32),
        "lm_head.weight": head,
    }
    keys = None
    for layer in range(LAYERS):
        borrows = scheme == "cla" and layer == 2
        if layer == 0:
            q, k, v, o = shift_layer(random, kv_heads)
        else:
            (q, k, v, o), keys = match_layer(random, kv_heads, keys if borrows else None, *SHARPNESS_AND_NOISE[heads])
        prefix = f"model.layers.{layer}."
        tensors[prefix + "self_attn.q_proj.weight"] = q
        if not borrows:
            tensors[prefix + "self_attn.k_proj.weight"] = k
            tensors[prefix + "self_attn.v_proj.weight"] = v
        tensors[prefix + "self_attn.o_proj.weight"] = o
        for name in ("input_layernorm", "post_attention_layernorm"):
            tensors[prefix + name + ".weight"] = np.ones(HIDDEN, np.float32)
        for name, shape in (("gate", (64, HIDDEN)), ("up", (64, HIDDEN)), ("down", (HIDDEN, 64))):
            tensors[prefix + f"mlp.{name}_proj.weight"] = np.zeros(shape, np.float32)
    return tensors, kv_heads


def write_safetensors(path, tensors):
    header, offset = {}, 0
    for name, tensor in tensors.items():
        header[name] = {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": [offset, offset + tensor.nbytes]}
        offset += tensor.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for tensor in tensors.values():
            file.write(np.ascontiguousarray(tensor).tobytes())


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scheme", choices=("mha", "gqa", "mqa", "cla"), required=True)
    parser.add_argument("--heads", choices=SHARPNESS_AND_NOISE, default="peaked")
    parser.add_argument("--tokenizer", type=pathlib.Path, required=True,
                        help=f"a model folder whose vocabulary of {VOCAB} it takes")
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    tensors, kv_heads = make_tensors(args.scheme, args.heads, args.seed)
    args.out.mkdir(parents=True, exist_ok=True)
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": HIDDEN,
        "intermediate_size": 64, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS,
        "num_key_value_heads": kv_heads, "head_dim": HEAD_DIM, "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-6, "rope_theta": THETA, "vocab_size": VOCAB, "tie_word_embeddings": False,
        "hidden_act": "silu", "attention_bias": False, "mlp_bias": False, "bos_token_id": 0,
        "eos_token_id": 0, "torch_dtype": "float32",
    }
    if args.scheme == "cla":
        config["sharing_pattern"] = [0, 1, 1]
    (args.out / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    write_safetensors(args.out / "model.safetensors", tensors)
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        shutil.copyfile(args.tokenizer / name, args.out / name)


if __name__ == "__main__":
    main()
