#!/usr/bin/env python3
"""Draws the Grafana dashboards without Grafana: every panel's own expressions, asked of a Prometheus server.

    deploy/grafana/render_panels.py --prometheus http://localhost:9090 --minutes 15 --output pictures

One PNG per dashboard (default: all in dashboards/ beside this file). Variables such as $model match everything. Panel
types: timeseries (lines or stacked), stat, heatmap, table. The exit code is 1 when an expression is refused or a panel
has no data; the picture is drawn all the same and the panel says so. Needs matplotlib (Debian: python3-matplotlib).
"""

import argparse
import datetime
import json
import math
import pathlib
import re
import sys
import textwrap
import time
import urllib.error
import urllib.parse
import urllib.request

import matplotlib

matplotlib.use("Agg")
from matplotlib import dates, pyplot, ticker
from PIL import Image

FOLDER = pathlib.Path(__file__).resolve().parent / "dashboards"
COLUMNS = 24  # Grafana's grid
WIDTH_INCHES, ROW_INCHES, HEAD_INCHES, DPI = 15.0, 0.34, 0.55, 100
# More than a pixel row per point would be wasted.
MOST_POINTS = 300
DASHED = (0, (5, 3))
INK, FAINT, FRAME = "#24292f", "#6e7781", "#d0d7de"
COLOURS = ["#1f78c1", "#e0752d", "#508642", "#ba43a9", "#c15c17", "#0a437c", "#e5ac0e", "#6d1f62", "#bf1b00", "#3f2b5b",
           "#447ebc", "#967302", "#58140c", "#2f575e", "#99440a", "#052b51"]


class Prometheus:
    """Asks the HTTP API; PrometheusError carries the server's own words."""

    def __init__(self, address, start, end, step):
        self.address, self.start, self.end, self.step = address.rstrip("/"), start, end, step

    def over_time(self, expression):
        """[(labels, [(unix seconds, value)])]"""
        data = self._get("/api/v1/query_range", query=expression, start=self.start, end=self.end, step=self.step)
        return [(series["metric"], [(at, float(value)) for at, value in series["values"]]) for series in data["result"]]

    def now(self, expression):
        """[(labels, value)] at the end of the time drawn."""
        data = self._get("/api/v1/query", query=expression, time=self.end)
        return [(sample["metric"], float(sample["value"][1])) for sample in data["result"]]

    def _get(self, path, **parameters):
        url = f"{self.address}{path}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(url, timeout=30) as response:
                return json.load(response)["data"]
        except urllib.error.HTTPError as error:
            raise PrometheusError(f"{parameters['query']}: {error.read().decode()}") from error
        except OSError as error:
            raise PrometheusError(f"{self.address}: {error}") from error


class PrometheusError(Exception):
    pass


def with_unit(value, unit):
    """A number as Grafana shows it in that unit, short."""
    if value is None or math.isnan(value):
        return "-"
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    if unit == "percentunit":
        return f"{short(100 * value)} %"
    if unit in ("bytes", "Bps"):
        powers, suffix = ["B", "KiB", "MiB", "GiB", "TiB"], "/s" if unit == "Bps" else ""
        power = min(len(powers) - 1, int(math.log(abs(value), 1024))) if abs(value) >= 1 else 0
        return f"{short(value / 1024**power)} {powers[power]}{suffix}"
    if unit == "s":
        for limit, factor, name in ((1e-3, 1e6, "µs"), (1, 1e3, "ms"), (math.inf, 1, "s")):
            if abs(value) < limit:
                return "0 s" if value == 0 else f"{short(value * factor)} {name}"
    suffix = {"reqps": " req/s", "ops": " /s"}.get(unit, "")
    for limit, name in ((1e9, " G"), (1e6, " M"), (1e4, " k")):
        if abs(value) >= limit:
            return f"{short(value / (1e3 if limit == 1e4 else limit))}{name}{suffix}"
    return f"{short(value)}{suffix}"


def short(value):
    """Three figures, whole numbers in full: 0.125, 12.5, 1250."""
    return f"{value:.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.3g}"


