#!/usr/bin/python3
"""What sparse attention costs in quality: measures, and writes quality.jsonl, quality.md and quality.svg.

    tests/bench/quality.py --models ../shared/models --text ../shared/corpus/test.txt --out tests/bench/results
    tests/bench/quality.py --draw --out tests/bench/results      # table and plot of an earlier run again

Repetition and needle: on models made by made_models/recall_model.py, in each sharing scheme. NLL: on trained models. Every row comes
from kvasir-quality-bench, whose source defines the tasks; README.md beside this file says what they show. Needs Debian's
python3-numpy and python3-matplotlib.
"""
import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
BIN = pathlib.Path(os.environ.get("KVASIR_BIN", ROOT / "build" / "release" / "bin"))
RECALL = {"MHA": ("mha", "peaked"), "GQA": ("gqa", "peaked"), "MQA": ("mqa", "peaked"), "GQA + CLA": ("cla", "peaked"),
          "MHA, spread": ("mha", "spread"), "GQA, spread": ("gqa", "spread")}
TRAINED = ("tale-7m-mha", "tale-7m-gqa2", "tale-7m-gqa2-cla2")
TITLES = {"repetition": "Repetition: characters copied before the first wrong one, of 256",
          "needle": "Needle: share of exact answers",
          "nll": "NLL: nats per token above dense attention"}
# Not from a palette: SparQ and its variants are of one hue, and what they are compared with is not.
STYLES = {"SparQ": ("#08519c", "-", "o"), "SparQ, corrected mean": ("#3182bd", "--", "s"),
          "SparQ, adaptive k": ("#6baed6", "-.", "^"), "SparQ, selection reuse": ("#54278f", ":", "D"),
          "exact top-k (oracle)": ("#31a354", "-", "v"), "Quest": ("#e6550d", "-", "P"),
          "window and sinks": ("#a50f15", "-", "X")}


def bench(model, folder, text, tasks, *flags):
    command = [BIN / "kvasir-quality-bench", "--model", folder, "--text", text, "--tasks", tasks,
               "--compressions", "2,4,8,16", *flags]
    print(" ".join(map(str, command)), file=sys.stderr)
    # On busy cores, threads that spin between parallel regions take them from those that work.
    environment = {"OMP_WAIT_POLICY": "passive", **os.environ}
    output = subprocess.run(list(map(str, command)), stdout=subprocess.PIPE, text=True, check=True, env=environment).stdout
    return [{"model": model, **json.loads(line)} for line in output.splitlines()]


def measure(models, text, samples, windows):
    rows = []
    tokenizer = ROOT / "deploy" / "models" / "tale-7m-gqa2"
    with tempfile.TemporaryDirectory() as folder:
        for model, (scheme, heads) in RECALL.items():
            made = pathlib.Path(folder) / f"{scheme}-{heads}"
            subprocess.run([sys.executable, "-B", HERE / "made_models/recall_model.py", "--scheme", scheme, "--heads", heads,
                            "--tokenizer", tokenizer, "--out", made], check=True)
            for task in ("repetition", "needle"):
                rows += bench(model, made, text, task, "--samples", samples)
    for model in TRAINED:
        rows += bench(model, models / model, text, "nll", "--windows", windows)
    return rows


class Figures:
    """The rows by task, model, method and compression."""

    def __init__(self, rows):
        self.rows = {(r["task"], r["model"], r["method"], r["compression"]): r for r in rows}
        self.compressions = sorted({r["compression"] for r in rows} - {1})
        self.methods = [m for m in STYLES if any(r["method"] == m for r in rows)]

    def models(self, task):
        return list(dict.fromkeys(model for of, model, _, _ in self.rows if of == task))

    def dense(self, task, model):
        return self.rows[task, model, "dense", 1]

    def score(self, task, model, method, compression):
        """None where it was not measured. Of nll, what is above dense attention's."""
        row = self.rows.get((task, model, method, compression))
        if row is None:
            return None
        return row["score"] - (self.dense(task, model)["score"] if task == "nll" else 0)

    def share(self, model, method, compression):
        for task in TITLES:
            if (task, model, method, compression) in self.rows:
                return self.rows[task, model, method, compression]["bytes_share"]
        return None


def cells(values, form):
    if all(value is None for value in values):
        return "–"
    return " · ".join("–" if value is None else format(value, form) for value in values)


