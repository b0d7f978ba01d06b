"""python -m components.gate: this step alone, on files."""

from components.cli import main
from components.gate.gate import gate

if __name__ == "__main__":
    raise SystemExit(main(gate))
