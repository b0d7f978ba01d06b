"""python -m components.resolve: this step alone, on files."""

from components.cli import main
from components.resolve.resolve import resolve

if __name__ == "__main__":
    raise SystemExit(main(resolve))
