"""The TrainJob of a training: a pure function from what is asked to the object, in Kubeflow Trainer 2.3's words."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import Any

from components.errors import ParameterError, TrainingError
from components.records import digest

GROUP, VERSION, PLURAL = "trainer.kubeflow.org", "v1alpha1", "trainjobs"
NODE = "node"  # Trainer's name for the replicated job that trains, and for its container
PREFIX = "private-llm/"  # of our labels and annotations
MANAGER = f"{PREFIX}launcher"
ATTEMPT, TRAINING = f"{PREFIX}attempt", f"{PREFIX}training"
# What admission and controllers write into a spec; none of it was asked for, so none of it is a difference.
SERVER_FIELDS = ("managedBy", "suspend", "time")
OF_THE_STEP = ("KFP_", "MLFLOW_")
QUANTITY = re.compile(r"\d+(\.\d+)?([numkMGTPE]|[KMGTPE]i)?")  # Kubernetes' spelling
QUANTITIES = ("limits", "requests", "sizeLimit")


@dataclass(frozen=True, kw_only=True)
class JobSettings:
    """What an installation says of its TrainJobs, beside the step's own resources, nodes and taints.

    Args:
        runtime: The TrainingRuntime, in the namespace of the runs.
        queue: Kueue's LocalQueue; empty: no Kueue.
        priority: Kueue's WorkloadPriorityClass. A pod's own priority class stands in the runtime.
        shared_memory: Size of /dev/shm, part of the pod's memory; empty: as the runtime has it.
        resources: What a node needs beside CPU, memory and GPUs, such as rdma/hca.
        env: Variables of the training pods, such as NCCL_IB_HCA.
        pod_annotations: Annotations of the training pods, such as a second network's or Kueue's topology request.
        max_wait_hours: How long a job may queue or wait for nodes at a time.
        max_runtime_hours: How long a job may run at a time.
        max_restarts: How often a job that was preempted, or asked to go on later, is started again.
        keep_days: How long a finished job's folder stays on the claim.
    """

    runtime: str = "private-llm"
    queue: str = ""
    priority: str = ""
    shared_memory: str = "16Gi"
    resources: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    env: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    pod_annotations: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    max_wait_hours: int = 24
    max_runtime_hours: int = 168
    max_restarts: int = 10
    keep_days: int = 30

    def __post_init__(self) -> None:
        for entry in fields(self):
            least = 0 if entry.name == "max_restarts" else 1
            if entry.type is int and getattr(self, entry.name) < least:
                raise ParameterError(f"{entry.name}={getattr(self, entry.name)} must be at least {least}")
        for name, value in {"shared_memory": self.shared_memory or "0", **self.resources}.items():
            if not QUANTITY.fullmatch(value):
                raise ParameterError(f"{name}={value!r} must be a quantity such as 16Gi")


@dataclass(frozen=True, kw_only=True)
class Run:
    """The run that a TrainJob belongs to, as the launcher's own pod tells it.

    Args:
        namespace: Where the run's pods live.
        run_id: KFP's id of the run.
        owner: The owner reference of the pod, KFP's workflow; None where nothing owns the pod.
    """

    namespace: str
    run_id: str
    owner: Mapping[str, str] | None = None

    @property
    def job_name(self) -> str:
        """The same for every launcher of the run's training, so that it finds what an earlier one made."""
        return f"private-llm-train-{digest(self.run_id).rpartition(':')[2][:10]}"  # pods add 15 characters, of 63


@dataclass(frozen=True, kw_only=True)
class Training:
    """What a TrainJob runs.

    Args:
        image: The training image.
        command: What each node starts.
        nodes: Pods.
        processes: Processes a node; as many GPUs where the step asked for GPUs; 0: one a GPU.
        env: Variables of the training container, before the step's own.
        key: The digest of everything that decides the weights.
        dataset_digest: Of the training rows.
        pipeline: The pipeline's name.
        task_config: What KFP set on the step: resources, nodes, taints, volumes, env (dsl.TaskConfig's fields).
        requests: What a node is asked for besides, without a limit.
        image_pull_secrets: Names.
        secrets: Of the Secrets that the step sees, those whose variables the pods see too.
    """

    image: str
    command: tuple[str, ...]
    nodes: int
    processes: int
    env: Mapping[str, str]
    key: str
    dataset_digest: str
    pipeline: str
    task_config: Mapping[str, Any]
    requests: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    image_pull_secrets: tuple[str, ...] = ()
    secrets: tuple[str, ...] = ()


