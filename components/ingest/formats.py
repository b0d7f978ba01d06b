"""Which format a file has, by its content. Its name decides only between kinds of text that look alike."""

import bz2
import csv
import gzip
import io
import zlib
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import IO, Any

from components.errors import DataError
from components.ingest.rows import BOM

HEAD = 1 << 16
PACKED = {b"\x1f\x8b": "gz", b"\x28\xb5\x2f\xfd": "zst", b"BZh": "bz2"}
# Told by their first bytes; a message names them, and nothing is unpacked.
REFUSED = {
    b"PK\x03\x04": "a zip archive or a spreadsheet; unpack it, or save it as CSV",
    b"\xfd7zXZ": "xz; pack it as gz, zst or bz2",
    b"7z\xbc\xaf": "a 7z archive; unpack it",
    b"\xff\xfe": "UTF-16; save it as UTF-8",
    b"\xfe\xff": "UTF-16; save it as UTF-8",
    b"%PDF": "PDF; extract its text",
    b"SQLite format 3": "an SQLite database; export its table as CSV",
}
# Real text shrinks 3 to 20 times. A small file that grows without end would run for days.
LARGEST_RATIO, FREE_BYTES = 200, 64 << 20
BY_SUFFIX = {
    **dict.fromkeys((".jsonl", ".ndjson"), "jsonl"),
    **dict.fromkeys((".csv", ".tsv"), "csv"),
    **dict.fromkeys((".md", ".markdown"), "markdown"),
    **dict.fromkeys((".txt", ".text"), "text"),
    ".json": "json",
    ".parquet": "Parquet",
    **dict.fromkeys((".arrow", ".feather"), "Arrow"),
}


@dataclass(frozen=True, kw_only=True)
class Format:
    """A file's format, and how it is packed."""

    name: str
    packed: str = ""
    delimiter: str = ""  # of csv

    def __str__(self) -> str:
        return " ".join(filter(None, (self.name, self.packed)))


def detect(path: Path) -> Format:
    """The format of a file.

    Raises:
        DataError: it is none that can be read; the message says what it is, where that is known.
    """
    try:
        with path.open("rb") as plain:
            head = plain.read(HEAD)
        packed = next((name for magic, name in PACKED.items() if head.startswith(magic)), "")
        if packed:
            with opened(path, packed) as file:
                head = file.read(HEAD)
    except (OSError, EOFError) as error:
        raise DataError(f"dataset: cannot read {path}: {' '.join(str(error).split())}") from error
    _refuse(path, head, packed)
    if head.startswith(b"PAR1"):
        return Format(name="parquet")
    if head.startswith(b"ARROW1"):
        return Format(name="arrow")
    if head.startswith(b"\xff\xff\xff\xff"):
        return Format(name="arrow stream", packed=packed)
    return _kind_of_text(path, head.removeprefix(BOM), packed, cut=len(head) == HEAD)


def opened(path: Path, packed: str) -> IO[bytes]:
    """A file's content, unpacked as it is read and never more than it may hold."""
    if not packed:
        return path.open("rb")
    return io.BufferedReader(_Unpacked(path, packed), HEAD)


class _Unpacked(io.RawIOBase):
    """An unpacking stream that stops when a file grows beyond all measure."""

    def __init__(self, path: Path, packed: str) -> None:
        super().__init__()
        self._path = path
        self._allowed = max(FREE_BYTES, LARGEST_RATIO * path.stat().st_size)
        self._file = _unpacking(path, packed)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            data = self._file.read(len(buffer))
        except (
            OSError,
            EOFError,
            ValueError,
            zlib.error,
        ) as error:  # each library has its own for bytes that are cut off or wrong
            reason = " ".join(str(error).split()) or type(error).__name__
            raise DataError(f"dataset: {self._path} cannot be unpacked: {reason}") from error
        self._allowed -= len(data)
        if self._allowed < 0:
            raise DataError(
                f"dataset: {self._path} grows more than {LARGEST_RATIO}-fold when it is unpacked; unpack it yourself "
                "if that is right"
            )
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        self._file.close()
        super().close()


def _unpacking(path: Path, packed: str) -> Any:
    import pyarrow as pa

    if packed == "gz":
        return gzip.open(path, "rb")  # closed by its owner
    if packed == "bz2":
        return bz2.open(path, "rb")
    return pa.input_stream(str(path), compression="zstd")


def _refuse(path: Path, head: bytes, packed: str) -> None:
    what = next((text for magic, text in REFUSED.items() if head.startswith(magic)), "")
    if head[257:262] == b"ustar":
        what = "a tar archive; unpack it"
    if packed and head.startswith((b"PAR1", b"ARROW1")):
        what = "a table inside a packed file; unpack it"
    if packed and head.startswith(tuple(PACKED)):
        what = "packed twice; unpack it"
    if not what and _is_binary(head):
        what = "of no known format, and no text"
    if what:
        raise DataError(f"dataset: {path} is {what}")


def _is_binary(head: bytes) -> bool:
    """More than a tenth of control bytes; one NUL in one row is that row's own fault."""
    if head.startswith((b"PAR1", b"ARROW1", b"\xff\xff\xff\xff")):
        return False
    control = sum(head.count(bytes([code])) for code in range(32) if code not in b"\t\n\r\f\v\x1b")
    return control * 10 > len(head)


def _kind_of_text(path: Path, head: bytes, packed: str, *, cut: bool) -> Format:
    told = _told(path)
    # an object that the head cuts ends further on
    lines = [line.strip() for line in (head + b"}" * cut).splitlines()[:50] if line.strip()]
    start = head.lstrip()[:1]
    if start == b"[" and (told == "json" or head.lstrip()[1:].lstrip()[:1] in (b"{", b"]")):
        return Format(name="json", packed=packed)
    objects = sum(line.startswith(b"{") and line.endswith(b"}") for line in lines)
    if 2 * objects > len(lines) or (start == b"{" and told not in ("text", "markdown", "csv", "json")):
        return Format(name="jsonl", packed=packed)
    if told == "json":
        raise DataError(f"dataset: {path} is not a JSON list of records, nor one record a line")
    delimiter = _delimiter(head, told, cut=cut)
    if delimiter:
        return Format(name="csv", packed=packed, delimiter=delimiter)
    if told in ("Parquet", "Arrow"):
        raise DataError(f"dataset: {path} is not a readable {told} file")
    return Format(name=told or "text", packed=packed)


def _told(path: Path) -> str:
    """The format that a file's name tells."""
    name = PurePath(path.name.lower())
    return BY_SUFFIX.get(PurePath(name.stem).suffix if name.suffix[1:] in PACKED.values() else name.suffix, "")


def _delimiter(head: bytes, told: str, *, cut: bool) -> str:
    """What separates the cells, where this is a table: by its name, or because all its rows have as many cells."""
    text = head.decode("utf-8", "replace").lstrip()
    header = text.partition("\n")[0]
    delimiter = max(",\t;", key=header.count)
    if told == "csv":  # a | is also in text, so it comes last
        return delimiter if delimiter in header or "|" not in header else "|"
    if told in ("text", "markdown") or delimiter not in header:
        return ""
    widths: list[int] = []
    try:
        widths.extend(
            len(cells) for cells in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True) if cells
        )
    except csv.Error:
        if not cut:  # otherwise the head may have cut a cell
            return ""
    if cut:
        widths = widths[:-1]
    return delimiter if len(widths) > 1 and len(set(widths)) == 1 else ""
