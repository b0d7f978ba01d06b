"""python -m pipeline.compile: the pipeline as KFP YAML."""

import argparse
import difflib
import sys
import tempfile
from pathlib import Path

from components.errors import PipelineError
from pipeline.settings import PACKAGE, load

COMMITTED = PACKAGE / "private_llm.yaml"


def compile_profile(profile: str) -> str:
    """The KFP v2 IR YAML of a profile: the same text every time."""
    from kfp.compiler import Compiler

    from pipeline.dag import build

    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "pipeline.yaml"
        Compiler().compile(build(load(profile)), str(path))
        return path.read_text(encoding="utf-8")


def main(argv: list[str] | None = None) -> int:
    """Returns the exit code: 0, 1 when --check finds the file stale, 2 for bad input."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.compile", description="Compile the pipeline to KFP YAML.")
    parser.add_argument(
        "--profile", default="default", help="a shipped profile's name, or a YAML file (default: %(default)s)"
    )
    parser.add_argument("--output", type=Path, default=COMMITTED, help="the file to write (default: %(default)s)")
    parser.add_argument("--check", action="store_true", help="write nothing; fail with a diff when the file is stale")
    arguments = parser.parse_args(argv)
    try:
        text = compile_profile(arguments.profile)
    except PipelineError as error:
        print(f"compile: {error}", file=sys.stderr)
        return error.exit_code
    if not arguments.check:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(text, encoding="utf-8")
        print(f"wrote {arguments.output}")
        return 0
    present = arguments.output.read_text(encoding="utf-8") if arguments.output.exists() else ""
    if present == text:
        print(f"{arguments.output} is up to date")
        return 0
    sys.stdout.writelines(
        difflib.unified_diff(present.splitlines(True), text.splitlines(True), str(arguments.output), "compiled now")
    )
    print(f"compile: {arguments.output} is stale; run python -m pipeline.compile and commit it", file=sys.stderr)
    return 1


if __name__ == "__main__":
    raise SystemExit(main())
