"""python -m components.merge: this step alone, on files."""

from components.cli import main
from components.merge.merge import merge

if __name__ == "__main__":
    raise SystemExit(main(merge))
