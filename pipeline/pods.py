"""The pods of a step. KFP's API tells the Argo nodes below a step, and a log is asked for by the name of a pod.

Argo names a node by a hash of its path, and a pod by its workflow, template and that hash (workflow/util in Argo
Workflows, RetrievePodName in KFP's backend/src/common/util/workflow.go).
"""

from itertools import permutations
from typing import Any

PLAIN, RETRIED = "system-container-impl", "retry-system-container-impl"
# In front of both, the numbers of the step's annotations and labels, where it has any (argocompiler/container.go in
# KFP 2.17): each of our steps has one label.
METADATA = ("metadata-0-1-", "")
MOST_TRIES = 20


def pods_of(run: Any, step: str) -> list[list[str]]:
    """The pods in which a step ran, in order of time; each with the names under which a server may know it."""
    details = (run.run_details.task_details if run.run_details else None) or []
    nodes = [child.pod_name for task in details if task.display_name == step for child in task.child_tasks or []]
    groups = [task.display_name for task in details if task.child_tasks and task.display_name != step]
    return [names for node in nodes if node for names in _pods(node, step, groups, details)]


def _pods(node: str, step: str, groups: list[str], details: list[Any]) -> list[list[str]]:
    workflow, _, hashed = node.rpartition("-")
    if not any((task.display_name or "").startswith("executor(") for task in details):
        return [[*_names(workflow, [PLAIN], hashed), node]]
    path = _path(workflow, step, hashed, groups)
    if not path:
        return [[*_names(workflow, [PLAIN, RETRIED], hashed), node]]
    tries = [fnv1a(f"{path}({number})") for number in range(MOST_TRIES)]
    known = {task.display_name for task in details if (task.display_name or "").startswith("executor(")}
    return [
        [*_names(workflow, [RETRIED], tried), f"{workflow}-{tried}"]
        for number, tried in enumerate(tries)
        if f"executor({number})" in known
    ]


def _names(workflow: str, templates: list[str], hashed: str) -> list[str]:
    return [f"{workflow}-{metadata}{template}-{hashed}" for metadata in METADATA for template in templates]


def _path(workflow: str, step: str, hashed: str, groups: list[str]) -> str:
    """The path of the node with this hash, found by trying the groups that the step may stand in."""
    inner = [
        name for name in dict.fromkeys(groups) if name not in (workflow, "root") and not name.startswith("executor")
    ]
    for depth in range(3):
        for chosen in permutations(inner, depth):
            path = ".".join([workflow, "root", *chosen, step, "executor"])
            if fnv1a(path) == hashed:
                return path
    return ""


def fnv1a(text: str) -> str:
    """The 32-bit FNV-1a hash of a text, in decimal, as Argo's node ids end with."""
    value = 0x811C9DC5
    for byte in text.encode():
        value = (value ^ byte) * 0x01000193 % 2**32
    return str(value)
