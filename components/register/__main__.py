"""python -m components.register: this step alone, on files; or with a command, what a person asks a registry."""

import sys

from components.cli import choose, main
from components.register.commands import COMMANDS
from components.register.register import register

if __name__ == "__main__":
    if sys.argv[1:] and sys.argv[1] in COMMANDS:
        raise SystemExit(choose(COMMANDS, prog="python -m components.register"))
    raise SystemExit(main(register))
