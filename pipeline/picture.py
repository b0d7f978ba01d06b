"""The compiled pipeline as a picture: Mermaid, which GitHub and GitLab draw."""

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from pipeline.steps import Step, edges, steps

MOST_NAMES = 3


def as_mermaid(spec: Mapping[str, Any]) -> str:
    """A flow chart of the steps. A solid arrow hands over artifacts, a dotted one values alone."""
    ordered = steps(spec)
    lines = ["flowchart TD", *_nodes(ordered, ())]
    taken: dict[tuple[str, str], list[str]] = defaultdict(list)
    for edge in edges(spec):
        taken[edge.source, edge.target].append(edge.name)
    place = {step.name: number for number, step in enumerate(ordered)}
    for (source, target), names in sorted(taken.items(), key=lambda item: [place[end] for end in item[0]]):
        lines.append(f"    {source} {_arrow(spec, source, [name for name in names if name])} {target}")
    return "\n".join(lines)


def _nodes(ordered: list[Step], groups: tuple[str, ...]) -> list[str]:
    """The steps of a group, and below them the groups in it."""
    indent = "    " * (len(groups) + 1)
    lines = [f"{indent}{step.name}" for step in ordered if step.groups == groups]
    depth = len(groups)
    inner = dict.fromkeys(
        step.groups[depth] for step in ordered if step.groups[:depth] == groups and len(step.groups) > depth
    )
    for name in inner:
        lines += [f"{indent}subgraph {name}", *_nodes(ordered, (*groups, name)), f"{indent}end"]
    return lines


def _arrow(spec: Mapping[str, Any], source: str, names: list[str]) -> str:
    components = [spec["components"][task["componentRef"]["name"]] for task in _named(spec, source)]
    outputs = components[0].get("outputDefinitions", {}).get("artifacts", {})
    artifacts = [name for name in names if name in outputs]
    values = len(names) - len(artifacts)
    said = names if not artifacts and values <= MOST_NAMES else artifacts
    said = [*said, *([f"{values} values"] if values and said is artifacts else [])]
    if not said:
        return "-.->"
    return f"-- {', '.join(said)} -->" if artifacts else f"-. {', '.join(said)} .->"


def _named(spec: Mapping[str, Any], name: str) -> list[Any]:
    dags = [spec["root"]["dag"], *(part["dag"] for part in spec["components"].values() if "dag" in part)]
    return [dag["tasks"][name] for dag in dags if name in dag["tasks"]]