def table(figures):
    ratios = " · ".join(f"1/{c}" for c in figures.compressions)
    lines = ["# Quality of sparse attention", "",
             "Made by `tests/bench/quality.py`; `README.md` in the folder above says what it shows. "
             f"Each cell: compression {ratios}.", ""]
    for task, form in (("repetition", ".0f"), ("needle", ".2f"), ("nll", "+.4f")):
        models = figures.models(task)
        count = figures.dense(task, models[0])["count"]
        lines += [f"## {TITLES[task]}", "", f"{count} {'tokens' if task == 'nll' else 'samples'} each.", "",
                  "| method | " + " | ".join(models) + " |", "|---" * (len(models) + 1) + "|",
                  "| dense | " + " | ".join(format(figures.dense(task, m)["score"], form.replace("+", "")) for m in models)
                  + " |"]
        for method in figures.methods:
            lines.append(f"| {method} | " + " | ".join(
                cells([figures.score(task, model, method, c) for c in figures.compressions], form)
                for model in models) + " |")
        lines.append("")
    models = list(dict.fromkeys(m for task in TITLES for m in figures.models(task)))
    lines += ["## K/V bytes read, as a share of dense attention's", "",
              "| method | " + " | ".join(models) + " |", "|---" * (len(models) + 1) + "|"]
    for method in figures.methods:
        lines.append(f"| {method} | " + " | ".join(
            cells([figures.share(model, method, c) for c in figures.compressions], ".2f") for model in models) + " |")
    return "\n".join(lines) + "\n"


def draw(figures, path):
    import matplotlib
    matplotlib.use("svg")
    # The same figures make the same file, and text stays text.
    matplotlib.rcParams.update({"svg.hashsalt": "kvasir", "svg.fonttype": "none"})
    from matplotlib import pyplot
    columns = max(len(figures.models(task)) for task in TITLES)
    canvas, axes = pyplot.subplots(len(TITLES), columns, figsize=(3.3 * columns, 3 * len(TITLES)), squeeze=False)
    lines = {}
    for task, row in zip(TITLES, axes):
        for model, axis in zip(figures.models(task), row):
            if task != "nll":
                axis.axhline(figures.dense(task, model)["score"], color="#636363", linewidth=1, label="dense")
                axis.set_ylim(0, 1.05 if task == "needle" else 262)
            else:
                axis.axhline(0, color="#636363", linewidth=1, label="dense")
            for method in figures.methods:
                points = [(c, s) for c in figures.compressions
                          if (s := figures.score(task, model, method, c)) is not None]
                if points:
                    color, line, marker = STYLES[method]
                    axis.plot(*zip(*points), color=color, linestyle=line, marker=marker, markersize=5, label=method)
            axis.set_xscale("log", base=2)
            axis.set_xticks(figures.compressions, [f"1/{c}" for c in figures.compressions])
            axis.set_title(f"{task}: {model}", fontsize=9)
            axis.tick_params(labelsize=8)
            axis.grid(alpha=0.3)
            lines.update(zip(*reversed(axis.get_legend_handles_labels())))
        for axis in row[len(figures.models(task)):]:
            axis.axis("off")
    canvas.supxlabel("compression: K/V bytes read over dense attention's, as asked for", fontsize=9)
    axes[-1][-1].legend(lines.values(), lines.keys(), loc="center", fontsize=9, frameon=False)
    canvas.tight_layout()
    canvas.savefig(path, metadata={"Date": None})


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", type=pathlib.Path, default=ROOT.parent / "shared" / "models",
                        help="folder of " + ", ".join(TRAINED))
    parser.add_argument("--text", type=pathlib.Path, default=ROOT.parent / "shared" / "corpus" / "test.txt")
    parser.add_argument("--samples", type=int, default=48, help="of repetition and needle")
    parser.add_argument("--windows", type=int, default=8, help="of nll, 2048 tokens each")
    parser.add_argument("--draw", action="store_true", help="measure nothing: take quality.jsonl from --out")
    parser.add_argument("--out", type=pathlib.Path, required=True)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    measured = args.out / "quality.jsonl"
    if not args.draw:
        rows = measure(args.models, args.text, args.samples, args.windows)
        measured.write_text("".join(json.dumps(row) + "\n" for row in rows))
    figures = Figures([json.loads(line) for line in measured.read_text().splitlines()])
    (args.out / "quality.md").write_text(table(figures))
    draw(figures, args.out / "quality.svg")


if __name__ == "__main__":
    main()
