"""What peers.py has measured: a file of JSON lines that a later run goes on with, and the table made of it. No engine is
needed for it.

A line says one measurement (engine, weights, measure, round, tokens_per_second and what else is known of it), one of the
machine's limits (measure "limits"), or why a part did not run ("failed"). A part is what one process measures: an
engine with one kind of weights, or its server."""

import json
import pathlib
import statistics

PREFILLS, STREAMS, SERVER_STREAMS = (512, 2048), (1, 8, 16, 32), 16
MEASURES = [f"prefill {n}" for n in PREFILLS] + [f"decode {n}" for n in STREAMS] + [f"server {SERVER_STREAMS}"]
FORMATS = ("bf16", "int8", "int4")


class Results:
    def __init__(self, path):
        self.path = pathlib.Path(path)
        self.lines = read(self.path.read_text()) if self.path.exists() else []

    def add(self, line):
        self.lines.append(line)
        with open(self.path, "a") as file:
            file.write(json.dumps(line) + "\n")

    def is_done(self, part, round_number, retry=False):
        """Whether this part's round has its end, or its failure unless those are tried again."""
        return any(line.get("part") == part and (line.get("round") == round_number and line.get("ended")
                                                 or not retry and "failed" in line) for line in self.lines)


def read(text):
    """The lines of a results file; the last may be cut where a run was killed."""
    lines = []
    for number, line in enumerate(rows := text.splitlines()):
        try:
            lines.append(json.loads(line))
        except ValueError:
            if number + 1 < len(rows):
                raise
    return lines


def order(parts, rounds):
    """(round, part) in the order of running: rounds go forwards and backwards by turns, so that a drift of the machine
    favours nobody."""
    for number in range(1, rounds + 1):
        for part in parts if number % 2 else reversed(parts):
            yield number, part


def columns(lines):
    """{(format, engine, weights): {measure: [values over the rounds]}}"""
    table = {}
    for line in lines:
        if line.get("measure") in MEASURES:
            row = table.setdefault((line["format"], line["engine"], line["weights"]), {})
            row.setdefault(line["measure"], []).append(line["tokens_per_second"])
    return table


def figure(values):
    """median, and least to most where there are several"""
    middle = statistics.median(values)
    digits = 0 if middle >= 100 else 1
    text = f"{middle:.{digits}f}"
    if len(values) == 1:
        return text
    return f"{text} ({min(values):.{digits}f}–{max(values):.{digits}f})"


def table(lines):
    """Markdown: a row for each engine and its weights, by bits; of each column and bits the best is bold."""
    rows = columns(lines)
    measures = [measure for measure in MEASURES if any(measure in row for row in rows.values())]
    text = ["| | " + " | ".join(measures) + " |", "|---|" + "---:|" * len(measures)]
    for bits in FORMATS:
        keys = [key for key in rows if key[0] == bits]
        best = {measure: max((statistics.median(rows[key][measure]) for key in keys if measure in rows[key]), default=None)
                for measure in measures}
        for key in sorted(keys, key=lambda key: (key[1] != "Kvasir", key)):
            cells = []
            for measure in measures:
                values = rows[key].get(measure)
                if values is None:
                    cells.append("")
                    continue
                bold = "**" if statistics.median(values) == best[measure] else ""
                cells.append(bold + figure(values) + bold)
            text.append(f"| {key[1]} {key[2]} | " + " | ".join(cells) + " |")
    return "\n".join(text) + "\n"


def first_tokens(lines):
    """{(engine, weights): median of the servers' median times to the first token, seconds}"""
    times = {}
    for line in lines:
        if "first_token_seconds" in line:
            times.setdefault((line["engine"], line["weights"]), []).append(line["first_token_seconds"])
    return {key: statistics.median(values) for key, values in times.items()}


def ratios(lines):
    """Markdown: Kvasir's best of each number of bits over the best peer's, medians."""
    rows = columns(lines)
    text = ["| Kvasir over the best peer | " + " | ".join(MEASURES) + " |", "|---|" + "---:|" * len(MEASURES)]
    for bits in FORMATS:
        cells = []
        for measure in MEASURES:
            sides = {True: 0, False: 0}
            for (key_bits, engine, _), row in rows.items():
                if key_bits == bits and measure in row:
                    ours = engine == "Kvasir"
                    sides[ours] = max(sides[ours], statistics.median(row[measure]))
            cells.append(f"{sides[True] / sides[False]:.2f}" if sides[True] and sides[False] else "")
        text.append(f"| {bits} | " + " | ".join(cells) + " |")
    return "\n".join(text) + "\n"


def limits(lines):
    """What the machine could do, as said beside each round of Kvasir: (least, most) of each limit."""
    said = [line for line in lines if line.get("measure") == "limits"]
    spans = {}
    for line in said:
        for name in ("read_gigabytes_per_second", "bf16_gigaops_per_second", "int8_gigaops_per_second"):
            if line.get(name):
                low, high = spans.get(name, (line[name], line[name]))
                spans[name] = (min(low, line[name]), max(high, line[name]))
    return spans


def report(lines, versions):
    text = [table(lines), ratios(lines)]
    times = first_tokens(lines)
    if times:
        text.append("Time to the first token through the servers, ms: " + ", ".join(
            f"{engine} {weights} {1e3 * seconds:.0f}" for (engine, weights), seconds in sorted(times.items())) + "\n")
    names = {"read_gigabytes_per_second": "reads, GB/s", "bf16_gigaops_per_second": "bf16 product, GFLOP/s",
             "int8_gigaops_per_second": "int8 product, GOP/s"}
    spans = limits(lines)
    if spans:
        text.append("The machine meanwhile: " + ", ".join(
            f"{names[name]} {low:.0f} to {high:.0f}" for name, (low, high) in spans.items()) + "\n")
    if versions:
        text.append("Versions: " + ", ".join(f"{name} {version}" for name, version in sorted(versions.items())) + "\n")
    for why in dict.fromkeys(line["failed"] for line in lines if "failed" in line):
        text.append(f"Not measured: {why}\n")
    return "\n".join(text)
