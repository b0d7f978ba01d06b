"""`python -m components.<step>`: a command line made from a step's signature and docstring."""

import errno
import os
import sys
from collections.abc import Callable
from typing import Any

from jsonargparse import ArgumentParser, Namespace

from components.errors import PipelineError, UserError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def main(
    step: Callable[..., Any], config: type[Any] | None = None, argv: list[str] | None = None, prog: str = ""
) -> int:
    """Runs a step with the command line's arguments.

    Args:
        step: the step's function.
        config: the dataclass that it takes, when its arguments stand there.
        argv: the arguments; the process's own by default.
        prog: how the command is called; after the step's function by default.

    Returns:
        The exit code: 2 for bad input, 1 for a failure.
    """
    described = config or step
    parser = ArgumentParser(prog=prog or f"python -m components.{step.__name__}", description=_summary(described))
    parser.add_argument("--config", action="config", help="A YAML or JSON file with any of these arguments.")
    if config is None:
        parser.add_function_arguments(step)
    else:
        parser.add_class_arguments(config)
    parsed: Namespace = parser.parse_args(argv)
    values = {name: value for name, value in vars(parsed).items() if name != "config"}
    return _exit_code(step.__name__, lambda: step(**values) if config is None else step(config(**values)))


def choose(commands: dict[str, Callable[..., Any]], prog: str, argv: list[str] | None = None) -> int:
    """Runs the one of several functions that the command line names first. Returns as main does."""
    parser = ArgumentParser(prog=prog)
    names = parser.add_subcommands()
    for name, command in commands.items():
        one = ArgumentParser(description=_summary(command))
        one.add_function_arguments(command)
        names.add_subcommand(name, one)
    parsed: Namespace = parser.parse_args(argv)
    name = str(parsed.subcommand)
    return _exit_code(prog.rpartition(".")[2], lambda: commands[name](**vars(parsed[name])))


def _summary(described: Any) -> str:
    return str(described.__doc__ or "").partition("\n\n")[0]


def _exit_code(name: str, work: Callable[[], Any]) -> int:
    try:
        work()
    except FileNotFoundError as error:
        print(f"{name}: {error.filename or error} does not exist", file=sys.stderr)
        return UserError.exit_code
    except (PermissionError, IsADirectoryError, NotADirectoryError) as error:
        print(f"{name}: {error.filename}: {error.strerror}", file=sys.stderr)
        return UserError.exit_code
    except PipelineError as error:
        print(f"{name}: {error}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        if error.errno not in FULL:
            raise
        where = f"{error.filename}: " if error.filename else ""
        print(f"{name}: {where}{os.strerror(error.errno)}; nothing was finished, give it more room", file=sys.stderr)
        return PipelineError.exit_code
    return 0
