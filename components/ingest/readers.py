"""Readers: a dataset as rows, each with its position and the digest of its raw form."""

import csv
import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.errors import DataError
from components.records import Reject, canonical_json


@dataclass(frozen=True)
class Row:
    """One row of a source. value is what was parsed, or why it could not be."""

    position: int  # the line of a jsonl or csv file, the row number elsewhere; from 1
    value: Any
    digest: str


def read_rows(source: Path | str) -> Iterator[Row]:
    """The rows of a file, by its suffix, or of a hub dataset given as org/name@revision.

    Raises:
        DataError: the file as a whole cannot be read.
    """
    if isinstance(source, str):
        yield from _hub(source)
        return
    reader = READERS.get(source.suffix.lower())
    if reader is None:
        raise DataError(f"dataset: {source.name} has an unknown suffix; allowed: {', '.join(READERS)}")
    try:
        yield from reader(source)
    except OSError as error:
        raise DataError(f"dataset: cannot read {source}: {error.strerror or error}") from error


def _jsonl(path: Path) -> Iterator[Row]:
    with path.open("rb") as file:
        for position, line in enumerate(file, start=1):
            raw = line.removeprefix(b"\xef\xbb\xbf") if position == 1 else line
            if raw.strip():
                yield Row(position, _parse(raw), _digest(raw.strip()))


def _json(path: Path) -> Iterator[Row]:
    content = _parse(path.read_bytes().removeprefix(b"\xef\xbb\xbf"))
    if not isinstance(content, list):
        raise DataError(
            f"dataset: {path.name} is not a JSON list of records; one record a line goes into a .jsonl file"
        )
    for position, value in enumerate(content, start=1):
        yield Row(position, value, _digest(canonical_json(value).encode("utf-8", "surrogatepass")))


def _csv(path: Path) -> Iterator[Row]:
    csv.field_size_limit(2**31 - 1)
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        reader = csv.DictReader(file, strict=True)
        while True:
            try:
                value: Any = next(reader, None)
            except csv.Error:
                value = Reject.WRONG_TYPE
            if value is None:
                return
            if isinstance(value, dict) and (None in value or None in value.values()):
                value = Reject.WRONG_TYPE  # more or fewer cells than the header has
            raw = repr(value).encode("utf-8", "surrogatepass")
            yield Row(reader.line_num, value, _digest(raw))


def _parquet(path: Path) -> Iterator[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            position = 0
            for batch in file.iter_batches(batch_size=1024):
                for value in batch.to_pylist():
                    position += 1
                    yield Row(position, value, _digest(repr(value).encode("utf-8", "surrogatepass")))
    except pa.ArrowException as error:
        raise DataError(f"dataset: {path.name} is not a readable Parquet file: {str(error).splitlines()[0]}") from error


def _hub(name: str) -> Iterator[Row]:
    from datasets import load_dataset

    repository, _, revision = name.partition("@")
    for position, value in enumerate(load_dataset(repository, revision=revision, split="train"), start=1):
        yield Row(position, value, _digest(repr(value).encode("utf-8", "surrogatepass")))


def _parse(raw: bytes) -> Any:
    try:
        return json.loads(raw.decode("utf-8"))
    except UnicodeDecodeError:
        return Reject.INVALID_TEXT
    except (ValueError, RecursionError):
        return Reject.NOT_JSON


def _digest(raw: bytes) -> str:
    return hashlib.sha256(raw).hexdigest()[:32]


READERS: dict[str, Callable[[Path], Iterator[Row]]] = {
    ".jsonl": _jsonl,
    ".parquet": _parquet,
    ".csv": _csv,
    ".json": _json,
}
