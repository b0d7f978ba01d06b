"""Two runs side by side: what they were given, and what they measured."""

import re
from typing import Any

from pipeline.kfp_api import Api
from pipeline.kfp_faults import NotFoundError
from pipeline.runs import get_run, log_of, rows, spec_of_run

# KFP's REST API tells no metrics, and logs it does tell: these are the lines that the steps print.
FIGURES = {
    "ingest": [
        r"(?P<rows>\d+) rows = (?P<records>\d+) records \+ (?P<rejected>\d+) rejected \+ (?P<removed>\d+) removed"
    ],
    "split": [r"(?P<train>\d+) train, (?P<test>\d+) test, (?P<removed>\d+) removed"],
    "train": [r"(?P<steps>\d+) steps, loss (?P<loss>[\d.]+), (?P<tokens_per_second>\d+) tokens/s"],
    "evaluate": [r"(?P<_model>.+) perplexity (?P<perplexity>[\d.]+|–), (?P<bits_per_byte>[\d.]+) bits per byte"],
    "gate": [r"(?P<verdict>\w+); "],
    "register": [r"(?P<registered>\S+ version \d+)"],
}
SAME, DIFFERENT = "", "*"


def figures_in(step: str, lines: list[str]) -> dict[str, str]:
    """The figures that a step printed, by step.name, or step.model.name where it measures several models."""
    found: dict[str, str] = {}
    for line in (part.strip() for text in lines for part in text.split("\r")):  # progress bars end with \r
        said = line.removeprefix(f"{step}: ")
        for pattern in FIGURES[step] if said != line else []:
            match = re.match(pattern, said)
            values = match.groupdict() if match else {}
            model = values.pop("_model", "")
            found |= {".".join(filter(None, (step, model, name))): value for name, value in values.items()}
    return found


def compare(api: Api, first: str, second: str, everything: bool = False) -> list[tuple[str, str, str, str]]:
    """Rows of a table: name, the first run's value, the second's, and a mark where they differ.

    Args:
        everything: also the parameters that are the same.
    """
    sides = [_side(api, get_run(api, run_id)) for run_id in (first, second)]
    table = []
    for section in ("run", "parameter", "metric"):
        names = list(dict.fromkeys(name for side in sides for name in side[section]))
        for name in names:
            one, other = (str(side[section].get(name, "-")) for side in sides)
            if one != other or everything or section != "parameter":
                table.append((name, one, other, SAME if one == other else DIFFERENT))
    return table


def _side(api: Api, run: Any) -> dict[str, dict[str, str]]:
    spec = spec_of_run(api, run)
    known = spec.get("root", {}).get("inputDefinitions", {}).get("parameters", {})
    given = (run.runtime_config.parameters if run.runtime_config else None) or {}
    parameters = {name: _plain(given.get(name, entry.get("defaultValue"))) for name, entry in known.items()} or {
        name: _plain(value) for name, value in given.items()
    }
    metrics: dict[str, str] = {}
    for row in rows(run, spec):
        if row.step in FIGURES:
            try:
                metrics |= figures_in(row.step, list(log_of(api, run, row.step)))
            except NotFoundError as error:
                api.say(str(error))
    about = {"name": run.display_name, "state": run.state, "created": f"{run.created_at:%Y-%m-%d %H:%M}"}
    return {"run": about, "parameter": parameters, "metric": metrics}


def _plain(value: Any) -> str:
    """A value as a person writes it: KFP keeps whole numbers as 2.0, and truth as True."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    return "(empty)" if value == "" else str(value)


def as_text(table: list[tuple[str, str, str, str]], heads: tuple[str, str]) -> str:
    """The table as text, in columns; a long value is cut in its middle."""
    shown = [("", *heads, ""), *((name, _cut(one), _cut(other), mark) for name, one, other, mark in table)]
    widths = [max(len(row[column]) for row in shown) for column in range(3)]
    return "\n".join(
        "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[3]]).rstrip()
        for row in shown
    )


def _cut(value: str, most: int = 44) -> str:
    value = " ".join(value.split())
    return value if len(value) <= most else f"{value[: most // 2 - 1]}…{value[-most // 2 :]}"