def train_job(run: Run, training: Training, settings: JobSettings, attempt: int = 1) -> dict[str, Any]:
    """The TrainJob, ready to be created.

    Args:
        attempt: Counts restarts after preemption; kept with the job, so that it outlives a launcher.

    Raises:
        TrainingError: the step was given something that a TrainJob of this version cannot carry.
    """
    from kubeflow_trainer_api.models import TrainerV1alpha1TrainJob

    labels = {
        "app.kubernetes.io/name": "private-llm",
        f"{PREFIX}step": "train",
        f"{PREFIX}pipeline": training.pipeline,
        f"{PREFIX}run-id": run.run_id,
        TRAINING: training.key,
        "kueue.x-k8s.io/queue-name": settings.queue,
        "kueue.x-k8s.io/priority-class": settings.priority,
    }
    body = {
        "apiVersion": f"{GROUP}/{VERSION}",
        "kind": "TrainJob",
        "metadata": {
            "name": run.job_name,
            "namespace": run.namespace,
            "labels": {name: value for name, value in labels.items() if value},
            "annotations": {f"{PREFIX}dataset-digest": training.dataset_digest, ATTEMPT: str(attempt)},
            "ownerReferences": [dict(run.owner)] if run.owner else None,
        },
        "spec": {
            # kept apart from max_wait_hours, because Trainer counts from creation where nothing suspends a job
            "activeDeadlineSeconds": 3600 * (settings.max_wait_hours + settings.max_runtime_hours),
            "runtimeRef": {"apiGroup": GROUP, "kind": "TrainingRuntime", "name": settings.runtime},
            "trainer": _trainer(training, settings),
            "runtimePatches": [_patch(training, settings)],
        },
    }
    asked = dict(_flat(_pruned(body)))
    built: dict[str, Any] = TrainerV1alpha1TrainJob.from_dict(_pruned(body)).to_dict()
    lost = sorted(asked.keys() - dict(_flat(built)).keys())
    if lost:
        raise TrainingError(f"a TrainJob cannot carry {lost[0]}={asked[lost[0]]!r}, which the step was given")
    return built


def differences(asked: dict[str, Any], found: dict[str, Any]) -> list[str]:
    """Where a job's spec is not the one asked for, a line each; what the server adds does not count."""
    ours, theirs = (dict(_flat(_comparable(job["spec"]), "spec")) for job in (asked, found))
    return [
        f"{place}: asked for {ours.get(place, 'nothing')}, found {theirs.get(place, 'nothing')}"
        for place in sorted(ours.keys() | theirs.keys())
        if ours.get(place) != theirs.get(place)
    ]


def attempt_of(job: dict[str, Any]) -> int:
    """Which start of the training a job is, from 1."""
    return int((job["metadata"].get("annotations") or {}).get(ATTEMPT, 1))


def gpu_name(limits: Mapping[str, Any]) -> str | None:
    """The GPU resource among a step's limits, such as nvidia.com/gpu, amd.com/gpu or nvidia.com/mig-1g.10gb."""
    return next((name for name in limits if "/" in name), None)


def processes_per_node(training: Training) -> int:
    """Processes a node: as asked, or one a GPU, or one."""
    limits = (training.task_config.get("resources") or {}).get("limits") or {}
    gpu = gpu_name(limits)
    return training.processes or (int(limits[gpu]) if gpu else 1)


