#!/usr/bin/env python3
"""What `kvasir convert` does to a model before any training: negative log-likelihood against K/V bytes per token, beside
the ladder of models that were trained on after the same conversions. Writes docs/convert-ladder.svg and prints the
table of docs/convert.md.

    KVASIR_MODELS=... tests/bench/convert_ladder.py [BIN]    BIN: folder of kvasir, default build/release/bin

Every model is scored in f32 on the first 16,384 tokens of ../corpus/test.txt, windows of 512, as the trained models'
golden.json were. A few minutes.
"""

import json
import math
import os
import pathlib
import subprocess
import sys
import tempfile

SOURCE = pathlib.Path(__file__).resolve().parents[2]
MODELS = pathlib.Path(os.environ.get("KVASIR_MODELS", SOURCE.parent / "shared" / "models"))
CORPUS = MODELS.parent / "corpus" / "test.txt"
WINDOW, TOKENS = 512, 16384

# Name, flags, and the model that was trained on from there.
RECIPES = [
    ("gqa4", ["--kv_heads", "4"], "tale-7m-gqa4"),
    ("gqa2", ["--kv_heads", "2"], "tale-7m-gqa2"),
    ("mqa", ["--kv_heads", "1"], "tale-7m-mqa"),
    ("gqa4, first heads", ["--kv_heads", "4", "--heads", "first"], None),
    ("gqa4, random heads", ["--kv_heads", "4", "--heads", "random"], None),
    ("cla2", ["--cla", "2"], None),
    ("gqa2 + cla2", ["--kv_heads", "2", "--cla", "2"], "tale-7m-gqa2-cla2"),
    ("mqa + cla2", ["--kv_heads", "1", "--cla", "2"], "tale-7m-mqa-cla2"),
    ("mlkv4", ["--kv_heads", "1", "--mlkv", "4"], "tale-7m-mlkv4"),
    ("mlkv2, running mean", ["--kv_heads", "1", "--mlkv", "2", "--layers", "running_mean"], None),
    ("mlkv2", ["--kv_heads", "1", "--mlkv", "2"], "tale-7m-mlkv2"),
    ("mlkv1", ["--kv_heads", "1", "--mlkv", "1"], "tale-7m-mlkv1"),
]


def trained_nll(model):
    return json.loads((MODELS / model / "golden.json").read_text())["nll"][f"window_{WINDOW}"]


def score(binaries, address, model):
    result = subprocess.run([binaries / "kvasir", "score", "--server", address, "--model", model, "--file", CORPUS,
                             "--window", str(WINDOW), "--max_tokens", str(TOKENS), "--json", "--progress=false"],
                            check=True, stdout=subprocess.PIPE)
    return json.loads(result.stdout)["nll_mean"]


