"""A compiled pipeline's steps in the order in which they run, and what stands between them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

Spec = Mapping[str, Any]


@dataclass(frozen=True)
class Step:
    """One step of a compiled pipeline.

    Args:
        name: the task's name, also the one that pods and the UI show.
        groups: the groups that it stands in, outermost first: conditions, loops, exit handlers.
    """

    name: str
    groups: tuple[str, ...] = ()


@dataclass(frozen=True)
class Edge:
    """What a step takes from another. Without a name it only waits for it."""

    source: str
    target: str
    name: str = ""


def steps(spec: Spec) -> list[Step]:
    """The steps, each after those whose results it takes."""
    found = {step.name: step for step, _, _ in _walk(spec)}
    before: dict[str, set[str]] = {name: set() for name in found}
    for edge in edges(spec):
        before[edge.target].add(edge.source)
    ordered: list[Step] = []
    while before:
        ready = sorted(name for name, others in before.items() if not others & before.keys())
        for name in ready or sorted(before):  # a cycle cannot be compiled
            ordered.append(found[name])
            del before[name]
    return ordered


def edges(spec: Spec) -> list[Edge]:
    """What each step takes from which; through groups as well."""
    made: set[tuple[str, str, str]] = set()
    for step, task, scope in _walk(spec):
        for source, name in _sources(task, scope):
            made.update((end, step.name, name) for end in _ends(spec, source, scope) if end != step.name)
    named = {(source, target) for source, target, name in made if name}
    return [Edge(*entry) for entry in sorted(made) if entry[2] or entry[:2] not in named]


@dataclass(frozen=True)
class _Scope:
    """A DAG of the pipeline: its tasks, and the task by which the DAG around it calls it."""

    tasks: Mapping[str, Any]
    caller: Mapping[str, Any] | None = None
    outer: "_Scope | None" = None


def _walk(spec: Spec) -> Iterator[tuple[Step, Mapping[str, Any], _Scope]]:
    yield from _inside(spec, _Scope(spec["root"]["dag"]["tasks"]), ())


def _inside(spec: Spec, scope: _Scope, groups: tuple[str, ...]) -> Iterator[tuple[Step, Mapping[str, Any], _Scope]]:
    for name, task in scope.tasks.items():
        component = spec["components"][task["componentRef"]["name"]]
        if "dag" in component:
            yield from _inside(spec, _Scope(component["dag"]["tasks"], task, scope), (*groups, name))
        else:
            yield Step(name, groups), task, scope


def _sources(task: Mapping[str, Any], scope: _Scope) -> Iterator[tuple[str, str]]:
    """The tasks, of the DAG or of one around it, whose outputs a task takes, and the outputs' names."""
    inputs = task.get("inputs", {})
    for kind in ("parameters", "artifacts"):
        for value in inputs.get(kind, {}).values():
            yield from _source(value, scope)
    for dependent in task.get("dependentTasks", []):
        yield dependent, ""
    if scope.caller is not None and scope.outer is not None:  # a group's steps wait for what the group waits for
        for source, _ in _sources(scope.caller, scope.outer):
            yield source, ""


def _source(value: Mapping[str, Any], scope: _Scope) -> Iterator[tuple[str, str]]:
    for kind, key in (("taskOutputParameter", "outputParameterKey"), ("taskOutputArtifact", "outputArtifactKey")):
        if kind in value:
            yield value[kind]["producerTask"], value[kind][key]
    if scope.caller is None or scope.outer is None:
        return
    for key, kind in (("componentInputParameter", "parameters"), ("componentInputArtifact", "artifacts")):
        if key in value:
            outer = scope.caller.get("inputs", {}).get(kind, {}).get(value[key])
            if outer:
                yield from _source(outer, scope.outer)


def _ends(spec: Spec, name: str, scope: _Scope) -> Iterator[str]:
    """The steps behind a task's name: itself, or the last ones of a group."""
    at: _Scope | None = scope
    while at is not None and name not in at.tasks:
        at = at.outer
    if at is None:
        return
    component = spec["components"][at.tasks[name]["componentRef"]["name"]]
    if "dag" not in component:
        yield name
        return
    inner = component["dag"]["tasks"]
    needed = {source for task in inner.values() for source, _ in _sources(task, _Scope(inner))}
    for last in inner.keys() - needed:
        yield from _ends(spec, last, _Scope(inner))
