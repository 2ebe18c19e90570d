"""`kvasir convert --score` against a NumPy program of its own: MHA -> GQA-4 -> MQA, CLA-2 and MLKV-2 of the tale family's
MHA, converted and evaluated in float32 from the checkpoint's bytes. Negative log-likelihoods must agree within 1e-3.

    numpy_reference_test.py BIN VENV    BIN: folder of kvasir; VENV: a folder in the build tree for numpy and tokenizers

Skips (77) without the golden models, and where the package index does not answer.
"""

import json
import os
import pathlib
import struct
import subprocess
import sys
import tempfile

PACKAGES = ["numpy", "tokenizers"]
SOURCE = pathlib.Path(__file__).resolve().parents[2]
MODELS = pathlib.Path(os.environ.get("KVASIR_MODELS", SOURCE.parent / "shared" / "models"))
CORPUS = MODELS.parent / "corpus" / "test.txt"
WINDOW, TOKENS = 512, 2048
TOLERANCE = 1e-3

# Arguments of the conversion, and what it means: K/V heads, owner of each layer, how layers merge.
CASES = {
    "gqa4": (["--kv_heads", "4"], 4, lambda layer: layer, "first"),
    "mqa": (["--kv_heads", "1"], 1, lambda layer: layer, "first"),
    "cla2": (["--cla", "2"], 8, lambda layer: layer - layer % 2, "first"),
    "mqa-mlkv2": (["--kv_heads", "1", "--mlkv", "2"], 1, lambda layer: layer - layer % 4, "mean"),
}


def enter_venv(folder):
    """Runs this script again under an interpreter that has the packages."""
    if pathlib.Path(sys.prefix).resolve() == folder.resolve():
        return
    python = folder / "bin" / "python3"
    check = "import " + ", ".join(PACKAGES)
    if not python.exists() or subprocess.run([python, "-c", check], capture_output=True, check=False).returncode != 0:
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
        result = subprocess.run([python, "-m", "pip", "install", "-q", "--timeout", "20", "--retries", "1", *PACKAGES],
                                capture_output=True, text=True, check=False)
        if result.returncode != 0:
            print("SKIPPED: the package index does not give", PACKAGES, "\n", result.stderr[-500:])
            sys.exit(77)
    os.execv(python, [python, "-B"] + sys.argv)


def read_safetensors(path):
    import numpy
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    tensors = {}
    for name, entry in json.loads(data[8:8 + length]).items():
        if name == "__metadata__":
            continue
        begin, end = entry["data_offsets"]
        raw = data[8 + length + begin:8 + length + end]
        assert entry["dtype"] == "BF16", (name, entry)
        wide = numpy.frombuffer(raw, dtype="<u2").astype(numpy.uint32) << 16
        tensors[name] = wide.view(numpy.float32).reshape(entry["shape"])
    return tensors


def to_bf16(values):
    """Rounded to bf16, nearest even, as checkpoints are stored."""
    import numpy
    bits = values.astype(numpy.float32).view(numpy.uint32).astype(numpy.uint64)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16 << 16).astype(numpy.uint32).view(numpy.float32)


def convert(tensors, config, kv_heads, owner_of, merge):
    """{layer: (K weight, V weight)} of the owners."""
    layers = range(config["num_hidden_layers"])

    def pooled(layer, which):
        weight = tensors[f"model.layers.{layer}.self_attn.{which}_proj.weight"].astype("f8")
        heads = weight.reshape(kv_heads, -1, config["head_dim"], weight.shape[1])
        return heads.mean(axis=1).reshape(-1, weight.shape[1])

    result = {}
    for owner in sorted({owner_of(layer) for layer in layers}):
        members = [layer for layer in layers if owner_of(layer) == owner]
        taken = members[:1] if merge == "first" else members
        result[owner] = tuple(to_bf16(sum(pooled(layer, which) for layer in taken) / len(taken)) for which in "kv")
    return result


