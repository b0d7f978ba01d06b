"""Readers of text: jsonl, a JSON list, csv, paragraphs, Markdown. None holds more than a row and a block."""

import csv
import hashlib
import json
import re
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import IO, Any, NoReturn

import orjson

from components.errors import DataError
from components.ingest.elements import Elements
from components.ingest.rows import BLOCK, BOM, MAX_ROW, Block, Hashed, Row
from components.records import Reject

# A block of lines: the bytes from which on it may end and beyond which it does, and which lines may end it.
SHORTEST, LONGEST, ONE_IN = 384 << 10, 768 << 10, 16
HEADING = re.compile(r"#{1,6}\s")
FENCE = ("```", "~~~")
# The end of a key, or a text that looks like it; and without most texts: a quote in one has a backslash before it,
# behind a key there is none, or two.
COLON = re.compile(rb'"[ \t\r\n]*:')
KEY_END = re.compile(rb'"(?:(?<!\\")|(?<=\\\\"))[ \t\r\n]*:')


def lines(file: IO[bytes]) -> Iterator[tuple[int, bytes | Hashed]]:
    """The lines of a file, numbered from 1, without its byte order mark; one that is too long comes as its digest."""
    number = 0
    while line := file.readline(MAX_ROW + 1):
        number += 1
        if number == 1:
            line = line.removeprefix(BOM)
        if len(line) > MAX_ROW and not line.endswith(b"\n"):
            yield number, _skip(file, line)
        else:
            yield number, line


def line_blocks(file: IO[bytes]) -> Iterator[Block]:
    """The lines of a file of JSON lines in blocks, unparsed; a line that is too long to be held is a block of its own.

    Where a block ends depends on the lines near its end alone. So most blocks of a file stay what they were when
    lines are added, changed or left out somewhere else.
    """
    buffer = file.read(BLOCK).removeprefix(BOM)
    start, ended = 0, not buffer
    while buffer or not ended:
        if end := _block_end(buffer, ended):
            block, buffer = buffer[:end], buffer[end:]
            yield Block(start=start, content=block)
            start += block.count(b"\n")
        elif len(buffer) - (begin := buffer.rfind(b"\n") + 1) > MAX_ROW:
            if begin:
                yield Block(start=start, content=buffer[:begin])
                start += buffer.count(b"\n")
            yield Block(start=start, content=(Row(1, Reject.OVER_LONG, _skip(file, buffer[begin:])),))
            start, buffer = start + 1, b""
        else:
            more = file.read(BLOCK)
            buffer, ended = buffer + more, not more


def _block_end(buffer: bytes, ended: bool) -> int:
    """Where the block ends that begins the buffer; 0 when more has to be read to tell.

    A block ends, from SHORTEST on, with the first line whose checksum says so, and at the latest beyond LONGEST.
    """
    at = SHORTEST
    while (end := buffer.find(b"\n", at)) >= 0:
        line = buffer[buffer.rfind(b"\n", 0, end) + 1 : end]
        if end > LONGEST or zlib.crc32(line) % ONE_IN == 0:
            return end + 1
        at = end + 1
    return len(buffer) if ended else 0


def rows_of(block: Block) -> Iterable[tuple[int, Any, Any]]:
    """The rows of a block, parsed."""
    return map(_parsed, block.content) if isinstance(block.content, tuple) else jsonl(block.content)


def _parsed(row: Row) -> Row:
    return row._replace(value=parse(row.raw)) if row.value is None and isinstance(row.raw, bytes) else row


def jsonl(lines: bytes) -> Iterator[tuple[int, Any, bytes | Hashed]]:
    """The rows of a block: one JSON value a line; empty lines are no rows."""
    for position, line in enumerate(lines.split(b"\n"), start=1):
        if len(line) > MAX_ROW:
            yield position, Reject.OVER_LONG, Hashed(hashlib.sha256(line + b"\n").hexdigest()[:32])
        elif line and not line.isspace():
            yield position, parse(line), line


