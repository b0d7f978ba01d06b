"""Downstream tasks of lm-evaluation-harness: by name, or a folder of task files.

The harness itself comes with the extra `tasks` and is asked by evaluate alone; a list is read and pinned without it.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from components.corpora import RESERVED
from components.errors import DataError, ParameterError
from components.records import canonical_json, digest
from components.sources import Pinned, fetch, pin
from components.yaml_text import Loader, parse_yaml

NAME = re.compile(r"^[\w.+-]+$", re.ASCII)
HARNESS = "lm_eval"  # the package


class _TaskFile(Loader):
    """Reads what a task file says; a function that it names is not loaded."""


_TaskFile.add_multi_constructor("!", lambda *_: None)


def parse_tasks(tasks: str) -> list[str]:
    """The entries of a list: names of tasks, and folders, which have a slash.

    Raises:
        ParameterError: an entry is neither, or comes twice.
    """
    found: list[str] = []
    for entry in filter(None, (part.strip() for part in tasks.split(","))):
        if not (is_folder(entry) or NAME.match(entry)) or entry in (*found, *RESERVED):
            raise ParameterError(
                f"evaluation_tasks: {entry!r} is neither a task's name nor a folder (written with a slash, such as "
                f"./tasks) that comes once; none of {', '.join(RESERVED)} is a name"
            )
        found.append(entry)
    return found


def is_folder(entry: str) -> bool:
    """Whether an entry is a folder of task files and not a name."""
    return "/" in entry


def pin_tasks(tasks: str) -> dict[str, Pinned]:
    """The entries of a list, folders pinned to their bytes; the names of the harness's own tasks stand for themselves.

    Raises:
        ParameterError: an entry has another form.
        DataError: a folder is not there, or holds no task.
    """
    found = {}
    for entry in parse_tasks(tasks):
        found[entry] = pin(entry, "tasks") if is_folder(entry) else Pinned(uri="", digest="")
        if is_folder(entry):
            names_in(fetch(found[entry], "tasks"))
    return found


def tasks_digest(pinned: Mapping[str, Pinned]) -> str:
    """One digest for all entries; empty where there are none. A folder counts by its bytes and not by its place."""
    return digest(canonical_json([task.digest or name for name, task in pinned.items()])) if pinned else ""


def task_names(tasks: Mapping[str, Pinned]) -> list[str]:
    """What rules may name: the listed names, and the tasks in listed folders."""
    return [
        name
        for entry, pinned in tasks.items()
        for name in (names_in(fetch(pinned, "tasks")) if is_folder(entry) else [entry])
    ]


def names_in(folder: Path) -> list[str]:
    """The tasks that a folder's YAML files define, sorted.

    Raises:
        DataError: a file is not YAML, or there is no task.
    """
    found = []
    for path in sorted(folder.rglob("*.yaml")):
        try:
            content: Any = parse_yaml(path.read_bytes(), _TaskFile)
        except ValueError as error:
            raise DataError(f"evaluation_tasks: {path} is not YAML: {error}") from None
        if isinstance(content, dict) and isinstance(content.get("task"), str):
            found.append(content["task"])
    if not found:
        raise DataError(f"evaluation_tasks: {folder} has no YAML file with a line `task: NAME`")
    return sorted(found)
