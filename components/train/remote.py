"""A training in a TrainJob: brings its input to where the pods can read it, runs the job, collects what it left."""

import json
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from components.errors import ClusterError
from components.records import count_rows, path_digest, read_json
from components.train.bucket import Bucket
from components.train.claim import Claim
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
        The figures of the training, and where it left the model: {"path": …}, a folder or a URI.

    Raises:
        ClusterError: the job did not succeed; the message says how it ended.
        ModelError: the base model cannot be fetched.
        StorageError: the object store cannot be read or written.
    """
    cluster = cluster or Cluster.of_this_pod()
    pod_name = os.environ.get("KFP_POD_NAME") or os.environ.get("HOSTNAME", "")
    run, settings = this_run(cluster, pod_name), settings_from(launcher)
    place = place_of(launcher, run.job_name)

    def prepare() -> Build:
        print(f"train: {count_rows(config.train)} rows, in a TrainJob", flush=True)
        busy = cluster.unfinished_jobs()
        place.remove_old(settings.keep_days, {*busy, *busy.values()})
        training = training_of(config, place, launcher, task_config)
        refuse_the_same_twice(cluster, run, training)
        return lambda attempt: train_job(run, training, settings, attempt)

    run_job(cluster, run, prepare, settings, pod_name)
    place.collect(config)
    metrics: dict[str, Any] = read_json(config.metrics)
    return {name: value for name, value in metrics.items() if isinstance(value, int | float)}, {"path": place.model}


def place_of(launcher: Mapping[str, Any], job: str) -> Claim | Bucket:
    """Where a job's input and output lie.

    Raises:
        ClusterError: the claim is not mounted.
    """
    path, bucket = Path(launcher["storage"]), launcher.get("bucket")
    return Bucket(bucket["uri"], job, path, bucket["scratch"]) if bucket else Claim(path, job)


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


def training_of(
    config: TrainConfig, place: Claim | Bucket, launcher: Mapping[str, Any], task_config: Mapping[str, Any]
) -> Training:
    """What the TrainJob runs, with its input and its configuration in place."""
    staged = place.stage(config)
    training = Training(
        image=launcher["image"],
        command=place.command,
        nodes=config.num_nodes,
        processes=config.nproc_per_node,
        env={"HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1", **place.env},
        key=training_key(config),
        dataset_digest=path_digest(config.train),
        pipeline=PIPELINE,
        task_config=place.volumes(task_config),
        requests=place.requests,
        image_pull_secrets=tuple(launcher.get("image_pull_secrets") or ()),
        secrets=tuple(launcher.get("secrets") or ()),
    )
    for_a_node = replace(staged, nproc_per_node=processes_per_node(training))
    place.tell(json.dumps(for_a_node.plain(), indent=2))
    return training


def refuse_the_same_twice(cluster: Cluster, run: Run, training: Training) -> None:
    """Raises ClusterError when another run's TrainJob is at the same training: both would write its checkpoints."""
    for name, key in cluster.unfinished_jobs().items():
        if key == training.key and name != run.job_name:
            raise ClusterError(
                f"TrainJob {name} of another run is at the same training; wait for it, and this run goes on from there"
            )