def json_list(file: IO[bytes], name: str) -> Iterator[Row]:
    """The elements of a JSON list.

    Args:
        name: the file's, for messages.

    Raises:
        DataError: the list has no end, or something behind it: the rows there would be one.
    """
    elements = Elements(file)
    position = 0
    for position, raw in enumerate(elements, start=1):
        # parsed where the block is prepared: what is nested deep cannot be handed to another process
        yield Row(position, Reject.OVER_LONG if isinstance(raw, Hashed) else None, raw)
    if elements.fault:
        raise DataError(
            f"dataset: {name} {elements.fault}, behind element {position}; make it one whole list, or one record a line"
        )


def parse(raw: bytes) -> Any:
    """A JSON value, or why it is none. A key that stands twice in any of its objects has no one value."""
    try:
        value = orjson.loads(raw)
    except ValueError:
        return _parse_slowly(raw)
    is_object = type(value) is dict
    if not is_object and type(value) is not list:
        return value
    # the first count settles it for most rows; it is of all keys, and of texts that look like one
    found = len(COLON.findall(raw))
    if (is_object and found == len(value)) or found == (keys := _keys(value)) or len(KEY_END.findall(raw)) == keys:
        return value
    return _parse_slowly(raw)


def _keys(value: dict[str, Any] | list[Any]) -> int:
    """How many keys all the objects in a JSON object or list have."""
    count = 0
    parts: list[Any] = [value]
    for part in parts:  # grows on the way
        count += len(part) if type(part) is dict else 0
        inner = part.values() if type(part) is dict else part
        parts.extend([one for one in inner if type(one) is dict or type(one) is list])
    return count


def csv_rows(file: IO[bytes], delimiter: str, name: str) -> Iterator[Row]:
    """The rows under a header line, as mappings of its cells to theirs.

    Args:
        name: the file's, for messages.

    Raises:
        DataError: the header has a name twice, or a quote is never closed: the rows behind it would be one.
    """
    csv.field_size_limit(MAX_ROW)
    source = _CsvLines(lines(file))
    reader = csv.reader(source, delimiter=delimiter, strict=True)
    header: list[str] | None = None
    while True:
        try:
            cells = next(reader, None)
        except (csv.Error, _OverLongError) as error:
            if source.ended:
                raise DataError(
                    f"dataset: {name} ends inside the row that begins on line {source.position}: a quote in it is not "
                    "closed; mend it, for what follows it cannot be read"
                ) from None
            # where it was meant to end nobody knows: behind a wrong quote each line may have been a row
            reason = Reject.OVER_LONG if isinstance(error, _OverLongError) else Reject.WRONG_TYPE
            yield from (Row(position, reason, line) for position, line in source.take_lines())
            continue
        if cells is None:
            return
        if not cells:
            continue
        position, raw = source.position, source.take()
        if header is None and cells == ["sep=", ""]:  # by which a file tells Excel what separates its cells
            continue
        if header is None:
            header = cells
            if any(name and count > 1 for name, count in Counter(header).items()):
                raise DataError(f"dataset: two columns of the header on line {position} have the same name; rename one")
            continue
        # more or fewer cells than the header has are no record
        value: Any = dict(zip(header, cells, strict=True)) if len(cells) == len(header) else Reject.WRONG_TYPE
        yield Row(position, value, raw)


def paragraphs(file: IO[bytes]) -> Iterator[Row]:
    """Runs of lines between empty ones, each a row of plain text."""
    block = _Block()
    for position, line in lines(file):
        if isinstance(line, bytes) and not line.strip():
            yield from block.close()
        else:
            block.add(position, line)
    yield from block.close()


