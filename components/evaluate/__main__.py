"""python -m components.evaluate: this step alone, on files."""

from components.cli import main
from components.evaluate.evaluate import evaluate

if __name__ == "__main__":
    raise SystemExit(main(evaluate))
