"""The file of schedules: what it may say, checked with the line of whatever is wrong."""

import re
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any, get_type_hints
from zoneinfo import ZoneInfo

import yaml

from components.errors import ParameterError
from components.yaml_text import Loader
from pipeline.cron import Cron
from pipeline.zones import zone_of

LATEST = "latest"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
WORDS = {str: "text", int: "a whole number", bool: "true or false", dict: "a mapping", list: "a list"}


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One schedule.

    Args:
        name: What it is called, once in the file.
        cron: When, in five fields (minute hour day month weekday) or six with the seconds first.
        time_zone: The IANA zone that cron is meant in.
        description: What the UI shows of it.
        pipeline: The pipeline's name on the server.
        version: A version's name, or latest: the youngest at each run.
        experiment: Where its runs go; made if there is none.
        parameters: What its runs are given.
        catch_up: Whether runs that were missed while the scheduler was away are all made up for; otherwise the last is.
        max_concurrency: How many of its runs may go on at once, 1 to 10.
        enabled: Whether it fires.
        service_account: The pods' service account, if not the profile's.
        pipeline_root: Where artifacts go, if not where the server puts them.
    """

    name: str
    cron: str
    time_zone: str = "UTC"
    description: str = ""
    pipeline: str = "private-llm"
    version: str = LATEST
    experiment: str = "Default"
    parameters: dict[str, Any] = field(default_factory=dict)
    catch_up: bool = False
    max_concurrency: int = 1
    enabled: bool = True
    service_account: str = ""
    pipeline_root: str = ""

    @property
    def parsed(self) -> Cron:
        return Cron.parse(self.cron)

    @property
    def zone(self) -> ZoneInfo:
        return zone_of(self.time_zone)


@dataclass(frozen=True, kw_only=True)
class Schedules:
    """A file of schedules.

    Args:
        owner: Whose schedules these are. What is on the server under another owner, or under none, is never touched.
        schedules: One entry a schedule. What stands above them (pipeline, version, experiment, time_zone) holds for
            those that do not say it themselves.
    """

    owner: str
    schedules: list[Entry]
    path: Path
    lines: dict[tuple[str, str], int]

    def at(self, entry: str, name: str = "") -> str:
        """Where something of an entry stands in the file."""
        line = self.lines.get((entry, name)) or self.lines.get((entry, "parameters")) or self.lines[entry, ""]
        return f"{self.path}, line {line}"


SHARED = ("pipeline", "version", "experiment", "time_zone")
TOP = ("owner", "schedules", *SHARED)
KINDS = {name: getattr(kind, "__origin__", kind) for name, kind in get_type_hints(Entry).items()}


def read_schedules(path: Path) -> Schedules:
    """The schedules of a file.

    Raises:
        ParameterError: anything in it that cannot be; with its line.
    """
    top = _mapping(_root(path), "the file", path)
    _known(top, TOP, ("owner", "schedules"), path, 1)
    owner, _ = _value(top, "owner", str, path)
    if not NAME.fullmatch(owner):
        raise ParameterError(
            f"{_at(path, top['owner'][0])}: owner={owner!r} must be of letters, digits, dots and dashes"
        )
    shared = {name: _value(top, name, str, path) for name in SHARED if name in top}
    key, listed = top["schedules"]
    if not isinstance(listed, yaml.SequenceNode):
        raise ParameterError(f"{_at(path, key)}: schedules must be a list")
    entries: list[Entry] = []
    lines: dict[tuple[str, str], int] = {}
    for node in listed.value:
        entry, places = _entry(node, shared, path)
        if entry.name in {other.name for other in entries}:
            raise ParameterError(f"{path}, line {places['name']}: name={entry.name!r} is given twice")
        entries.append(entry)
        lines |= {(entry.name, name): line for name, line in places.items()}
        lines[entry.name, ""] = node.start_mark.line + 1
    return Schedules(owner=owner, schedules=entries, path=path, lines=lines)


def _root(path: Path) -> yaml.Node | None:
    try:
        with path.open(encoding="utf-8") as file:
            return yaml.compose(file, Loader)
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not text"
        raise ParameterError(f"{path}: {reason}") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f", line {mark.line + 1}" if mark else ""
        raise ParameterError(f"{path}{where}: not YAML: {error.problem or error.context}") from None
    except (yaml.YAMLError, RecursionError) as error:
        raise ParameterError(f"{path}: not YAML: {' '.join(str(error).split())}") from None


Mapping = dict[str, tuple[yaml.Node, yaml.Node]]


def _mapping(node: yaml.Node | None, what: str, path: Path) -> Mapping:
    """A mapping's keys and values, as nodes that know their lines."""
    if not isinstance(node, yaml.MappingNode):
        line = node.start_mark.line + 1 if node else 1
        raise ParameterError(f"{path}, line {line}: {what} must be a mapping")
    found: Mapping = {}
    for key, value in node.value:
        if not isinstance(key, yaml.ScalarNode) or key.value in found:
            raise ParameterError(f"{_at(path, key)}: {getattr(key, 'value', 'this')!s} is given twice")
        found[key.value] = (key, value)
    return found


