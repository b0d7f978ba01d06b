"""Readers: a file or hub dataset as blocks of rows. The format is told by the content."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import IO

from components.errors import DataError
from components.ingest.formats import Format, detect, opened
from components.ingest.rows import Block, Row, blocks
from components.ingest.tables import Select, arrow_file, arrow_stream, hub, parquet
from components.ingest.text import csv_rows, json_list, line_blocks, markdown, paragraphs
from components.sources import Pinned


def read_file(path: Path, select: Select) -> tuple[str, Iterator[Block]]:
    """A file's format and its rows, in blocks.

    Args:
        select: which of the columns of a table are read.

    Raises:
        DataError: the file is of no known format; or, from the blocks, it is damaged.
    """
    found = detect(path)
    if found.name == "parquet":
        return found.name, blocks(parquet(path, select))
    if found.name == "arrow" and not found.packed:
        return found.name, blocks(arrow_file(path, select))
    return str(found), _streamed(path, found, select)


def read_hub(pinned: Pinned, select: Select) -> Iterator[Block]:
    """The rows of a hub dataset's split, in blocks; of train where none is named."""
    return blocks(hub(pinned.uri, select))


def _streamed(path: Path, found: Format, select: Select) -> Iterator[Block]:
    with closing(opened(path, found.packed)) as file:
        if found.name == "arrow stream":
            yield from blocks(arrow_stream(path, file, select))
            return
        try:
            if found.name == "jsonl":
                yield from line_blocks(file)
            else:
                yield from blocks(_text_rows(file, found, path.name))
        except (OSError, EOFError) as error:
            raise DataError(f"dataset: cannot read {path}: {' '.join(str(error).split())}") from error


def _text_rows(file: IO[bytes], found: Format, name: str) -> Iterator[Row]:
    if found.name == "csv":
        return csv_rows(file, found.delimiter, name)
    if found.name == "json":
        return json_list(file, name)
    return markdown(file) if found.name == "markdown" else paragraphs(file)
