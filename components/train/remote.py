"""A training in a TrainJob: brings its input to the claim that the pods share, runs the job, collects what it left.

The claim holds, under where it is mounted: cache (base models), runs/NAME (one job's input and output) and
checkpoints (by the digest of what decides the weights, so that a repeated run finds them).
"""

import json
import os
import shutil
import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from components.errors import ClusterError, ModelError
from components.models import MODEL_FILES
from components.records import count_rows, path_digest, read_json
from components.sources import Pinned, fetch
from components.train.checks import check_inputs
from components.train.config import TrainConfig
from components.train.jobs import Build, run_job
from components.train.kubernetes import Cluster
from components.train.train import training_key
from components.train.trainjob import (
    Run,
    Training,
    processes_per_node,
    settings_from,
    train_job,
)

RUN_LABEL = "pipeline/runid"  # KFP's own, on every pod of a run
PIPELINE = "private-llm"


def train_remotely(
    config: TrainConfig,
    launcher: Mapping[str, Any],
    task_config: Mapping[str, Any],
    cluster: Cluster | None = None,
) -> tuple[dict[str, float], dict[str, str]]:
    """Trains in a TrainJob.

    Args:
        launcher: the profile's image, image_pull_secrets, storage and TrainJob settings.
        task_config: what was set on the KFP step: resources, nodes, taints, volumes, env.
        cluster: where to; this pod's own by default.

    Returns:
        The figures of the training, and where it left the model: {"path": …}.

    Raises:
        ClusterError: the job did not succeed; the message says how it ended.
        ModelError: the base model cannot be fetched.
    """
    cluster = cluster or Cluster.of_this_pod()
    pod_name = os.environ.get("KFP_POD_NAME") or os.environ.get("HOSTNAME", "")
    run, settings = this_run(cluster, pod_name), settings_from(launcher)
    storage = Path(launcher["storage"])
    if not storage.is_dir():
        raise ClusterError(f"{storage} is not there: the step must mount the claim of the profile's storage")
    folder = storage / "runs" / run.job_name

    def prepare() -> Build:
        for kept in ("runs", "checkpoints"):
            remove_old(storage / kept, settings.keep_days, folder)
        training = training_of(stage(config, storage, folder), launcher, task_config, folder)
        refuse_the_same_twice(cluster, run, training)
        return lambda attempt: train_job(run, training, settings, attempt)

    run_job(cluster, run, prepare, settings, pod_name)
    return collect(config, folder), {"path": str(folder / "model")}


def this_run(cluster: Cluster, pod_name: str) -> Run:
    """The KFP run that a pod belongs to.

    Raises:
        ClusterError: it belongs to none.
    """
    pod = cluster.pod(pod_name) or {"metadata": {}}
    run_id = (pod["metadata"].get("labels") or {}).get(RUN_LABEL)
    if not run_id:
        raise ClusterError(f"pod {pod_name!r} has no label {RUN_LABEL}: launcher: trainjob works in a KFP run only")
    owners = [
        {name: owner[name] for name in ("apiVersion", "kind", "name", "uid")}
        for owner in pod["metadata"].get("ownerReferences") or []
    ]
    return Run(namespace=cluster.namespace, run_id=run_id, owner=owners[0] if owners else None)


def stage(config: TrainConfig, storage: Path, folder: Path) -> TrainConfig:
    """Copies the rows and the tokenizer to the claim and fetches the base model there, each once.

    Returns:
        The training with its paths on the claim, written to config.json as well.

    Raises:
        ModelError: the base model is not where the pods can read it.
    """
    print(f"train: {count_rows(config.train)} rows, in a TrainJob", flush=True)
    base = fetch(Pinned(uri=config.base_model, digest=config.base_model_digest), "model", MODEL_FILES)
    if not base.is_relative_to(storage):
        raise ModelError(
            f"base_model: {base} is not on the claim at {storage}; give a hub id, a URI, or a folder there"
        )
    check_inputs(config, base)
    inputs, partial = folder / "input", folder / "input.partial"
    if not inputs.exists():
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        shutil.copyfile(config.train, partial / "train.parquet")
        shutil.copyfile(config.test, partial / "test.parquet")
        shutil.copytree(config.tokenizer, partial / "tokenizer", copy_function=shutil.copyfile)
        partial.rename(inputs)
    return replace(
        config,
        train=inputs / "train.parquet",
        test=inputs / "test.parquet",
        tokenizer=inputs / "tokenizer",
        base_model=str(base),
        model=folder / "model",
        curves=folder / "curves.json",
        metrics=folder / "metrics.json",
        tensorboard=folder / "tensorboard",
        checkpoints=config.checkpoints or storage / "checkpoints",
    )


def training_of(
    staged: TrainConfig, launcher: Mapping[str, Any], task_config: Mapping[str, Any], folder: Path
) -> Training:
    """What the TrainJob runs; its configuration is written beside its input."""
    training = Training(
        image=launcher["image"],
        command=("python", "-m", "components.train", "--config", str(folder / "config.json")),
        nodes=staged.num_nodes,
        processes=staged.nproc_per_node,
        env={"HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"},
        key=training_key(staged),
        dataset_digest=path_digest(staged.train),
        pipeline=PIPELINE,
        task_config=task_config,
        image_pull_secrets=tuple(launcher.get("image_pull_secrets") or ()),
    )
    for_a_node = replace(staged, nproc_per_node=processes_per_node(training))
    values = {name: str(value) if isinstance(value, Path) else value for name, value in asdict(for_a_node).items()}
    partial = folder / "config.partial"
    partial.write_text(json.dumps(values, indent=2), encoding="utf-8")
    partial.rename(folder / "config.json")
    return training


def refuse_the_same_twice(cluster: Cluster, run: Run, training: Training) -> None:
    """Raises ClusterError when another run's TrainJob is at the same training: both would write its checkpoints."""
    for name in cluster.unfinished_jobs(training.key):
        if name != run.job_name:
            raise ClusterError(
                f"TrainJob {name} of another run is at the same training; wait for it, and this run goes on from there"
            )


def collect(config: TrainConfig, folder: Path) -> dict[str, float]:
    """Copies the small files that a finished job left, and removes its input. The model stays where it is.

    Raises:
        ClusterError: the job left nothing.
    """
    for name in ("metrics.json", "curves.json", "model"):
        if not (folder / name).exists():
            raise ClusterError(f"the TrainJob is complete and left no {folder / name}; do its pods share the claim?")
    shutil.copyfile(folder / "curves.json", config.curves)
    shutil.copyfile(folder / "metrics.json", config.metrics)
    if config.tensorboard and (folder / "tensorboard").exists():
        shutil.copytree(folder / "tensorboard", config.tensorboard, copy_function=shutil.copyfile, dirs_exist_ok=True)
    shutil.rmtree(folder / "input", ignore_errors=True)
    metrics: dict[str, Any] = read_json(config.metrics)
    return {name: value for name, value in metrics.items() if isinstance(value, int | float)}


def remove_old(folder: Path, days: int, current: Path) -> None:
    """Removes what nothing has been written to for that many days, and says what."""
    oldest = time.time() - 86400 * days
    for entry in sorted(folder.glob("*")):
        if entry != current and max(path.stat().st_mtime for path in (entry, *entry.glob("*"))) < oldest:
            shutil.rmtree(entry, ignore_errors=True)
            print(f"train: removed {entry}, which is older than {days} days", flush=True)