def _entry(node: yaml.Node, shared: dict[str, tuple[Any, int]], path: Path) -> tuple[Entry, dict[str, int]]:
    said = _mapping(node, "a schedule", path)
    known = [entry.name for entry in fields(Entry)]
    required = [entry.name for entry in fields(Entry) if entry.default is MISSING and entry.default_factory is MISSING]
    _known(said, known, required, path, node.start_mark.line + 1)
    values = {name: value for name, (value, _) in shared.items()}
    places = {name: line for name, (_, line) in shared.items()}
    for name in said:
        values[name], places[name] = _value(said, name, KINDS[name], path)
    if "parameters" in said:
        inner = _mapping(said["parameters"][1], "parameters", path)
        places |= {name: key.start_mark.line + 1 for name, (key, _) in inner.items() if name not in places}
    entry = Entry(**values)
    if not NAME.fullmatch(entry.name):
        raise ParameterError(
            f"{path}, line {places['name']}: name={entry.name!r} must be of at most 63 letters, digits, dots and dashes"
        )
    if not 1 <= entry.max_concurrency <= 10:
        raise ParameterError(
            f"{path}, line {places['max_concurrency']}: max_concurrency={entry.max_concurrency} is not from 1 to 10"
        )
    for name in ("cron", "time_zone"):
        try:
            _ = entry.parsed if name == "cron" else entry.zone
        except ParameterError as error:
            raise ParameterError(f"{path}, line {places.get(name, places['cron'])}: {error}") from None
    return entry, places


def _known(said: Mapping, known: Any, required: Any, path: Path, line: int) -> None:
    for name, (key, _) in said.items():
        if name not in known:
            raise ParameterError(f"{_at(path, key)}: {name!r} is unknown; allowed: {', '.join(known)}")
    for name in required:
        if name not in said:
            raise ParameterError(f"{path}, line {line}: {name!r} is missing")


def _value(said: Mapping, name: str, kind: type, path: Path) -> tuple[Any, int]:
    key, node = said[name]
    line = key.start_mark.line + 1
    try:
        value = _scalar(node) if isinstance(node, yaml.ScalarNode) else yaml.safe_load(yaml.serialize(node))
    except (yaml.YAMLError, ValueError) as error:  # a tag or a date that there is not
        problem = getattr(error, "problem", None) or str(error)
        raise ParameterError(f"{path}, line {line}: {name}: {problem}") from None
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise ParameterError(f"{path}, line {line}: {name}={value!r} must be {WORDS[kind]}")
    return value, line


def _scalar(node: yaml.ScalarNode) -> Any:
    loader = yaml.SafeLoader("")
    try:
        return loader.construct_object(node)
    finally:
        loader.dispose()


def _at(path: Path, node: yaml.Node) -> str:
    return f"{path}, line {node.start_mark.line + 1}"
