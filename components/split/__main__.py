"""python -m components.split: this step alone, on files."""

from components.cli import main
from components.split.split import split

if __name__ == "__main__":
    raise SystemExit(main(split))
