"""Plots as SVG text to stand inside a page. Colours follow the page's, in light and dark."""

import io
import warnings
from typing import Any

import matplotlib

matplotlib.use("svg")
from matplotlib import pyplot as plt  # after the backend is chosen
from matplotlib.figure import Figure

COLOURS = ("#1f6feb", "#d9822b", "#2da44e")
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


def curve(history: list[dict[str, float]]) -> str:
    """Training and held-out loss by optimizer step."""
    figure, axes = _axes(7, 3)
    for colour, name, label in zip(COLOURS, ("loss", "eval_loss"), ("training", "held out"), strict=False):
        points = [(entry["step"], entry[name]) for entry in history if name in entry]
        if points:
            axes.plot(*zip(*points, strict=True), label=label, color=colour, marker="o", markersize=3)
    axes.set_xlabel("optimizer step")
    axes.set_ylabel("loss (nats per target token)")
    axes.legend(frameon=False)
    return _svg(figure)


def length_histogram(lengths: dict[str, Any], limit: int) -> str:
    """Records by length in tokens, with the length from which they are dropped."""
    figure, axes = _axes(7, 3)
    width, counts = lengths["width"], lengths["counts"]
    axes.bar([index * width for index in range(len(counts))], counts, width=width, align="edge", color=COLOURS[0])
    shown = len(counts) * width
    if limit <= shown:
        axes.axvline(limit, color=COLOURS[1], linestyle="--", label=f"dropped from {limit} tokens")
        axes.legend(frameon=False)
    axes.set_xlabel("tokens" + (f" ({lengths['beyond']} records are longer than shown)" if lengths["beyond"] else ""))
    axes.set_ylabel("records")
    return _svg(figure)


def bars(label: str, groups: dict[str, dict[str, float]]) -> str:
    """Horizontal bars by name, one colour a group; names that a group lacks take no bar."""
    names = list(dict.fromkeys(name for group in groups.values() for name in group))
    if not names:
        return ""
    figure, axes = _axes(7, 0.8 + 0.16 * len(names) * (len(groups) + 1))
    height = 0.8 / len(groups)
    for index, (group, values) in enumerate(groups.items()):
        present = [(row + index * height, values[name]) for row, name in enumerate(names) if name in values]
        if present:
            rows, widths = zip(*present, strict=True)
            drawn = axes.barh(rows, widths, height=height, label=group, color=COLOURS[index])
            axes.bar_label(drawn, fmt=lambda value: f"{value:,.4g}", padding=3, fontsize=8)
    axes.set_yticks([row + height * (len(groups) - 1) / 2 for row in range(len(names))], names)
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.set_xlabel(label)
    axes.legend(frameon=False)
    return _svg(figure)


def _axes(width: float, height: float) -> tuple[Figure, Any]:
    figure, axes = plt.subplots(figsize=(width, height), layout="constrained")
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
    # only the drawing: a page needs no XML declaration; black becomes the page's own text colour
    return svg[svg.index("<svg") :].replace("#000000", "currentColor").replace("<svg ", '<svg fill="currentColor" ', 1)