def _trainer(training: Training, settings: JobSettings) -> dict[str, Any]:
    resources = training.task_config.get("resources") or {}
    limits = dict(resources.get("limits") or {})
    requests = dict(resources.get("requests") or {}) | dict(training.requests)
    processes = processes_per_node(training)
    if gpu := gpu_name(limits):
        limits[gpu] = str(processes)
        requests[gpu] = str(processes)
    env = [{"name": name, "value": value} for name, value in sorted(training.env.items())]
    set_on_step = training.task_config.get("env") or []
    given = sorted((entry for entry in set_on_step if _is_for_pods(entry, training.secrets)), key=_name)
    return {
        "image": training.image,
        "command": list(training.command),
        "env": [*env, *(entry for entry in given if entry["name"] not in training.env)],
        "numNodes": training.nodes,
        "numProcPerNode": processes,
        "resourcesPerNode": {
            "limits": limits | dict(settings.resources),
            "requests": requests | dict(settings.resources),
        },
    }


def _is_for_pods(entry: Mapping[str, Any], secrets: tuple[str, ...]) -> bool:
    """Not other credentials, which stay with the launcher, and not what KFP tells each try of the step anew."""
    secret = (entry.get("valueFrom") or {}).get("secretKeyRef")
    return (secret is None or secret.get("name") in secrets) and not entry["name"].startswith(OF_THE_STEP)


def _name(entry: Mapping[str, Any]) -> str:
    return str(entry["name"])


def _patch(training: Training, settings: JobSettings) -> dict[str, Any]:
    """What only the pods' template can say, laid over the runtime's."""
    given = training.task_config
    volumes, mounts = list(given.get("volumes") or []), list(given.get("volume_mounts") or [])
    if settings.shared_memory:
        memory = {"medium": "Memory", "sizeLimit": settings.shared_memory}
        volumes.append({"name": "shared-memory", "emptyDir": memory})
        mounts.append({"name": "shared-memory", "mountPath": "/dev/shm"})  # noqa: S108
    pods = {
        "nodeSelector": given.get("node_selector"),
        "tolerations": given.get("tolerations"),
        "affinity": given.get("affinity"),
        "volumes": volumes,
        "imagePullSecrets": [{"name": name} for name in training.image_pull_secrets],
        "containers": [{"name": NODE, "volumeMounts": mounts}],
    }
    template = {"metadata": {"annotations": dict(settings.pod_annotations)}, "spec": pods}
    job = {"name": NODE, "template": {"spec": {"template": template}}}
    return {"manager": MANAGER, "trainingRuntimeSpec": {"template": {"spec": {"replicatedJobs": [job]}}}}


def _comparable(spec: dict[str, Any]) -> Any:
    patches = [patch for patch in spec.get("runtimePatches") or [] if patch.get("manager") == MANAGER]
    return _pruned(spec | {"runtimePatches": patches}, SERVER_FIELDS)


def _pruned(value: Any, without: tuple[str, ...] = ()) -> Any:
    """Without what is empty, or named."""
    if isinstance(value, Mapping):
        kept = {name: _pruned(inner, without) for name, inner in value.items() if name not in without}
        return {name: inner for name, inner in kept.items() if inner not in (None, "", {}, [])}
    if isinstance(value, list | tuple):
        return [_pruned(inner, without) for inner in value]
    return value


def _flat(value: Any, place: str = "", parent: str = "") -> Iterator[tuple[str, Any]]:
    """Every leaf with its place; quantities by their amount, so that 1024Mi is 1Gi."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _flat(inner, f"{place}.{name}".lstrip("."), name if parent not in QUANTITIES else parent)
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from _flat(inner, f"{place}[{number}]", parent)
    else:
        yield place, _amount(value) if parent in QUANTITIES else value


def _amount(quantity: Any) -> Any:
    from kubernetes.utils.quantity import parse_quantity

    return parse_quantity(quantity)


def settings_from(values: Mapping[str, Any]) -> JobSettings:
    """From what a pipeline handed over in a dict, where KFP makes every number a float."""
    known = {entry.name: entry for entry in fields(JobSettings)}
    cast: dict[str, Any] = {
        name: int(value) if known[name].type is int else value for name, value in values.items() if name in known
    }
    return JobSettings(**cast)


def settings_as_values(settings: JobSettings) -> dict[str, Any]:
    """What a pipeline hands over to the step; env reaches the pods as the step's own environment."""
    values = {entry.name: getattr(settings, entry.name) for entry in fields(settings) if entry.name != "env"}
    return {name: dict(value) if isinstance(value, Mapping) else value for name, value in values.items()}
