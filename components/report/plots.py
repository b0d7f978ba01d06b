"""Plots as SVG text to stand inside a page. Colours follow the page's, in light and dark."""

import io
import re
import warnings
from collections.abc import Sequence
from typing import Any

import matplotlib

matplotlib.use("svg")
from matplotlib import pyplot as plt  # after the backend is chosen
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from components.report.numbers import LONGEST

# Each at least 3:1 against white and against the page's dark paper.
COLOURS = ("#1f6feb", "#b35900", "#1f883d")
WIDTH, HEIGHT = 4.6, 2.8  # inches: text stays legible when a phone shows it whole
LABEL = 24  # characters
FAR_APART = 20  # a linear axis would not show the smaller values
# Set once: ids that do not change from run to run, text that stays text, no date in the file.
plt.rcParams.update(
    {
        "svg.hashsalt": "report",
        "svg.fonttype": "none",
        "font.family": "sans-serif",
        "font.size": 9,
        "text.parse_math": False,
    }
)
# A group's bars: by name its value, and the interval around it where there is one.
Bars = dict[str, tuple[float, Sequence[float] | None]]


def lines(history: list[dict[str, float]], series: dict[str, str], label: str) -> str:
    """What training logged, by optimizer step; empty when it logged none of the series.

    Args:
        series: the field of an entry, and what the reader sees for it.
    """
    present = {name: [(entry["step"], entry[name]) for entry in history if name in entry] for name in series}
    if not any(present.values()):
        return ""
    figure, axes = _axes(HEIGHT)
    for colour, style, (name, points) in zip(COLOURS, ("-", "--", ":"), present.items(), strict=False):
        if points:
            marker = "o" if len(points) < 60 else None
            drawn = {"color": colour, "linestyle": style, "marker": marker, "markersize": 3}
            axes.plot(*zip(*points, strict=True), label=series[name], **drawn)
    axes.set_xlabel("optimizer step")
    axes.set_ylabel(label)
    if len(series) > 1:
        axes.legend(frameon=False)
    return _svg(figure)


def length_histogram(lengths: dict[str, Any], limit: int) -> str:
    """Records by length in tokens, with the length from which they are dropped."""
    figure, axes = _axes(HEIGHT)
    width, counts = lengths["width"], lengths["counts"]
    axes.bar([index * width for index in range(len(counts))], counts, width=width, align="edge", color=COLOURS[0])
    shown = len(counts) * width
    if limit <= shown:
        axes.axvline(limit, color=COLOURS[1], linestyle="--", label=f"dropped from {limit} tokens")
        axes.legend(frameon=False)
    axes.set_xlabel("tokens" + (f" ({lengths['beyond']} records are longer than shown)" if lengths["beyond"] else ""))
    axes.set_ylabel("records")
    return _svg(figure)


def bars(label: str, groups: dict[str, Bars], least: float = 0.0) -> str:
    """Horizontal bars by name, one colour a group; names that a group lacks take no bar.

    Args:
        least: the smallest value that there can be, where bars begin. Above 0, values that lie far apart get a
            logarithmic axis.
    """
    names = list(dict.fromkeys(name for group in groups.values() for name in group))
    if not names:
        return ""
    figure, axes = _axes(0.8 + 0.17 * len(names) * (len(groups) + 1))
    height = 0.8 / len(groups)
    for index, (group, values) in enumerate(groups.items()):
        present = [(row + index * height, *values[name]) for row, name in enumerate(names) if name in values]
        if present:
            _draw_bars(axes, present, least, height=height, label=group, color=COLOURS[index])
    drawn = [value for group in groups.values() for value, _ in group.values()]
    if least > 0 and max(drawn) > FAR_APART * min(drawn):
        axes.set_xscale("log")
        axes.set_xlim(left=least)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}" if value < LONGEST else f"{value:.0e}")
        axes.xaxis.set_minor_formatter(NullFormatter())
        label += " (logarithmic)"
    axes.set_yticks([row + height * (len(groups) - 1) / 2 for row in range(len(names))], [_short(n) for n in names])
    axes.invert_yaxis()
    axes.margins(x=0.2)
    axes.set_xlabel(label)
    if len(groups) > 1:
        axes.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.6 / figure.get_figheight()), ncols=3)
    return _svg(figure)


def _draw_bars(
    axes: Any, present: list[tuple[float, float, Sequence[float] | None]], least: float, **style: Any
) -> None:
    rows, widths, intervals = zip(*present, strict=True)
    errors = None
    if any(intervals):
        spans = zip(
            widths, (around or (width, width) for width, around in zip(widths, intervals, strict=True)), strict=True
        )
        # a bootstrap interval need not hold the point value
        errors = list(zip(*((max(0, width - low), max(0, high - width)) for width, (low, high) in spans), strict=True))
    whiskers = {"elinewidth": 1, "capsize": 2, "ecolor": "#000000"}
    drawn = axes.barh(rows, [width - least for width in widths], left=least, xerr=errors, error_kw=whiskers, **style)
    axes.bar_label(drawn, [f"{width:,.4g}" for width in widths], padding=3, fontsize=8)


def _short(name: str) -> str:
    """A name that leaves room for its bar; the tables have it whole."""
    return name if len(name) <= LABEL else name[: LABEL - 1] + "…"


def _axes(height: float) -> tuple[Figure, Any]:
    figure, axes = plt.subplots(figsize=(WIDTH, height), layout="constrained")
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _svg(figure: Figure) -> str:
    buffer = io.StringIO()
    with warnings.catch_warnings():
        # the reader's fonts draw the text, not ours
        warnings.filterwarnings("ignore", "Glyph .* missing from font", UserWarning)
        figure.savefig(
            buffer,
            format="svg",
            transparent=True,
            metadata={"Date": None, "Creator": None, "Format": None, "Type": None},
        )
    plt.close(figure)
    svg = buffer.getvalue()
    # only the drawing: a page needs no XML declaration; black becomes the page's own text colour; what the drawing
    # says stands in the figure's label and in tables
    svg = svg[svg.index("<svg") :].replace("#000000", "currentColor")
    svg = re.sub(r' id="[\w.]+_\d+"', "", svg)  # names of parts, which every drawing has
    return svg.replace("<svg ", '<svg fill="currentColor" aria-hidden="true" ', 1)


def own_ids(svg: str, prefix: str) -> str:
    """The drawing with ids that no other one on the page has."""
    return re.sub(r'( id="|href="#|url\(#)', rf"\g<1>{prefix}-", svg)
