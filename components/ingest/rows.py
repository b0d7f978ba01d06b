"""What every reader yields: rows of a source, each with its position and its raw form."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

BOM = b"\xef\xbb\xbf"
BLOCK = 1 << 20  # bytes that are read at once
# A longer row is rejected unread: about a million tokens, far beyond what a model takes.
MAX_ROW = 4 << 20


class Hashed(NamedTuple):
    """The raw form of a row that was too long to keep."""

    digest: str


class Row(NamedTuple):
    """One row. value is what was parsed, or why it could not be; None where raw is JSON that is still to be parsed."""

    position: int  # the line on which it begins in a text file, the row's number elsewhere; from 1
    value: Any
    raw: Any  # bytes of the source; anything else is digested by its representation


@dataclass(frozen=True, kw_only=True)
class Block:
    """Rows of a file that follow each other: what one worker prepares at a time.

    Equal content means equal rows, wherever it stands: positions count from `start`.
    """

    start: int  # what is added to its rows' positions
    content: bytes | tuple[Row, ...]  # JSON lines as they are in the file, or rows that were read

    def digest(self) -> str:
        """SHA-256 of its content."""
        state = hashlib.sha256()
        if isinstance(self.content, bytes):
            state.update(b"lines")
            state.update(self.content)
        for row in () if isinstance(self.content, bytes) else self.content:
            state.update(repr(row).encode("utf-8", "backslashreplace") + b"\n")
        return state.hexdigest()


def row_digest(raw: Any) -> str:
    """128 bits of SHA-256 of a raw row, to find it again without keeping its text."""
    if isinstance(raw, Hashed):
        return raw.digest
    data = raw.strip() if isinstance(raw, bytes) else repr(raw).encode("utf-8", "backslashreplace")
    return hashlib.sha256(data).hexdigest()[:32]


def blocks(rows: Iterator[Row]) -> Iterator[Block]:
    """Rows, put together as they come to about BLOCK bytes."""
    pending: list[Row] = []
    start = size = 0
    for row in rows:
        start = start if pending else row.position - 1
        pending.append(row._replace(position=row.position - start))
        size += _size(row.raw)
        if size >= BLOCK:
            yield Block(start=start, content=tuple(pending))
            pending, size = [], 0
    if pending:
        yield Block(start=start, content=tuple(pending))


def _size(raw: Any) -> int:
    """About how many bytes a row takes."""
    if isinstance(raw, dict):
        return 256 + sum(len(value) if isinstance(value, str | bytes) else 512 for value in raw.values())
    return 256 + (len(raw) if isinstance(raw, bytes) else 0)
