"""python -m pipeline.docs: writes the README's table of parameters from pipeline.parameters."""

import argparse
import sys
from dataclasses import fields
from pathlib import Path

from pipeline.parameters import Parameters, allowed

README = Path(__file__).parents[1] / "README.md"
BEGIN, END = "<!-- parameters:begin -->", "<!-- parameters:end -->"


def table() -> str:
    """The parameters as a Markdown table."""
    lines = ["| parameter | default | allowed | what it does |", "|---|---|---|---|"]
    for entry in fields(Parameters):
        default = str(entry.default).lower() if isinstance(entry.default, bool) else str(entry.default)
        shown = f"`{default}`" if default else "empty"
        lines.append(f"| `{entry.name}` | {shown} | {allowed(entry)} | {entry.metadata['description']} |")
    return "\n".join(lines)


def rendered(text: str) -> str:
    """A document with the table between its markers renewed."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{table()}\n{END}{after}"


def main(argv: list[str] | None = None) -> int:
    """Returns the exit code: 0, or 1 when --check finds the README stale."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.docs", description="Write the README's parameter table.")
    parser.add_argument("--check", action="store_true", help="write nothing; fail when the table is stale")
    arguments = parser.parse_args(argv)
    present = README.read_text(encoding="utf-8")
    wanted = rendered(present)
    if arguments.check:
        if present != wanted:
            print(f"docs: {README} is stale; run python -m pipeline.docs and commit it", file=sys.stderr)
            return 1
    else:
        README.write_text(wanted, encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
