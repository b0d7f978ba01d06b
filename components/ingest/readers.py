"""Readers: a file or hub dataset as blocks of rows. The format is told by the content."""

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

from components.errors import DataError
from components.ingest.formats import Format, detect, opened
from components.ingest.rows import Block, Row, blocks
from components.ingest.tables import arrow_file, arrow_stream, hub, parquet
from components.ingest.text import csv_rows, json_list, line_blocks, markdown, paragraphs
from components.sources import Pinned


def read_file(path: Path, wanted: frozenset[str]) -> tuple[str, Iterator[Block]]:
    """A file's format and its rows, in blocks.

    Args:
        wanted: names of columns, in lower case; those of a table are read, or all where it has none of them.

    Raises:
        DataError: the file is of no known format; or, from the blocks, it is damaged.
    """
    found = detect(path)
    if found.name == "parquet":
        return found.name, blocks(parquet(path, wanted))
    if found.name == "arrow" and not found.packed:
        return found.name, blocks(arrow_file(path, wanted))
    return str(found), _streamed(path, found, wanted)


def read_hub(pinned: Pinned, wanted: frozenset[str]) -> Iterator[Block]:
    """The rows of a hub dataset's split, in blocks; of train where none is named."""
    return blocks(hub(pinned.uri, wanted))


def _streamed(path: Path, found: Format, wanted: frozenset[str]) -> Iterator[Block]:
    with closing(opened(path, found.packed)) as file:
        if found.name == "arrow stream":
            yield from blocks(arrow_stream(path, file, wanted))
            return
        try:
            if found.name == "jsonl":
                yield from line_blocks(file)
            else:
                yield from blocks(csv_rows(file, found.delimiter) if found.delimiter else TEXT[found.name](file))
        except (OSError, EOFError) as error:
            raise DataError(f"dataset: cannot read {path}: {' '.join(str(error).split())}") from error


TEXT: dict[str, Callable[..., Iterator[Row]]] = {
    "json": json_list,
    "text": paragraphs,
    "markdown": markdown,
}