def is_limit(name):
    """The dashboards dash such series, and neither fill nor stack them."""
    return name.endswith(" limit")


def legend_of(target, labels):
    return re.sub(r"{{\s*(\w+)\s*}}", lambda found: labels.get(found[1], ""), target.get("legendFormat", ""))


class ByteLocator(ticker.Locator):
    """Ticks at powers of two: whole KiB, MiB, GiB."""

    def __call__(self):
        return self.tick_values(*self.axis.get_view_interval())

    def tick_values(self, vmin, vmax):
        step = 2 ** math.ceil(math.log2(max(vmax, 4) / 5))
        return [step * number for number in range(int(vmax / step) + 1)]


def draw_lines(axes, series, panel, unit):
    """`series`: [(legend, [(at, value)])]."""
    custom = panel["fieldConfig"]["defaults"].get("custom", {})
    stacked = custom.get("stacking", {}).get("mode") == "normal"
    opacity = custom.get("fillOpacity", 0) / 100
    moments = sorted({at for _, values in series for at, _ in values})
    times = [datetime.datetime.fromtimestamp(at) for at in moments]
    below = [0.0] * len(moments)
    for number, (name, values) in enumerate(series):
        known = dict(values)
        colour = COLOURS[number % len(COLOURS)]
        heights = [known.get(at, math.nan) for at in moments]
        if is_limit(name):
            axes.plot(times, heights, color=colour, linewidth=1.1, linestyle=DASHED)
        elif stacked:
            heights = [0.0 if math.isnan(height) else height for height in heights]
            top = [low + height for low, height in zip(below, heights)]
            axes.fill_between(times, below, top, color=colour, alpha=opacity, linewidth=0)
            axes.plot(times, top, color=colour, linewidth=0.8)
            below = top
        else:
            axes.plot(times, heights, color=colour, linewidth=1.3)
            axes.fill_between(times, 0, heights, color=colour, alpha=opacity / max(1, len(series)), linewidth=0)
    for step in panel["fieldConfig"]["defaults"].get("thresholds", {}).get("steps", []):
        if "thresholdsStyle" in custom and step["value"] is not None:
            axes.axhline(step["value"], color=step["color"], linewidth=1.1, linestyle=DASHED)
    axes.set_ylim(bottom=0)
    if axes.get_ylim()[1] < 1e-9:
        axes.set_ylim(top=1)
    by_bytes = unit in ("bytes", "Bps")
    axes.yaxis.set_major_locator(ByteLocator() if by_bytes else ticker.MaxNLocator(5, steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_formatter(lambda value, _: with_unit(value, unit))
    axes.grid(axis="y", color=FRAME, linewidth=0.6)


def legend_columns(names, width_inches):
    """How many names fit beside each other."""
    return max(1, min(len(names), int(72 * width_inches / (4.1 * max(map(len, names)) + 26))))


def draw_legend(axes, names, columns):
    """Below the axes."""
    handles = [pyplot.Line2D([], [], color=COLOURS[number % len(COLOURS)], linewidth=1.1 if is_limit(name) else 3,
                             linestyle=DASHED if is_limit(name) else "solid") for number, name in enumerate(names)]
    axes.legend(handles, names, loc="lower left", bbox_to_anchor=(0, 0), ncol=columns, frameon=False,
                fontsize=7, handlelength=1.1, columnspacing=1.2, labelspacing=0.25, handletextpad=0.5, labelcolor=INK,
                borderpad=0, borderaxespad=0)


def draw_heatmap(axes, series, unit):
    """`series`: [(upper edge as text, [(at, how many up to that edge)])], cumulative as Prometheus has them."""
    rows = sorted(series, key=lambda one: float(one[0]))
    moments = sorted({at for _, values in rows for at, _ in values})
    counts, below = [], [0.0] * len(moments)
    for _, values in rows:
        known = dict(values)
        upto = [known.get(at, 0.0) for at in moments]
        counts.append([max(0.0, now - low) for now, low in zip(upto, below)])
        below = upto
    used = [number for number, row in enumerate(counts) if any(row)]
    first, last = used[0], used[-1]
    times = [datetime.datetime.fromtimestamp(at) for at in moments]
    shown = [[count or math.nan for count in row] for row in counts[first:last + 1]]
    axes.pcolormesh(times, range(last + 1 - first), shown, cmap="Oranges", vmin=0, shading="nearest")
    axes.set_ylim(-0.5, last - first + 0.5)
    edges = [with_unit(float(edge), unit) for edge, _ in rows[first:last + 1]]
    every = math.ceil(len(edges) / 9)
    axes.set_yticks(range(0, len(edges), every), [f"≤ {edge}" for edge in edges[::every]])


def draw_stat(axes, value, unit):
    axes.axis("off")
    axes.text(0.5, 0.4, with_unit(value, unit), ha="center", va="center", fontsize=21, color=COLOURS[0], weight="bold")


def draw_table(axes, rows, width_inches):
    """`rows`: labels of each sample, as lines of text."""
    axes.axis("off")
    characters = int(72 * width_inches / 4.4)
    hidden = {"__name__", "job", "instance"}
    lines = []
    for labels in rows:
        lines.append(labels.get("model", ""))
        rest = [f"{name} {value}" for name, value in sorted(labels.items()) if name not in hidden | {"model"}]
        lines += textwrap.wrap(", ".join(rest), characters, initial_indent="    ", subsequent_indent="    ")
    axes.text(0, 0.97, "\n".join(lines), ha="left", va="top", fontsize=7.5, color=INK, linespacing=1.5)


class Board:
    """One dashboard on its way to a picture."""

    def __init__(self, path, prometheus, rate_interval):
        self.board = json.loads(path.read_text())
        self.prometheus = prometheus
        self.variables = {"__rate_interval": rate_interval}
        self.variables.update((variable["name"], ".*") for variable in self.board["templating"]["list"])
        self.problems = []

    def expression(self, target):
        return re.sub(r"\$(?:{(\w+)}|(\w+))", lambda found: self.variables[found[1] or found[2]], target["expr"])

    def render(self, path):
        rows = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in self.board["panels"])
        height = rows * ROW_INCHES + HEAD_INCHES
        figure = pyplot.figure(figsize=(WIDTH_INCHES, height), dpi=DPI, facecolor="white")
        ends = [datetime.datetime.fromtimestamp(at) for at in (self.prometheus.start, self.prometheus.end)]
        head = 1 - 0.55 * HEAD_INCHES / height
        figure.text(0.008, head, self.board["title"], fontsize=15, weight="bold", color=INK, va="center")
        figure.text(0.992, head, f"{ends[0]:%Y-%m-%d %H:%M:%S} to {ends[1]:%H:%M:%S}", fontsize=9, color=FAINT,
                    ha="right", va="center")
        for panel in self.board["panels"]:
            self._panel(figure, panel, height, ends)
        figure.canvas.draw()
        # 256 colours are plenty for charts, and make a third of the file.
        Image.frombuffer("RGBA", figure.canvas.get_width_height(), figure.canvas.buffer_rgba()).convert("RGB").quantize(
            256, dither=Image.Dither.NONE).save(path, optimize=True)
        pyplot.close(figure)
        return self.problems

    def _panel(self, figure, panel, height, ends):
        place, gap = panel["gridPos"], 0.05
        left, width = place["x"] / COLUMNS * WIDTH_INCHES + gap, place["w"] / COLUMNS * WIDTH_INCHES - 2 * gap
        tall = place["h"] * ROW_INCHES - 2 * gap
        bottom = height - HEAD_INCHES - (place["y"] + place["h"]) * ROW_INCHES + gap

        def box(x, y, w, h):  # inches within the panel to shares of the figure
            return [(left + x) / WIDTH_INCHES, (bottom + y) / height, w / WIDTH_INCHES, h / height]

        x, y, w, h = box(0, 0, width, tall)
        figure.patches.append(pyplot.Rectangle((x, y), w, h, transform=figure.transFigure, fill=False, edgecolor=FRAME,
                                               linewidth=0.8))
        title = box(0.12, tall - 0.17, 0, 0)
        figure.text(title[0], title[1], panel["title"], fontsize=9.5, weight="bold", color=INK, va="center")
        try:
            series = self._series(panel)
        except PrometheusError as error:
            series = []
            self.problems.append(f"{self.board['title']}: {panel['title']}: {error}")
        if not series:
            self.problems.append(f"{self.board['title']}: {panel['title']}: no data")
            figure.text(*box(width / 2, tall / 2, 0, 0)[:2], "no data", ha="center", va="center", color=FAINT,
                        fontsize=10)
            return
        unit = panel["fieldConfig"]["defaults"].get("unit", "none")
        kind = panel["type"]
        if kind in ("stat", "table"):
            axes = figure.add_axes(box(0.15, 0.1, width - 0.3, tall - 0.45))
            if kind == "stat":
                draw_stat(axes, [value for _, value in series[0][1] if math.isfinite(value)][-1], unit)
            else:
                draw_table(axes, [labels for labels, _ in series], width - 0.3)
            return
        names = [name for name, _ in series] if kind == "timeseries" else []
        columns = legend_columns(names, width - 0.3) if names else 0
        rows = math.ceil(len(names) / columns) if names else 0
        below = 0.34 + 0.123 * rows
        axes = figure.add_axes(box(0.78, below, width - 0.95, tall - 0.38 - below))
        if kind == "heatmap":
            draw_heatmap(axes, series, panel["options"]["yAxis"]["unit"])
        elif kind == "timeseries":
            draw_lines(axes, series, panel, unit)
            hidden = figure.add_axes(box(0.15, 0.07, width - 0.3, 0.123 * rows))
            hidden.axis("off")
            draw_legend(hidden, names, columns)
        else:
            raise ValueError(f"{panel['title']}: panels of type {kind} cannot be drawn")
        axes.set_xlim(*ends)
        axes.xaxis.set_major_locator(dates.AutoDateLocator(minticks=3, maxticks=6))
        axes.xaxis.set_major_formatter(dates.DateFormatter("%H:%M:%S"))
        axes.tick_params(colors=FAINT, labelsize=7.5, length=2)
        for spine in axes.spines.values():
            spine.set_visible(False)

    def _series(self, panel):
        """[(legend, [(at, value)])], of a table [(labels, value)]; empty when there is nothing to show."""
        if panel["type"] == "table":
            return [sample for target in panel["targets"] for sample in self.prometheus.now(self.expression(target))]
        series = []
        for target in panel["targets"]:
            series += sorted((legend_of(target, labels), values) for labels, values in
                             self.prometheus.over_time(self.expression(target))
                             if any(math.isfinite(value) for _, value in values))
        nonzero = [one for one in series if any(value and math.isfinite(value) for _, value in one[1])]
        if panel["type"] == "heatmap":
            return series if nonzero else []
        # A long legend of lines that lie on the axis hides the others.
        return nonzero if nonzero and len(series) > 4 else series


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prometheus", default="http://localhost:9090", metavar="URL", help="default %(default)s")
    parser.add_argument("--minutes", type=float, default=15, help="how far back from --end, default %(default)s")
    parser.add_argument("--end", type=float, default=None, metavar="UNIX_SECONDS", help="default now")
    parser.add_argument("--rate_interval", default="1m", help="of rates, at least four scrapes; default %(default)s")
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("."), metavar="FOLDER")
    parser.add_argument("dashboards", nargs="*", type=pathlib.Path, metavar="DASHBOARD.json")
    arguments = parser.parse_args()

    end = arguments.end or time.time()
    start = end - 60 * arguments.minutes
    prometheus = Prometheus(arguments.prometheus, start, end, max(0.2, (end - start) / MOST_POINTS))
    arguments.output.mkdir(parents=True, exist_ok=True)
    problems = []
    for path in arguments.dashboards or sorted(FOLDER.glob("*.json")):
        picture = arguments.output / f"{path.stem}.png"
        problems += Board(path, prometheus, arguments.rate_interval).render(picture)
        print(picture)
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
