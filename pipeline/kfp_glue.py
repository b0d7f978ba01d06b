"""What KFP needs and the story in dag.py does not: a signature made from the parameters, and placement."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

from kfp import dsl, kubernetes

from pipeline.parameters import Parameters
from pipeline.settings import SHARDED_STEPS, STORAGE_STEPS, NodeLabel, Resources, Scheduling, Settings

STEP_LABEL = "private-llm/step"


class Placement:
    """Puts a task into its image and onto its nodes, and hands it its credentials by reference."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def __call__(self, task: dsl.PipelineTask) -> dsl.PipelineTask:
        step = task.name
        task.set_container_image(self._settings.image(step))
        _restrict(task)
        if step == "register":
            _tell_origin(task, self._settings)
        like = SHARDED_STEPS.get(step, step)
        if wanted := self._settings.resources.get(step, self._settings.resources.get(like)):
            _ask(task, wanted)
        _schedule(task, self._settings.scheduling.get(step, self._settings.scheduling.get(like, Scheduling())))
        if seconds := self._settings.timeouts.get(step):
            kubernetes.set_timeout(task, seconds)
        if self._settings.launcher == "trainjob" and step in STORAGE_STEPS:
            self._share(task)
        for secret in self._settings.secrets:
            if step in secret.steps:
                kubernetes.use_secret_as_env(task, secret.name, dict(secret.keys), optional=secret.optional)
        if self._settings.image_pull_secrets:
            kubernetes.set_image_pull_secrets(task, list(self._settings.image_pull_secrets))
        if self._settings.retries:
            task.set_retry(
                self._settings.retries,
                backoff_duration="60s",
                backoff_factor=2,
                # counted from the first attempt's start: KFP's hour would end the retry of a step that takes longer
                backoff_max_duration=f"{30 * 24 * 3600}s",
            )
        return task

    def _share(self, task: dsl.PipelineTask) -> None:
        """The claim that training pods share, if they do; what is set on train reaches them through its TaskConfig."""
        storage = self._settings.storage
        if not storage.uri:
            kubernetes.mount_pvc(task, storage.claim, storage.path)
            task.set_env_variable("PRIVATE_LLM_CACHE", f"{storage.path}/cache")
            task.set_env_variable("HF_HOME", f"{storage.path}/cache/huggingface")
        if task.name == "train":
            for name, value in self._settings.trainjob.env.items():
                task.set_env_variable(name, value)


def _restrict(task: dsl.PipelineTask) -> None:
    """What PodSecurity's restricted level asks beyond KFP's own defaults, and the label network policies select by."""
    kubernetes.set_security_context(task, run_as_non_root=True)
    kubernetes.add_pod_label(task, STEP_LABEL, task.name)


def _tell_origin(task: dsl.PipelineTask, settings: Settings) -> None:
    """What only the pod knows of itself goes into a version's lineage: the images, and the label with the KFP run."""
    task.set_env_variable("PRIVATE_LLM_DATA_IMAGE", settings.data_image)
    task.set_env_variable("PRIVATE_LLM_TRAIN_IMAGE", settings.train_image)
    kubernetes.use_field_path_as_env(task, "KFP_RUN_ID", "metadata.labels['pipeline/runid']")


def _ask(task: dsl.PipelineTask, wanted: Resources) -> None:
    task.set_cpu_request(wanted.cpu).set_cpu_limit(wanted.cpu)
    task.set_memory_request(wanted.memory).set_memory_limit(wanted.memory)
    if wanted.gpus:
        task.set_accelerator_type(wanted.gpu_type).set_accelerator_limit(wanted.gpus)


def _schedule(task: dsl.PipelineTask, nodes: Scheduling) -> None:
    for label, value in nodes.node_selector.items():
        kubernetes.add_node_selector(task, label, value)
    _prefer(task, nodes.node_affinity)
    for taint in nodes.tolerations:
        kubernetes.add_toleration(
            task, key=taint.key, operator=taint.operator, value=taint.value or None, effect=taint.effect or None
        )


def _prefer(task: dsl.PipelineTask, labels: tuple[NodeLabel, ...]) -> None:
    """All required labels are one term, because terms are alternatives; each preferred one has a weight of its own."""
    terms = [[label for label in labels if not label.weight], *([label] for label in labels if label.weight)]
    for term in filter(None, terms):
        expressions = [
            {"key": label.key, "operator": label.operator, **({"values": list(label.values)} if label.values else {})}
            for label in term
        ]
        kubernetes.add_node_affinity(task, match_expressions=expressions, weight=term[0].weight or None)


def anything_new(resolved: dsl.PipelineTask) -> Any:
    """Whether resolve found something to do. Its answer is called Output: kfp.local knows no other in a condition."""
    return resolved.outputs["Output"] == "run"


def in_shards(on: Placement, shards: int, part: Any, join: Any, collected: Mapping[str, str], **arguments: Any) -> Any:
    """The outputs of a step that works on shards side by side and is then joined; of one task where there is one shard.

    Args:
        part: a component with the parameters shard and shards.
        join: a component that makes what one task would have made of lists of what those of the shards did.
        collected: for each input of join the output of part that it takes of all shards.
    """
    if shards == 1:
        return on(part(**arguments, shard=0, shards=1)).outputs
    with dsl.ParallelFor(list(range(shards)), name=f"{part.name}-shards") as shard:
        made = on(part(**arguments, shard=shard, shards=shards)).outputs
    return on(join(**{name: dsl.Collected(made[output]) for name, output in collected.items()})).outputs


def as_pipeline(story: Callable[[dict[str, Any]], Any], settings: Settings) -> Any:
    """A KFP pipeline whose inputs are the fields of Parameters, with their descriptions and a profile's defaults."""
    defaults = settings.parameters

    def private_llm(*channels: Any) -> Any:
        return story(dict(zip((entry.name for entry in fields(Parameters)), channels, strict=True)))

    arguments = [
        inspect.Parameter(
            entry.name,
            inspect.Parameter.POSITIONAL_OR_KEYWORD,
            default=getattr(defaults, entry.name),
            annotation=entry.type,
        )
        for entry in fields(Parameters)
    ]
    private_llm.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        arguments, return_annotation=inspect.signature(story).return_annotation
    )
    described = [f"    {entry.name}: {entry.metadata['description']}" for entry in fields(Parameters)]
    private_llm.__doc__ = "\n".join([str(story.__doc__), "", "Args:", *described])
    config = dsl.PipelineConfig(ttl_seconds_after_finished=settings.ttl or None)
    return dsl.pipeline(name="private-llm", description=story.__doc__, pipeline_config=config)(private_llm)
