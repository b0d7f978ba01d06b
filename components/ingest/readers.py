"""Readers: a dataset as rows, each with its position and the digest of its raw form."""

import csv
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
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


class _Lines:
    """The lines of a file, and which of them have been read since the last row."""

    def __init__(self, file: Iterable[str]) -> None:
        self._lines = iter(file)
        self._number = 0
        self._pending: list[tuple[int, str]] = []

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = next(self._lines)
        self._number += 1
        if self._pending or line.strip("\r\n"):  # a row begins with the first line that is not empty
            self._pending.append((self._number, line))
        return line

    def take(self) -> tuple[int, bytes]:
        """Where the row that was just read begins, and its raw form."""
        position = self._pending[0][0]
        raw = "".join(line for _, line in self._pending).encode("utf-8", "surrogateescape")
        self._pending = []
        return position, raw


def _csv(path: Path) -> Iterator[Row]:
    csv.field_size_limit(2**31 - 1)
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        lines = _Lines(file)
        reader = csv.reader(lines, strict=True)
        header: list[str] | None = None
        while True:
            try:
                cells = next(reader, None)
            except csv.Error:
                position, raw = lines.take()
                yield Row(position, Reject.WRONG_TYPE, _digest(raw.strip()))
                continue
            if cells is None:
                return
            if not cells:
                continue
            position, raw = lines.take()
            if header is None:
                header = cells
                continue
            # more or fewer cells than the header has are no record
            value: Any = dict(zip(header, cells, strict=True)) if len(cells) == len(header) else Reject.WRONG_TYPE
            yield Row(position, value, _digest(raw.strip()))


def _parquet(path: Path) -> Iterator[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            position = 0
            for batch in file.iter_batches(batch_size=1024):
                for value, raw in _values(batch):
                    position += 1
                    yield Row(position, value, _digest(raw))
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"dataset: {path.name} is not a readable Parquet file: {str(error).splitlines()[0]}") from error


def _values(batch: Any) -> Iterator[tuple[Any, bytes]]:
    """A batch's rows and their raw form, one by one where one of them is not UTF-8."""
    try:
        rows = batch.to_pylist()
    except UnicodeDecodeError:
        rows = None
    if rows is not None:
        for value in rows:
            yield value, repr(value).encode("utf-8", "surrogatepass")
        return
    for index in range(batch.num_rows):
        row = batch.slice(index, 1)
        try:
            value = row.to_pylist()[0]
            yield value, repr(value).encode("utf-8", "surrogatepass")
        except UnicodeDecodeError:
            yield Reject.INVALID_TEXT, row.serialize().to_pybytes()


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
