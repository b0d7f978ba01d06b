"""python -m components.register: this step alone, on files."""

from components.cli import main
from components.register.register import register

if __name__ == "__main__":
    raise SystemExit(main(register))
