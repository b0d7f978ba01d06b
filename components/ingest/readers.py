"""Readers: a file or hub dataset as rows, each with its position. The format is told by the content."""

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

from components.errors import DataError
from components.ingest.formats import Format, detect, opened
from components.ingest.rows import Row
from components.ingest.tables import arrow_file, arrow_stream, hub, parquet
from components.ingest.text import csv_rows, json_list, jsonl, markdown, paragraphs
from components.sources import Pinned


def read_file(path: Path, wanted: frozenset[str]) -> tuple[str, Iterator[Row]]:
    """A file's format and its rows.

    Args:
        wanted: names of columns, in lower case; those of a table are read, or all where it has none of them.

    Raises:
        DataError: the file is of no known format; or, from the rows, it is damaged.
    """
    found = detect(path)
    if found.name == "parquet":
        return found.name, parquet(path, wanted)
    if found.name == "arrow" and not found.packed:
        return found.name, arrow_file(path, wanted)
    return str(found), _streamed(path, found, wanted)


def read_hub(pinned: Pinned, wanted: frozenset[str]) -> Iterator[Row]:
    """The rows of a hub dataset's split; of train where none is named."""
    return hub(pinned.uri, wanted)


def _streamed(path: Path, found: Format, wanted: frozenset[str]) -> Iterator[Row]:
    with closing(opened(path, found.packed)) as file:
        if found.name == "arrow stream":
            yield from arrow_stream(path, file, wanted)
            return
        try:
            yield from csv_rows(file, found.delimiter) if found.delimiter else TEXT[found.name](file)
        except (OSError, EOFError) as error:
            raise DataError(f"dataset: cannot read {path}: {' '.join(str(error).split())}") from error


TEXT: dict[str, Callable[..., Iterator[Row]]] = {
    "jsonl": jsonl,
    "json": json_list,
    "text": paragraphs,
    "markdown": markdown,
}
