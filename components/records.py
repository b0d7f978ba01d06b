"""The data contract between steps: schemas, content ids, digests, reasons.

Every table is Parquet (zstd) written in the order of its input, so the same input gives the same bytes.
"""

import hashlib
import json
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from components.errors import DataError

RECORDS = pa.schema(
    [
        ("id", pa.string()),
        ("instruction", pa.string()),
        ("context", pa.string()),
        ("response", pa.string()),
        ("category", pa.string()),
        ("source", pa.string()),
        ("license", pa.string()),
        ("history", pa.string()),  # what was said before in a conversation: JSON messages; else empty
    ]
)
REJECTS = pa.schema(
    [("source", pa.string()), ("position", pa.int64()), ("reason", pa.string()), ("digest", pa.string())]
)
# Everything before loss_start is prompt. target_bytes is the UTF-8 length of the response, the
# denominator of bits per byte, so that models with different tokenizers can be compared. context_length is how many
# of the context's characters the prompt holds: all, unless tokenize was told to cut a context that does not fit.
TOKENS = pa.schema(
    [
        ("id", pa.string()),
        ("key", pa.string()),
        ("category", pa.string()),
        ("input_ids", pa.list_(pa.int32())),
        ("loss_start", pa.int32()),
        ("target_bytes", pa.int32()),
        ("context_length", pa.int32()),
    ]
)
ROW_GROUP, GROUP_BYTES = 4096, 16 << 20
CONVERTED = 256  # rows that are held as Python objects
# ASCII's share of normalise: lower case, and a space for whatever str.split takes for white space.
# White space that NFKC leaves as it is.
_OTHER_SPACES = ("\u0085", "\u1680", "\u2028", "\u2029")
_NORMAL_ASCII = bytes(32 if chr(code).isspace() else code for code in range(128)).lower() + bytes(range(128, 256))


class Reject(StrEnum):
    """Why a row of the source is not a record."""

    NOT_JSON = "not_json"
    NOT_AN_OBJECT = "not_an_object"
    MISSING_FIELD = "missing_field"
    EMPTY_FIELD = "empty_field"
    WRONG_TYPE = "wrong_type"
    INVALID_TEXT = "invalid_text"
    BINARY = "binary"
    OVER_LONG = "over_long"
    DUPLICATE_KEY = "duplicate_key"
    WRONG_ROLE_ORDER = "wrong_role_order"


class Removal(StrEnum):
    """Why a valid record is neither trained nor tested on."""

    NOT_LEARNED = "not_learned"
    DUPLICATE = "duplicate"
    REPEATED_PROMPT = "repeated_prompt"
    NOT_SAMPLED = "not_sampled"
    NEAR_DUPLICATE = "near_duplicate"
    PERSONAL_DATA = "personal_data"
    CONTAMINATED = "contaminated"
    TOO_LONG = "too_long"
    NEAR_DUPLICATE_OF_TEST = "near_duplicate_of_test"
    OVER_TEST_SIZE = "over_test_size"


def normalise(text: str) -> str:
    """The form in which two texts count as the same: NFKC, case-folded, white space collapsed."""
    data = _folded(text).encode("utf-8").translate(_NORMAL_ASCII)
    length = 0
    while len(data) != length:
        length = len(data)
        data = data.replace(b"  ", b" ")
    return data.strip(b" ").decode("utf-8")


def normalised(texts: Sequence[str]) -> list[bytes]:
    """What normalise gives of texts without NUL, in UTF-8; of all at once, by a table of bytes."""
    if not texts:
        return []
    data = (
        "\0".join([*(text if text.isascii() else _folded(text) for text in texts), ""])
        .encode("utf-8")
        .translate(_NORMAL_ASCII)
    )
    codes = np.frombuffer(data, np.uint8)
    spaces = codes == ord(" ")
    # of several spaces the last one stays, of those at a text's end none
    kept = ~spaces[:-1] | ~(spaces[1:] | (codes[1:] == 0))
    data = bytes(codes[:-1][kept])
    return data.removeprefix(b" ").replace(b"\0 ", b"\0").split(b"\0")


def _folded(text: str) -> str:
    if text.isascii():
        return text
    text = unicodedata.normalize("NFKC", text).casefold()
    for space in _OTHER_SPACES:
        text = text.replace(space, " ")
    return text


def digest(*parts: str) -> str:
    """128 bits of SHA-256 over the parts, as 32 hex digits. Parts are length-prefixed, so they cannot run together."""
    return hashlib.sha256(b"".join(_framed(part.encode("utf-8")) for part in parts)).hexdigest()[:32]


def content_keys(instruction: bytes, context: bytes, response: bytes, history: bytes = b"") -> bytes:
    """A record's id and its prompt's, 16 bytes each: SHA-256 of its normalised texts, with and without the response.

    Plain text has no prompt: its second id is zero.
    """
    asked = b"".join((len(instruction).to_bytes(8, "big"), instruction, len(context).to_bytes(8, "big"), context))
    state = hashlib.sha256(_framed(history) + asked if history else asked)
    prompt = state.digest()[:16] if instruction or context or history else bytes(16)
    state.update(_framed(response))
    return state.digest()[:16] + prompt


def record_ids(instruction: str, context: str, response: str, history: str = "") -> tuple[str, str]:
    """A record's id and its prompt's, as 32 hex digits each; plain text has no prompt, so its second id is empty."""
    keys = content_keys(*(normalise(text).encode() for text in (instruction, context, response, history)))
    return keys[:16].hex(), keys[16:].hex() if any(keys[16:]) else ""


def record_id(instruction: str, context: str, response: str, history: str = "") -> str:
    """A record's id: the digest of its normalised content."""
    return record_ids(instruction, context, response, history)[0]


