"""Named texts beside the dataset, `name=path or URI` each: those to score, and those to keep out of the records."""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from components.errors import DataError, ParameterError
from components.records import canonical_json, digest
from components.sources import PARAMETER, Kind, Pinned, pin

NAME = re.compile(r"^[\w-]+$", re.ASCII)
RESERVED = ("records", "corpora", "generation", "tasks")  # what the gate's rules may name besides
SURROGATE = re.compile("[\ud800-\udfff]")
TEXT = "text"  # the field of a JSON line, the column of a Parquet file


def parse_corpora(corpora: str, parameter: str = "evaluation_corpora") -> dict[str, str]:
    """The texts of `name=uri,name=uri` by their names, in that order.

    Raises:
        ParameterError: an entry of this parameter has another form, or a name comes twice.
    """
    found: dict[str, str] = {}
    for entry in filter(None, corpora.split(",")):
        name, _, uri = (part.strip() for part in entry.partition("="))
        if not (NAME.match(name) and uri) or name in (*found, *RESERVED):
            raise ParameterError(
                f"{parameter}: {entry.strip()!r} is not name=path or name=uri, with a name of letters, digits, "
                f"- and _ that comes once and is none of {', '.join(RESERVED)}"
            )
        found[name] = uri
    return found


def pin_corpora(corpora: str, kind: Kind) -> dict[str, Pinned]:
    """The texts of `name=uri,name=uri`, pinned, by their names.

    Raises:
        ParameterError: an entry has another form, or a name comes twice.
        DataError: a text cannot be found.
    """
    return {name: pin(uri, kind) for name, uri in parse_corpora(corpora, PARAMETER[kind]).items()}


def corpora_digest(pinned: Mapping[str, Pinned]) -> str:
    """One digest for all texts and their names; empty where there are none."""
    return digest(canonical_json({name: text.digest for name, text in pinned.items()})) if pinned else ""


def read_documents(path: Path) -> Iterator[str]:
    """The documents of a .txt file (the whole of it is one), or of the field `text` of .jsonl or .parquet rows.

    Raises:
        DataError: the file is not there, is not readable, or has no such field; with the place.
    """
    readers = {".txt": _txt, ".jsonl": _jsonl, ".parquet": _parquet}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise DataError(f"{path} is not a text file; allowed: {', '.join(readers)}")
    try:
        yield from reader(path)
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8: {error.reason} at byte {error.start}") from None
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from None


def _txt(path: Path) -> Iterator[str]:
    yield path.read_bytes().decode("utf-8-sig")


def _jsonl(path: Path) -> Iterator[str]:
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield _text(line, f"{path} line {number}")


def _text(line: bytes, place: str) -> str:
    try:
        row = json.loads(line.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        raise DataError(f"{place} is not JSON") from None
    text = row.get(TEXT) if isinstance(row, dict) else None
    if not is_text(text):
        raise DataError(f"{place} has no field {TEXT!r} with a string in it")
    return str(text)


def is_text(value: Any) -> bool:
    """Whether a value is a string without an unpaired surrogate, which JSON can spell and UTF-8 cannot."""
    return isinstance(value, str) and not SURROGATE.search(value)


def _parquet(path: Path) -> Iterator[str]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            if TEXT not in file.schema_arrow.names:
                raise DataError(f"{path} has no column {TEXT!r}, only {', '.join(file.schema_arrow.names)}")
            position = 0
            for batch in file.iter_batches(batch_size=1024, columns=[TEXT]):
                for text in batch.column(0).to_pylist():
                    position += 1
                    if not isinstance(text, str):
                        raise DataError(f"{path} row {position} has no string in column {TEXT!r}")
                    yield text
    except pa.ArrowException as error:
        raise DataError(f"{path} is not a readable Parquet file: {str(error).splitlines()[0]}") from None
