"""The steps of the pipeline: one folder a step, and the few modules that steps share."""

import hashlib
import os
from functools import cache
from pathlib import Path

__version__ = "0.1.0"

# Private by default: the libraries report to nobody. They read these when they are imported.
os.environ.update(HF_HUB_DISABLE_TELEMETRY="1", MLFLOW_DISABLE_TELEMETRY="true", DO_NOT_TRACK="true")


@cache
def code_digest() -> str:
    """A short digest of the steps' source: changed code is another run, whatever the version says."""
    folder = Path(__file__).parent
    state = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.suffix in (".py", ".html", ".yaml"):
            state.update(f"{path.relative_to(folder)}\0".encode() + path.read_bytes())
    return state.hexdigest()[:12]
