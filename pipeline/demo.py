"""python -m pipeline.demo: the bundled dataset and model through the whole pipeline (make demo)."""

import sys

from components.errors import PipelineError
from pipeline import run
from pipeline.bundled_model import prepare


def main(argv: list[str] | None = None) -> int:
    """Takes the arguments of pipeline.run; returns its exit code."""
    try:
        prepare()
    except PipelineError as error:
        print(f"demo: {error}", file=sys.stderr)
        return error.exit_code
    return run.main(["--profile", "demo", "--output", "runs/demo", *(sys.argv[1:] if argv is None else argv)])


if __name__ == "__main__":
    raise SystemExit(main())