def measure(binaries):
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        models = {"source": MODELS / "tale-7m-mha"}
        for number, (name, flags, trained) in enumerate(RECIPES):
            models[f"m{number}"] = pathlib.Path(folder) / f"m{number}"
            command = [binaries / "kvasir", "convert", models["source"], models[f"m{number}"], *flags, "--json",
                       "--progress=false"]
            report = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
            rows.append({"name": name, "flags": " ".join(flags), "report": report,
                         "resident": report["result"]["kv_bytes_per_token_resident"],
                         "trained": trained and trained_nll(trained)})
        command = [binaries / "kvasird", "--listen", "127.0.0.1:0", "--http_listen", "off", "--metrics_listen", "off",
                   "--compute_type", "f32", "--kv_capacity_bytes", "64MiB"]
        for name, path in models.items():
            command += ["--model", f"{name}={path}"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as daemon:
            try:
                line = next(line for line in daemon.stdout if line.startswith("listening grpc="))
                address = line.split()[1].removeprefix("grpc=")
                before = score(binaries, address, "source")
                for number, row in enumerate(rows):
                    row["before"], row["after"] = before, score(binaries, address, f"m{number}")
                    print(f"{row['name']}: {row['after']:.4f}", file=sys.stderr, flush=True)
            finally:
                daemon.kill()
    return rows


def table(rows):
    lines = ["| `kvasir convert tale-7m-mha OUT ...` | K/V bytes per token | read per step | weights | NLL | after training |",
             "|---|---:|---:|---:|---:|---:|"]

    def line(name, side, nll, trained):
        lines.append(f"| {name} | {side['kv_bytes_per_token_resident']} | {side['kv_bytes_per_token_read']} | "
                     f"{side['weight_bytes'] / 1e6:.1f} MB | {nll:.4f} | {trained} |")

    line("(the source, MHA)", rows[0]["report"]["source"], rows[0]["before"], "")
    for row in rows:
        line(f"`{row['flags']}`", row["report"]["result"], row["after"], f"{row['trained']:.4f}" if row["trained"] else "")
    return "\n".join(lines)


def plot(rows):
    """An SVG of two ladders; log2 of bytes to the right, NLL upwards."""
    width, height, left, bottom, top, right = 720, 400, 60, 50, 20, 150
    source = rows[0]["before"]
    points = [(row["resident"], row["after"]) for row in rows] + [(8192, source)]
    points += [(row["resident"], row["trained"]) for row in rows if row["trained"]]
    low = math.floor(min(nll for _, nll in points) * 5) / 5
    high = math.ceil(max(nll for _, nll in points) * 5) / 5
    lowest, highest = (math.log2(f(b for b, _ in points)) for f in (min, max))

    def x(resident):
        return left + (math.log2(resident) - lowest) / (highest - lowest) * (width - left - right)

    def y(nll):
        return height - bottom - (nll - low) / (high - low) * (height - top - bottom)

    svg = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" '
           'font-size="12">', f'<rect width="{width}" height="{height}" fill="white"/>']
    for power in range(round(lowest), round(highest) + 1):
        at = x(2 ** power)
        svg.append(f'<path d="M{at:.0f} {top}V{height - bottom}" stroke="#eee"/>'
                   f'<text x="{at:.0f}" y="{height - bottom + 18}" text-anchor="middle">{2 ** power}</text>')
    for step in range(round(low * 5), round(high * 5) + 1):
        at = y(step / 5)
        svg.append(f'<path d="M{left} {at:.0f}H{width - right}" stroke="#eee"/>'
                   f'<text x="{left - 8}" y="{at + 4:.0f}" text-anchor="end">{step / 5:.1f}</text>')
    svg.append(f'<text x="{(left + width - right) / 2:.0f}" y="{height - 12}" text-anchor="middle">K/V bytes per token, '
               'resident (bf16)</text>')
    svg.append(f'<text x="14" y="{height / 2:.0f}" transform="rotate(-90 14 {height / 2:.0f})" '
               'text-anchor="middle">NLL, nats per token</text>')
    svg.append(f'<circle cx="{x(8192):.0f}" cy="{y(source):.0f}" r="5" fill="black"/>'
               f'<text x="{x(8192) + 9:.0f}" y="{y(source) + 4:.0f}">source (MHA)</text>')
    main = [row for row in rows if row["trained"]]
    for key, colour, title in (("after", "#c0392b", "converted"), ("trained", "#2471a3", "and trained on")):
        for row in main:
            svg.append(f'<circle cx="{x(row["resident"]):.0f}" cy="{y(row[key]):.0f}" r="4" fill="{colour}"/>')
        first = main[0]
        svg.append(f'<text x="{x(first["resident"]) + 9:.0f}" y="{y(first[key]) + 4:.0f}" fill="{colour}">{title}</text>')
    for row in main:
        svg.append(f'<path d="M{x(row["resident"]):.0f} {y(row["after"]):.0f}V{y(row["trained"]):.0f}" stroke="#ccc" '
                   'stroke-dasharray="3 3"/>')
        # Above the point, and below it where another of as many bytes has its name.
        aside = 14 if any(other["resident"] == row["resident"] for other in main[:main.index(row)]) else -8
        svg.append(f'<text x="{x(row["resident"]) + 6:.0f}" y="{y(row["after"]) + aside:.0f}" fill="#555" '
                   f'font-size="10">{row["name"]}</text>')
    for row in rows:
        if not row["trained"]:
            svg.append(f'<circle cx="{x(row["resident"]):.0f}" cy="{y(row["after"]):.0f}" r="4" fill="none" '
                       'stroke="#c0392b"/>'
                       f'<text x="{x(row["resident"]) + 6:.0f}" y="{y(row["after"]) + 14:.0f}" fill="#555" '
                       f'font-size="10">{row["name"]}</text>')
    return "\n".join(svg + ["</svg>"]) + "\n"


def main():
    rows = measure(pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else SOURCE / "build/release/bin")
    (SOURCE / "docs/convert-ladder.svg").write_text(plot(rows))
    print(table(rows))


if __name__ == "__main__":
    main()