def markdown(file: IO[bytes]) -> Iterator[Row]:
    """Sections, each from a heading to the next, as rows of plain text."""
    block = _Block()
    fence = ""
    for position, line in lines(file):
        start = line[:8].decode("utf-8", "replace").lstrip(" ") if isinstance(line, bytes) else ""
        if start.startswith(FENCE) and fence in ("", start[:3]):
            fence = "" if fence else start[:3]
        elif not fence and HEADING.match(start):
            yield from block.close()
        block.add(position, line)
    yield from block.close()


class _Block:
    """Lines that become one row of plain text."""

    def __init__(self) -> None:
        self._lines: list[bytes] = []
        self._position = self._size = 0
        self._state: Any = None  # the running digest of a block that is too long to keep

    def add(self, position: int, line: bytes | Hashed) -> None:
        data = line.digest.encode() if isinstance(line, Hashed) else line
        self._position = self._position or position
        self._size += len(data)
        self._lines.append(data)
        if self._size > MAX_ROW or isinstance(line, Hashed) or self._state:
            self._state = self._state or hashlib.sha256()
            self._state.update(b"".join(self._lines))
            self._lines = []

    def close(self) -> Iterator[Row]:
        """The row, if there is one; the next line begins another."""
        raw, position, state = b"".join(self._lines), self._position, self._state
        self._lines, self._position, self._size, self._state = [], 0, 0, None
        if state:
            yield Row(position, Reject.OVER_LONG, Hashed(state.hexdigest()[:32]))
        elif raw.strip():
            try:
                yield Row(position, {"text": raw.decode("utf-8").replace("\r\n", "\n")}, raw)
            except UnicodeDecodeError:
                yield Row(position, Reject.INVALID_TEXT, raw)


class _OverLongError(Exception):
    """A csv row has run on for too long, most likely behind a quote that nothing closes."""


class _CsvLines:
    """The lines that csv reads, and which of them it has read since the last row."""

    def __init__(self, source: Iterable[tuple[int, bytes | Hashed]]) -> None:
        self._source = iter(source)
        self._pending: list[bytes] = []
        self._size = 0
        self.position = 0
        self.ended = False

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        number, line = next(self._source, (0, None))
        if line is None:
            self.ended = True
            raise StopIteration
        data = line.digest.encode() if isinstance(line, Hashed) else line
        if self._pending or data.strip(b"\r\n"):  # a row begins with the first line that is not empty
            self.position = number if not self._pending else self.position
            self._pending.append(data)
            self._size += len(data)
        if isinstance(line, Hashed) or self._size > MAX_ROW:
            raise _OverLongError
        return line.decode("utf-8", "surrogateescape")

    def take(self) -> bytes:
        """The raw form of the row that was just read."""
        raw = b"".join(self._pending)
        self._pending, self._size = [], 0
        return raw

    def take_lines(self) -> list[tuple[int, bytes]]:
        """The lines of the row that was just read, each with its number; without the empty ones."""
        lines, self._pending, self._size = self._pending, [], 0
        return [(number, line) for number, line in enumerate(lines, start=self.position) if line.strip()]


def _skip(file: IO[bytes], line: bytes) -> Hashed:
    """Reads to the end of a line that is too long, and digests it."""
    state = hashlib.sha256(line)
    while rest := file.readline(BLOCK):
        state.update(rest)
        if rest.endswith(b"\n"):
            break
    return Hashed(state.hexdigest()[:32])


def _parse_slowly(raw: bytes) -> Any:
    """The reason why a row is no JSON; or its value, where only the fast parser would not have it."""
    try:
        return json.loads(raw.decode("utf-8"), object_pairs_hook=_object, parse_constant=_refuse)
    except UnicodeDecodeError:
        return Reject.INVALID_TEXT
    except _DuplicateKeyError:
        return Reject.DUPLICATE_KEY
    except (ValueError, RecursionError):
        return Reject.NOT_JSON


class _DuplicateKeyError(Exception):
    pass


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        raise _DuplicateKeyError
    return value


def _refuse(constant: str) -> NoReturn:
    raise ValueError(constant)
