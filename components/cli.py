"""`python -m components.<step>`: a command line made from a step's signature and docstring."""

import sys
from collections.abc import Callable
from typing import Any

from jsonargparse import ArgumentParser, Namespace

from components.errors import PipelineError, UserError


def main(step: Callable[..., Any], config: type[Any] | None = None, argv: list[str] | None = None) -> int:
    """Runs a step with the command line's arguments.

    Args:
        step: the step's function.
        config: the dataclass that it takes, when its arguments stand there.
        argv: the arguments; the process's own by default.

    Returns:
        The exit code: 2 for bad input, 1 for a failure.
    """
    described = config or step
    parser = ArgumentParser(
        prog=f"python -m components.{step.__name__}", description=(described.__doc__ or "").partition("\n\n")[0]
    )
    parser.add_argument("--config", action="config", help="A YAML or JSON file with any of these arguments.")
    if config is None:
        parser.add_function_arguments(step)
    else:
        parser.add_class_arguments(config)
    parsed: Namespace = parser.parse_args(argv)
    values = {name: value for name, value in vars(parsed).items() if name != "config"}
    try:
        if config is None:
            step(**values)
        else:
            step(config(**values))
    except FileNotFoundError as error:
        print(f"{step.__name__}: {error.filename or error} does not exist", file=sys.stderr)
        return UserError.exit_code
    except PipelineError as error:
        print(f"{step.__name__}: {error}", file=sys.stderr)
        return error.exit_code
    return 0
