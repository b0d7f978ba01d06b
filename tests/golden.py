"""Generated text compared whole with a committed file: UPDATE_GOLDEN=1 writes it anew, never in CI."""

import os
from pathlib import Path

FOLDER = Path(__file__).parent / "golden"


def assert_golden(name: str, text: str) -> None:
    """Fails unless tests/golden/NAME holds exactly this text."""
    path = FOLDER / name
    if os.environ.get("UPDATE_GOLDEN") == "1" and not os.environ.get("CI"):
        path.write_text(text, encoding="utf-8")
    assert path.is_file(), f"{path} is missing; UPDATE_GOLDEN=1 writes it"
    assert text == path.read_text(encoding="utf-8")
