"""A dataset as its sources: one, by its name, or several that a YAML file lists with licence, columns and weight."""

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import PurePosixPath
from typing import Any

from components.errors import DataError, ParameterError
from components.records import canonical_json
from components.sources import Pinned, check_local, local_path, pin, read_text, where
from components.yaml_text import parse_yaml

# Instruction records have the first four; conversations have messages, plain text has text.
FIELDS = ("instruction", "context", "response", "category", "messages", "text")
LISTS = (".yaml", ".yml")


@dataclass(frozen=True, kw_only=True)
class Source:
    """One place that records come from, and how they are read. Empty values mean the run's parameters.

    Raises:
        DataError: a value is not allowed.
    """

    dataset: str  # path, folder, glob, URI, or hub id
    name: str = ""  # stands before the file's name in the records
    weight: float = 1.0  # share of its records to keep, chosen by their ids
    license: str = ""
    columns: Mapping[str, str] = field(default_factory=dict)  # field: column

    def __post_init__(self) -> None:
        for name in ("dataset", "name", "license"):
            value = getattr(self, name)
            if not isinstance(value, str) or (name == "dataset" and not value):
                raise DataError(f"{name}={value!r} must be text")
        if isinstance(self.weight, bool) or not isinstance(self.weight, (int, float)) or not 0 < self.weight <= 1:
            raise DataError(f"weight={self.weight!r} must be above 0 and at most 1: the share of records to keep")
        check_columns(self.columns)


def sources(dataset: str) -> list[Source]:
    """What a dataset parameter names: itself, or the sources that its YAML file lists.

    Raises:
        DataError: the file cannot be read, or is no list of sources.
    """
    if not is_list(dataset):
        return [Source(dataset=dataset)]
    try:
        content = parse_yaml(read_text(dataset))
    except ValueError as error:
        raise DataError(f"dataset: {dataset} is not YAML: {error}") from None
    entries = content.get("sources") if isinstance(content, dict) else None
    if not isinstance(entries, list) or not entries or set(content) != {"sources"}:
        raise DataError(f"dataset: {dataset} must be a mapping with one list, sources")
    return [_source(entry, dataset, number) for number, entry in enumerate(entries, start=1)]


def is_list(dataset: str) -> bool:
    """Whether a dataset is a file that lists sources."""
    return dataset.lower().endswith(LISTS)


def check(dataset: str) -> None:
    """Raises, naming what is wrong, when a dataset's local parts are not there. Asks no network."""
    if not is_list(dataset) or where(dataset) == "local":
        for source in sources(dataset):
            check_local(source.dataset, "dataset")


def pin_sources(dataset: str) -> tuple[Pinned, list[tuple[Source, Pinned]]]:
    """The dataset's immutable name and digest, and those of each of its sources.

    Raises:
        DataError: one of them cannot be found or read.
    """
    pinned = [(source, pin(source.dataset, "dataset")) for source in sources(dataset)]
    if not is_list(dataset):
        return pinned[0][1], pinned
    # where a source lies is no part of it; what is read there, and how, is
    entries = [{**asdict(source), "dataset": place.digest} for source, place in pinned]
    digest = "sha256:" + hashlib.sha256(canonical_json(entries).encode()).hexdigest()
    uri = str(local_path(dataset)) if where(dataset) == "local" else dataset
    return Pinned(uri=uri, digest=digest), pinned


def parse_columns(columns: str) -> dict[str, str]:
    """`field=column,…` as a mapping.

    Raises:
        ParameterError: it is not of this form, or names an unknown field.
    """
    mapping: dict[str, str] = {}
    for pair in filter(None, (part.strip() for part in columns.split(","))):
        name, separator, column = (part.strip() for part in pair.partition("="))
        if not separator or not column or name not in FIELDS:
            raise ParameterError(f"columns: {pair!r} is not field=column; fields are {', '.join(FIELDS)}")
        mapping[name] = column
    return mapping


def check_columns(columns: Any) -> None:
    """Raises DataError unless this maps fields to columns."""
    if not isinstance(columns, Mapping):
        raise DataError(f"columns={columns!r} must be a mapping of fields to columns")
    for name, column in columns.items():
        if name not in FIELDS or not isinstance(column, str) or not column:
            raise DataError(f"columns: {name!r}: {column!r} is not field: column; fields are {', '.join(FIELDS)}")


def _source(entry: Any, dataset: str, number: int) -> Source:
    known = [item.name for item in fields(Source)]
    place = f"dataset: {dataset}, source {number}"
    if not isinstance(entry, dict) or "dataset" not in entry or set(entry) - set(known):
        raise DataError(f"{place}: must be a mapping with dataset and, where needed, {', '.join(known[1:])}")
    try:
        source = Source(**entry)
    except DataError as error:
        raise DataError(f"{place}: {error}") from None
    if is_list(source.dataset):
        raise DataError(f"{place}: {source.dataset} is a list of sources itself; list its sources here")
    return replace(source, dataset=_beside(dataset, source.dataset))


def _beside(dataset: str, name: str) -> str:
    """A relative path in a list of sources is relative to the list; what lies there wins over a hub id of its name."""
    if "://" in name or name.startswith(("/", "~")):
        return name
    if where(dataset) == "local":
        beside = local_path(dataset).parent / name
        return str(beside) if beside.exists() or where(name) == "local" else name
    if where(name) != "local":
        return name
    folder, _, _ = dataset.rpartition("/")
    if ".." in PurePosixPath(name).parts:
        raise DataError(f"dataset: {dataset}: {name} leads out of its folder; give its URI")
    return f"{folder}/{PurePosixPath(name)}"  # a store knows no ./
