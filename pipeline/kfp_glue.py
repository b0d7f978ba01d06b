"""What KFP needs and the story in dag.py does not: a signature made from the parameters, and placement."""

import inspect
from collections.abc import Callable
from dataclasses import fields
from typing import Any

from kfp import dsl

from pipeline.parameters import Parameters
from pipeline.settings import Settings


class Placement:
    """Puts a task into its image and gives it its resources."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def __call__(self, task: dsl.PipelineTask) -> dsl.PipelineTask:
        task.set_container_image(self._settings.image(task.name))
        if wanted := self._settings.resources.get(task.name):
            task.set_cpu_request(wanted.cpu).set_cpu_limit(wanted.cpu)
            task.set_memory_request(wanted.memory).set_memory_limit(wanted.memory)
            if wanted.gpus:
                task.set_accelerator_type(wanted.gpu_type).set_accelerator_limit(wanted.gpus)
        return task


def as_pipeline(story: Callable[[dict[str, Any]], Any], defaults: Parameters) -> Any:
    """A KFP pipeline whose inputs are the fields of Parameters, with their descriptions and a profile's defaults."""

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
    return dsl.pipeline(name="private-llm", description=story.__doc__)(private_llm)
