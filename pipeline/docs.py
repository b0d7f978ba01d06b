"""python -m pipeline.docs: writes what documents show of the code: the table of parameters, the picture of steps."""

import argparse
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

from pipeline.compile import COMMITTED
from pipeline.packages import read_package
from pipeline.parameters import Parameters, allowed
from pipeline.picture import as_mermaid

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
DOCUMENTS = (README, ROOT / "docs" / "ui.md")


def table() -> str:
    """The parameters as a Markdown table."""
    lines = ["| parameter | default | allowed | what it does |", "|---|---|---|---|"]
    for entry in fields(Parameters):
        default = str(entry.default).lower() if isinstance(entry.default, bool) else str(entry.default)
        shown = f"`{default}`" if default else "empty"
        lines.append(f"| `{entry.name}` | {shown} | {allowed(entry)} | {entry.metadata['description']} |")
    return "\n".join(lines)


def picture() -> str:
    """The steps of the shipped pipeline, drawn from its YAML."""
    return f"```mermaid\n{as_mermaid(read_package(COMMITTED).spec)}\n```"


SECTIONS: dict[str, Callable[[], str]] = {"parameters": table, "picture": picture}


def rendered(text: str) -> str:
    """A document with what stands between its markers renewed."""
    for name, write in SECTIONS.items():
        begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
        if begin in text:
            before, _, rest = text.partition(begin)
            _, _, after = rest.partition(end)
            text = f"{before}{begin}\n{write()}\n{end}{after}"
    return text


def main(argv: list[str] | None = None) -> int:
    """Returns the exit code: 0, or 1 when --check finds a document stale."""
    parser = argparse.ArgumentParser(
        prog="python -m pipeline.docs",
        description="Write the README's table of parameters, and the picture of the steps there and in docs/ui.md.",
    )
    parser.add_argument("--check", action="store_true", help="write nothing; fail when a document is stale")
    arguments = parser.parse_args(argv)
    stale = []
    for document in DOCUMENTS:
        present = document.read_text(encoding="utf-8")
        wanted = rendered(present)
        if present != wanted:
            stale.append(document)
        if not arguments.check:
            document.write_text(wanted, encoding="utf-8")
    if arguments.check and stale:
        print(f"docs: {stale[0]} is stale; run python -m pipeline.docs and commit it", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