def rotate(x, theta):
    """x [tokens, heads, d], Hugging Face's half-and-half rotation."""
    import numpy
    tokens, _, d = x.shape
    angles = numpy.arange(tokens)[:, None] * (theta ** (-numpy.arange(0, d, 2) / d))[None, :]
    cos, sin = (numpy.concatenate([f(angles)] * 2, axis=1)[:, None, :].astype("f4") for f in (numpy.cos, numpy.sin))
    swapped = numpy.concatenate([-x[..., d // 2:], x[..., :d // 2]], axis=-1)
    return x * cos + swapped * sin


def norm(x, weight, eps):
    import numpy
    return x / numpy.sqrt((x * x).mean(axis=-1, keepdims=True) + eps) * weight


def forward(tensors, kv, config, owner_of, ids):
    """Logits [tokens, vocabulary] of one window."""
    import numpy
    heads, d, eps = config["num_attention_heads"], config["head_dim"], config["rms_norm_eps"]
    x = tensors["model.embed_tokens.weight"][ids]
    mask = numpy.triu(numpy.full((len(ids), len(ids)), -numpy.inf, dtype="f4"), 1)
    cache = {}
    for layer in range(config["num_hidden_layers"]):
        name = f"model.layers.{layer}."
        h = norm(x, tensors[name + "input_layernorm.weight"], eps)
        q = rotate((h @ tensors[name + "self_attn.q_proj.weight"].T).reshape(len(ids), heads, d), config["rope_theta"])
        if layer in kv:
            k, v = ((h @ weight.T).reshape(len(ids), -1, d) for weight in kv[layer])
            cache[layer] = rotate(k, config["rope_theta"]), v
        k, v = (numpy.repeat(part, heads // part.shape[1], axis=1) for part in cache[owner_of(layer)])
        scores = numpy.einsum("qhd,khd->hqk", q, k) / numpy.float32(d ** 0.5) + mask
        scores = numpy.exp(scores - scores.max(axis=-1, keepdims=True))
        scores /= scores.sum(axis=-1, keepdims=True)
        mixed = numpy.einsum("hqk,khd->qhd", scores, v).reshape(len(ids), heads * d)
        x = x + mixed @ tensors[name + "self_attn.o_proj.weight"].T
        h = norm(x, tensors[name + "post_attention_layernorm.weight"], eps)
        gate = h @ tensors[name + "mlp.gate_proj.weight"].T
        up = h @ tensors[name + "mlp.up_proj.weight"].T
        x = x + (gate / (1 + numpy.exp(-gate)) * up) @ tensors[name + "mlp.down_proj.weight"].T
    return norm(x, tensors["model.norm.weight"], eps) @ tensors["model.embed_tokens.weight"].T


def mean_nll(tensors, kv, config, owner_of, series):
    import numpy
    total = 0.0
    for begin in range(0, TOKENS, WINDOW):
        logits = forward(tensors, kv, config, owner_of, series[begin:begin + WINDOW]).astype("f8")
        targets = series[begin + 1:begin + WINDOW + 1]
        top = logits.max(axis=1, keepdims=True)
        log_sum = numpy.log(numpy.exp(logits - top).sum(axis=1)) + top[:, 0]
        total += (log_sum - logits[numpy.arange(WINDOW), targets]).sum()
    return total / TOKENS


def kvasir(program, source, output, arguments):
    result = subprocess.run([program, "convert", source, output, *arguments, "--score", CORPUS, "--window", str(WINDOW),
                             "--max_tokens", str(TOKENS), "--json", "--progress=false"],
                            capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    score = json.loads(result.stdout)["score"]
    assert score["after"]["tokens"] == TOKENS, score
    return score["before"]["nll_mean"], score["after"]["nll_mean"]


def main(binaries):
    import numpy
    import tokenizers
    source = MODELS / "tale-7m-mha"
    if not CORPUS.exists() or not source.exists():
        print("SKIPPED: no", source, "or", CORPUS)
        return 77
    config = json.loads((source / "config.json").read_text())
    tensors = read_safetensors(source / "model.safetensors")
    tokenizer = tokenizers.Tokenizer.from_file(str(source / "tokenizer.json"))
    series = numpy.array(tokenizer.encode(CORPUS.read_text()[:40000]).ids[:TOKENS + 1])
    faults = 0

    def compare(name, ours, reference):
        nonlocal faults
        difference = abs(ours - reference)
        faults += difference > TOLERANCE
        print(f"{name:12} kvasir {ours:.6f}  numpy {reference:.6f}  difference {difference:.1e}"
              f"{'  TOO LARGE' if difference > TOLERANCE else ''}")

    plain = convert(tensors, config, 8, lambda layer: layer, "first")
    reference_before = mean_nll(tensors, plain, config, lambda layer: layer, series)
    with tempfile.TemporaryDirectory() as folder:
        for name, (arguments, kv_heads, owner_of, merge) in CASES.items():
            before, after = kvasir(binaries / "kvasir", source, pathlib.Path(folder) / name, arguments)
            compare("mha", before, reference_before)
            kv = convert(tensors, config, kv_heads, owner_of, merge)
            compare(name, after, mean_nll(tensors, kv, config, owner_of, series))
        # GQA-4 on to MQA: the mean of means, rounded twice.
        _, after = kvasir(binaries / "kvasir", pathlib.Path(folder) / "gqa4", pathlib.Path(folder) / "twice",
                          ["--kv_heads", "1"])
        kv = convert(tensors, config, 1, lambda layer: layer, "first")
        compare("gqa4 -> mqa", after, mean_nll(tensors, kv, config, lambda layer: layer, series))
    return 1 if faults else 0


if __name__ == "__main__":
    enter_venv(pathlib.Path(sys.argv[2]))
    sys.exit(main(pathlib.Path(sys.argv[1])))
