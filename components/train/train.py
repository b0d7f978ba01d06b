"""Starts a training, or, where torchrun has already started this process, is one rank of it."""

import json
import os
import tempfile
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from components.errors import ParameterError
from components.records import count_rows, read_json
from components.sources import Pinned, fetch
from components.train.config import TrainConfig
from components.train.launcher import torchrun


def train(config: TrainConfig) -> dict[str, float]:
    """Trains and writes the model, the curves and the metrics.

    Returns:
        What a run is judged by: train_loss, tokens_per_second, steps, parameters, …

    Raises:
        TrainingError: a rank failed; with its own message.
        ModelError: the base model cannot be fetched.
    """
    if "TORCHELASTIC_RUN_ID" in os.environ:
        from torch.distributed.elastic.multiprocessing.errors import record

        from components.train.worker import work

        record(work)(config)
        return {}
    processes, cuda = placement(config)
    rows = count_rows(config.train)
    print(f"train: {rows} rows, {processes} process{'es' if processes > 1 else ''} on {'GPU' if cuda else 'CPU'}")
    # fetched once, here; every rank then reads the folder
    folder = fetch(Pinned(uri=config.base_model, digest=config.base_model_digest), "model")
    local = replace(config, base_model=str(folder), nproc_per_node=processes)
    if not cuda:
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    with tempfile.TemporaryDirectory() as scratch:
        settings = Path(scratch) / "config.json"
        settings.write_text(json.dumps(_plain(local)), encoding="utf-8")
        torchrun(["--config", str(settings)], processes, Path(scratch) / "error.json")
    metrics: dict[str, Any] = read_json(config.metrics)
    print(f"train: {metrics['steps']} steps, loss {metrics['train_loss']:.3f}, {metrics['tokens_per_second']:.0f} tokens/s")
    return {name: value for name, value in metrics.items() if isinstance(value, int | float)}


def placement(config: TrainConfig) -> tuple[int, bool]:
    """The number of processes on this node, and whether they run on GPUs.

    Raises:
        ParameterError: the precision does not exist there, or there are fewer GPUs than processes.
    """
    import torch

    gpus = torch.cuda.device_count()
    if config.precision == "fp16" and not gpus:
        raise ParameterError("precision=fp16 needs a GPU; use bf16 or fp32")
    if gpus and config.nproc_per_node > gpus:
        raise ParameterError(f"nproc_per_node={config.nproc_per_node} is more than the {gpus} GPUs of this node")
    return config.nproc_per_node or max(1, gpus), gpus > 0


def _plain(config: TrainConfig) -> dict[str, Any]:
    return {name: str(value) if isinstance(value, Path) else value for name, value in asdict(config).items()}