def split_key(instruction: str, context: str, response: str, history: str = "") -> str:
    """What decides a record's side of the split: its context, else its instruction, else (plain text) its response.

    For every turn of a conversation it is what the first turn's is, so that they stand on one side.
    """
    first = next((message["content"] for message in messages(history) if message["role"] == "user"), "")
    return digest(normalise(first) or normalise(context) or normalise(instruction) or normalise(response))


def messages(history: str) -> list[dict[str, str]]:
    """The messages, each with role and content, that a record's history holds."""
    return list(json.loads(history)) if history else []


def _types(schema: pa.Schema) -> list[tuple[str, Any]]:
    return list(zip(schema.names, schema.types, strict=True))


def _framed(part: bytes) -> bytes:
    return len(part).to_bytes(8, "big") + part


def canonical_json(value: Any) -> str:
    """One text for one value: sorted keys, no spaces."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def file_digest(path: Path) -> str:
    """`sha256:<hex>` of a file's bytes."""
    with path.open("rb") as file:
        return "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()


def path_digest(path: Path) -> str:
    """`sha256:<hex>` of a file, or of a folder: the digest over its files' relative names and digests."""
    if path.is_file():
        return file_digest(path)
    entries = {file.relative_to(path).as_posix(): file_digest(file) for file in path.rglob("*") if file.is_file()}
    return "sha256:" + hashlib.sha256(canonical_json(entries).encode()).hexdigest()


class TableWriter:
    """Streams rows into a Parquet file, a row group at a time, which is packed while the next one is collected.

    A group has at most ROW_GROUP rows, and fewer where they are large, so neither writer nor reader needs much memory.
    The same rows give the same bytes, however they come.
    """

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.rows = 0
        self._schema = schema
        self._writer = pq.ParquetWriter(path, schema, compression="zstd")
        self._pending: list[dict[str, Any]] = []
        self._group: list[pa.RecordBatch] = []
        self._packing = ThreadPoolExecutor(1)
        self._packed: Future[None] | None = None

    def __enter__(self) -> "TableWriter":
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._convert()
            self._flush()
            self._wait()
        finally:
            self._packing.shutdown()
            self._writer.close()

    def write(self, row: dict[str, Any]) -> None:
        """Adds a row."""
        self._pending.append(row)
        if len(self._pending) == CONVERTED:
            self._convert()

    def write_batch(self, batch: pa.RecordBatch) -> None:
        """Adds rows that are Arrow's already; not between rows that are not."""
        start = 0
        while start < len(batch):
            piece = batch.slice(start, CONVERTED - self.rows % CONVERTED)
            start += len(piece)
            self._add(piece)

    def _convert(self) -> None:
        columns = [pa.array([row[name] for row in self._pending], type) for name, type in _types(self._schema)]
        self._add(pa.RecordBatch.from_arrays(columns, schema=self._schema))
        self._pending = []

    def _add(self, batch: pa.RecordBatch) -> None:
        self._group.append(batch)
        self.rows += len(batch)
        if len(batch) == 0 or self.rows % CONVERTED:
            return
        if self.rows % ROW_GROUP == 0 or sum(batch.nbytes for batch in self._group) > GROUP_BYTES:
            self._flush()

    def _flush(self) -> None:
        self._wait()
        table = pa.Table.from_batches(self._group, self._schema).combine_chunks()
        self._packed = self._packing.submit(self._writer.write_table, table)
        self._group = []

    def _wait(self) -> None:
        if self._packed:
            self._packed.result()


def write_table(path: Path, schema: pa.Schema, rows: Iterable[dict[str, Any]]) -> int:
    """Writes rows into a Parquet file as they come. Returns their number."""
    with TableWriter(path, schema) as table:
        for row in rows:
            table.write(row)
    return table.rows


def write_batches(path: Path, schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> int:
    """Streams Arrow batches into the file that write_table makes of the same rows. Returns the number of rows."""
    with TableWriter(path, schema) as table:
        for batch in batches:
            table.write_batch(batch)
    return table.rows


def read_table(path: Path, columns: list[str] | None = None) -> Iterator[dict[str, Any]]:
    """The rows of a Parquet file, one at a time, holding one row group in memory."""
    for batch in read_batches(path, columns):
        yield from batch.to_pylist()


def read_batches(path: Path, columns: list[str] | None = None) -> Iterator[pa.RecordBatch]:
    """The rows of a Parquet file in Arrow batches of at most a row group.

    Raises:
        DataError: it cannot be read, is no Parquet file, or lacks a column.
    """
    with _parquet(path) as file:
        missing = sorted(set(columns or ()) - set(file.schema_arrow.names))
        if missing:
            raise DataError(f"{path} has no column {missing[0]!r}; is it what the step before wrote?")
        yield from file.iter_batches(batch_size=ROW_GROUP, columns=columns)


def column_names(path: Path) -> list[str]:
    """The names of a Parquet file's columns, from its footer. Raises DataError when it is none."""
    with _parquet(path) as file:
        return list(file.schema_arrow.names)


def count_rows(path: Path) -> int:
    """The number of rows, from the file's footer."""
    with _parquet(path) as file:
        return int(file.metadata.num_rows)


def _parquet(path: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path)
    except pa.ArrowInvalid as error:
        raise DataError(f"{path} is no Parquet file: {' '.join(str(error).split())}") from error
    except FileNotFoundError:
        raise
    except OSError as error:  # such as a folder, or a file that may not be read
        raise DataError(f"cannot read {path}: {error.strerror or str(error).splitlines()[0]}") from error


def write_json(path: Path, value: Any) -> None:
    """Writes JSON for people and programs: indented, NaN refused."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def read_json(path: Path) -> Any:
    """What write_json wrote."""
    return json.loads(path.read_text(encoding="utf-8"))
