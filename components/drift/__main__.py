"""python -m components.drift: this step alone, on files."""

from components.cli import main
from components.drift.drift import drift

if __name__ == "__main__":
    raise SystemExit(main(drift))
