"""python -m components.join: this step alone, on files."""

from components.cli import main
from components.join.join import join

if __name__ == "__main__":
    raise SystemExit(main(join))
