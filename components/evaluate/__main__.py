"""python -m components.evaluate: with --data, one model on one file; without it, this step alone, on files."""

import sys

from components.cli import main
from components.evaluate import by_hand
from components.evaluate.evaluate import evaluate

if __name__ == "__main__":
    by_itself = any(argument.partition("=")[0] == "--data" for argument in sys.argv[1:])
    raise SystemExit(main(by_hand.evaluate if by_itself else evaluate))
