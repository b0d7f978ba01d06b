"""python -m components.report: this step alone, on files."""

from components.cli import main
from components.report.report import report

if __name__ == "__main__":
    raise SystemExit(main(report))
