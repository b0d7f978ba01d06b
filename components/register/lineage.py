"""Where a model comes from: what is the same in every run of the same inputs, and what is of this execution alone."""

import os
import re
from pathlib import Path, PurePosixPath
from typing import Any

from components import __version__, code_digest
from components.records import canonical_json, count_rows, path_digest
from components.registry import COMPARED_WITH, INPUTS, RUN_DIGEST, STARTED_FROM

# Set by the pipeline on the step. They tell of one execution, so they are tags and never part of a file or a digest.
EXECUTION = {
    "kfp_run_id": "KFP_RUN_ID",
    "data_image": "PRIVATE_LLM_DATA_IMAGE",
    "train_image": "PRIVATE_LLM_TRAIN_IMAGE",
}
FILES = (".jsonl", ".json", ".csv", ".tsv", ".parquet", ".arrow", ".txt", ".md", ".yaml", ".yml", ".gz", ".zst", ".bz2")


def lineage(
    *, model: Path, train: Path, test: Path, pinned: dict[str, str], inputs: dict[str, str], license: str
) -> dict[str, Any]:
    """What the model was made from: a function of the run's inputs.

    Args:
        pinned: what resolve answered, without the registry's identity.
        inputs: the digests of what the run read, by name, as resolve found them.
    """
    return {
        "dataset": pinned["dataset"],
        "dataset_digest": pinned["dataset_digest"],
        "dataset_license": license,
        "train_records": count_rows(train),
        "train_digest": path_digest(train),
        "test_records": count_rows(test),
        "test_digest": path_digest(test),
        "base_model": pinned["base_model"],
        "base_model_revision": revision(pinned["base_model"]),
        "base_model_digest": pinned["base_model_digest"],
        "template": pinned["template"],
        "template_digest": pinned["template_digest"],
        "model_digest": path_digest(model),
        STARTED_FROM: pinned["started_from"],
        RUN_DIGEST: pinned["run_digest"],
        INPUTS: canonical_json(inputs),
        COMPARED_WITH: pinned["champion"],
        "code_version": __version__,
        "code_digest": code_digest(),
    }


def execution() -> dict[str, str]:
    """The KFP run and the images of this execution, where the environment tells them."""
    return {name: os.environ[variable] for name, variable in EXECUTION.items() if os.environ.get(variable)}


def hub_id(source: str) -> str | None:
    """org/name of a pinned hub source; None for a path or a URI, which says nothing to others."""
    name, separator, _ = source.partition("@")
    return name if separator and "://" not in source and not source.startswith("/") else None


def card_name(source: str) -> str:
    """What a card may call a source: its hub id, or the last part of its path, in a hub id's letters."""
    if name := hub_id(source):
        return name
    place = PurePosixPath(source.rstrip("/"))
    while place.suffix in FILES:
        place = place.with_suffix("")
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", place.name).strip("-.") or "private"


def revision(source: str) -> str:
    """The commit of a pinned hub source; empty for others, which their digest alone pins."""
    return source.partition("@")[2] if hub_id(source) else ""
