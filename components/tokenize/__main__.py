"""python -m components.tokenize: this step alone, on files."""

from components.cli import main
from components.tokenize.tokenize import tokenize

if __name__ == "__main__":
    raise SystemExit(main(tokenize))
