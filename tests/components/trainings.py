"""What the tests of the train step share: prepared rows, its command line, what it wrote."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from components.ingest.ingest import ingest
from components.split.split import split
from components.tokenize.tokenize import tokenize

PATIENCE_SECONDS = 300  # for ranks that wait for each other
BASE_ARGUMENTS = {
    "precision": "fp32",
    "learning_rate": "1e-3",
    "warmup_steps": "0",
    "zero_stage": "2",
    "gradient_checkpointing": "false",
    "logging_steps": "1",
    "eval_steps": "0",
    "epochs": "1",
}


def prepare(folder: Path, dolly: Path, base: Path, template: str) -> Path:
    """60 real records, tokenized and split for a base model."""
    lines = dolly.read_text(encoding="utf-8").splitlines(keepends=True)
    short = [line for line in lines[:400] if len(line) < 400][:60]
    (folder / "data.jsonl").write_text("".join(short), encoding="utf-8")
    records, tokens = folder / "records", folder / "tokens"
    ingest(dataset=str(folder / "data.jsonl"), records=records, rejects=folder / "rejects", metrics=folder / "i.json")
    tokenize(
        records=records,
        base_model=str(base),
        base_model_digest="",
        template=template,
        tokens=tokens,
        tokenizer=folder / "tokenizer",
        metrics=folder / "t.json",
    )
    split(records=records, tokens=tokens, train=folder / "train", test=folder / "test", metrics=folder / "s.json")
    return folder


def command(prepared: Path, base: Path, output: Path, **arguments: Any) -> list[str]:
    paths = {
        "train": prepared / "train",
        "test": prepared / "test",
        "tokenizer": prepared / "tokenizer",
        "base_model": base,
        "model": output / "model",
        "curves": output / "curves.json",
        "metrics": output / "metrics.json",
    }
    values = {**BASE_ARGUMENTS, **paths, **arguments}
    return [sys.executable, "-m", "components.train", *(f"--{name}={value}" for name, value in values.items())]


def run(prepared: Path, base: Path, output: Path, **arguments: Any) -> subprocess.CompletedProcess[str]:
    asked = command(prepared, base, output, **arguments)
    return subprocess.run(asked, capture_output=True, text=True, check=False, timeout=PATIENCE_SECONDS)


def weights(output: Path) -> dict[str, torch.Tensor]:
    return load_file(output / "model" / "model.safetensors")


def curve(output: Path, name: str) -> list[float]:
    return [entry[name] for entry in json.loads((output / "curves.json").read_text()) if name in entry]
