"""Starts a training, or, where torchrun has already started this process, is one rank of it."""

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, cast

from components import code_digest
from components.errors import ParameterError, PipelineError, StorageError
from components.models import MODEL_FILES
from components.records import canonical_json, count_rows, digest, path_digest, read_json
from components.sources import Pinned, fetch
from components.train.checks import check_inputs, check_outputs, check_table
from components.train.config import DECIDING, TrainConfig
from components.train.launcher import preparing, torchrun


def train(config: TrainConfig, publish: Callable[[], None] = lambda: None) -> dict[str, float]:
    """Trains and writes the model, the curves and the metrics.

    Args:
        publish: called on the first node when these are written, before the checkpoints are removed.

    Returns:
        What a run is judged by: train_loss, tokens_per_second, steps, parameters, …

    Raises:
        TrainingError: a rank failed; with its own message.
        ModelError: the base model cannot be fetched.
    """
    if "TORCHELASTIC_RUN_ID" in os.environ:
        sys.modules["mlflow"] = cast(Any, None)  # DeepSpeed's autotuner would import it, for a third of the start-up
        from torch.distributed.elastic.multiprocessing.errors import record

        from components.train.worker import work

        try:
            record(work)(config)
        except PipelineError as error:
            raise SystemExit(error.exit_code) from None  # told once, by the launcher
        return {}
    with tempfile.TemporaryDirectory() as scratch:
        settings = Path(scratch) / "config.json"
        with preparing(Path(scratch)):
            local = with_checkpoints(prepare(config), Path(scratch))
            settings.write_text(json.dumps(local.plain()), encoding="utf-8")
        torchrun(["--config", str(settings)], local.nproc_per_node, Path(scratch), config.grace_seconds)
    if node_rank() != 0:
        return {}
    publish()
    forget_checkpoints(local)  # the model is written; nothing will resume from these
    metrics: dict[str, Any] = read_json(config.metrics)
    print(
        f"train: {metrics['steps']} steps, loss {metrics['train_loss']:.3f}, "
        f"{metrics['tokens_per_second']:.0f} tokens/s"
    )
    return {name: value for name, value in metrics.items() if isinstance(value, int | float)}


def prepare(config: TrainConfig) -> TrainConfig:
    """The training as this machine's ranks are told it: checked, with the base model fetched, and told its memory.

    Raises:
        UserError: what it is given cannot be trained on here.
    """
    check_table("train", config.train)
    processes, cuda = placement(config)
    ranks = f"{processes} process{'es' if processes > 1 else ''} on {'GPU' if cuda else 'CPU'}"
    print(f"train: {count_rows(config.train)} rows, {ranks}", flush=True)
    # fetched once, here; every rank then reads the folder
    folder = fetch(Pinned(uri=config.base_model, digest=config.base_model_digest), "model", MODEL_FILES)
    check_inputs(config, folder)
    check_outputs(config)
    config = computable(config, cuda)
    print(f"train: {memory_line(config, folder, processes, cuda)}", flush=True)
    if not cuda:
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    return replace(config, base_model=str(folder), nproc_per_node=processes)


def node_rank() -> int:
    """Which of the nodes that train together this is, from 0."""
    return int(os.environ.get("PET_NODE_RANK", "0"))


def with_checkpoints(config: TrainConfig, scratch: Path) -> TrainConfig:
    """The training with a place for its checkpoints alone.

    A retried or repeated run of the same training finds its checkpoints; another training never does.

    Args:
        scratch: where a node keeps for a moment what goes to a store, unless it was told a folder for it.
    """
    if config.checkpoint_store:
        own = (config.checkpoints or scratch / "checkpoints") / f"node-{node_rank()}"
        return replace(config, checkpoints=own, checkpoint_store=f"{config.checkpoint_store}/{training_key(config)}")
    return replace(config, checkpoints=config.checkpoints / training_key(config)) if config.checkpoints else config


def forget_checkpoints(local: TrainConfig) -> None:
    """Removes a finished training's checkpoints."""
    if local.checkpoint_store:
        from components.store import Store

        try:
            Store(local.checkpoint_store).remove()
        except StorageError as error:  # the model is written all the same
            print(f"train: the checkpoints are not removed: {error}", file=sys.stderr)
    if local.checkpoints:
        shutil.rmtree(local.checkpoints, ignore_errors=True)


def training_key(config: TrainConfig) -> str:
    """What a checkpoint belongs to: the digest of everything that decides the weights.

    The number of processes is not among it, because a training goes on with another one.
    """
    settings = {name: value for name, value in asdict(config).items() if name in DECIDING}
    inputs = [path_digest(path) for path in (config.train, config.test, config.tokenizer)]
    return digest(code_digest(), canonical_json(settings), config.base_model_digest or config.base_model, *inputs)


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


def computable(config: TrainConfig, cuda: bool) -> TrainConfig:
    """The same training as a CPU can do it: without offload, and in float32 where bf16 would be emulated."""
    import torch

    if cuda:
        return config
    if config.offload != "none":
        print("train: there is no GPU from which something could be offloaded: all is in the host's memory")
        config = replace(config, offload="none")
    if config.precision != "bf16" or torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return config
    print("train: this CPU has no bf16 instructions, and emulating them is 5 to 100 times slower: fp32 is used")
    return replace(config, precision="fp32")


def memory_line(config: TrainConfig, folder: Path, processes: int, cuda: bool) -> str:
    """What the training will take and what there is."""
    import torch

    from components.limits import memory
    from components.train.memory import report

    available = float(torch.cuda.get_device_properties(0).total_memory) if cuda else memory() / processes
    try:
        return report(folder, config, config.world_size(processes), available, "cuda" if cuda else "cpu")
    except KeyError as missing:
        return f"memory cannot be estimated: the model's config.json has no {missing}"
