"""python -m components.ingest: this step alone, on files."""

from components.cli import main
from components.ingest.ingest import ingest

if __name__ == "__main__":
    raise SystemExit(main(ingest))
