"""Readers of tables: Parquet, Arrow files and streams, and hub datasets, a batch of rows at a time."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from components.errors import DataError
from components.ingest.rows import MAX_ROW, Row
from components.ingest.text import parse
from components.records import Reject
from components.sources import hub_parts

# Which of the columns of a table are read.
Select = Callable[[list[str]], list[str]]
BATCH = 256
# A footer that claims more is damaged.
LARGEST_FOOTER = 1 << 28
TEXT_AS_BYTES = {
    pa.string(): pa.binary(),
    pa.large_string(): pa.large_binary(),
    pa.string_view(): pa.binary_view(),
}
WITHOUT_VIEWS = {pa.string_view(): pa.large_string(), pa.binary_view(): pa.large_binary()}
DEEPEST = 32  # levels of a value in a JSON column: what is nested deep cannot be handed to another process


def parquet(path: Path, select: Select) -> Iterator[Row]:
    """The rows of a Parquet file."""
    with _damage(path, "Parquet"):
        options = {"thrift_string_size_limit": LARGEST_FOOTER, "thrift_container_size_limit": 1 << 24}
        with pq.ParquetFile(path, buffer_size=1 << 20, page_checksum_verification=True, **options) as file:
            columns = chosen(file.schema_arrow.names, select)
            yield from _rows(file.iter_batches(batch_size=BATCH, columns=columns))


def arrow_file(path: Path, select: Select) -> Iterator[Row]:
    """The rows of an Arrow IPC file."""
    with _damage(path, "Arrow"), pa.memory_map(str(path)) as memory:
        reader = pa.ipc.open_file(memory)
        batches = (reader.get_batch(number) for number in range(reader.num_record_batches))
        yield from _rows(_checked(batches, select))


def arrow_stream(path: Path, file: IO[bytes], select: Select) -> Iterator[Row]:
    """The rows of an Arrow IPC stream."""
    with _damage(path, "Arrow"):
        yield from _rows(_checked(pa.ipc.open_stream(file), select))


def hub(uri: str, select: Select) -> Iterator[Row]:
    """The rows of one split of a hub dataset."""
    from datasets import load_dataset

    name, revision, split = hub_parts(uri)
    try:
        dataset = load_dataset(name, revision=revision, split=split or "train").with_format("arrow")
    except Exception as error:  # the hub's, the file system's and the readers' own; each says what is wrong
        raise DataError(f"dataset: cannot load {uri}: {' '.join(str(error).split())}") from error
    tables = dataset.select_columns(chosen(dataset.column_names, select)).iter(BATCH)
    yield from _rows(batch for table in tables for batch in table.to_batches())


def chosen(names: Iterable[str], select: Select) -> list[str]:
    """The columns that are to be read.

    Raises:
        DataError: two of them have the same name.
    """
    found = select(list(names))
    twice = next((name for name, count in Counter(found).items() if count > 1), None)
    if twice is not None:
        raise DataError(f"dataset: two columns of a table have the name {twice!r}; rename one")
    return found


@contextmanager
def _damage(path: Path, kind: str) -> Iterator[None]:
    """Turns what Arrow raises on damaged bytes into one DataError."""
    try:
        yield
    except (pa.ArrowException, OSError, MemoryError, ValueError) as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise DataError(f"dataset: {path.name} is not a readable {kind} file: {first}") from error


def _checked(batches: Iterable[Any], select: Select) -> Iterator[Any]:
    """Slices of batches whose buffers were checked: Arrow trusts the offsets that stand in a file."""
    for batch in batches:
        narrow = batch.select(chosen(batch.schema.names, select))
        for column in narrow.columns:
            # text that is not UTF-8 is a row's fault, wrong offsets are the file's
            text = TEXT_AS_BYTES.get(column.type)
            (column.view(text) if text else column).validate(full=True)
        for start in range(0, narrow.num_rows, BATCH):
            yield narrow.slice(start, BATCH)


def _rows(batches: Iterable[Any]) -> Iterator[Row]:
    position = 0
    for batch in batches:
        decoded = _decoded(batch)
        packed = [column for column in decoded.schema if _holds_json(column.type)]
        for value, raw in _values(decoded):
            position += 1
            for column in packed if isinstance(value, dict) else ():
                value[column.name] = _unpacked(value[column.name], column.type)
            yield Row(position, value, raw)


def _decoded(batch: Any) -> Any:
    """A batch without dictionaries and views: a slice of them carries the whole of what they point into."""
    columns = []
    for column in batch.columns:
        decoded = column.dictionary_decode() if pa.types.is_dictionary(column.type) else column
        columns.append(decoded.cast(_whole(decoded.type)))
    return pa.RecordBatch.from_arrays(columns, names=batch.schema.names)


def _whole(kind: Any) -> Any:
    """A type without dictionaries and views at any depth: messages are structs in lists."""
    if pa.types.is_dictionary(kind):
        return _whole(kind.value_type)
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(_whole(field.type)) for field in kind])
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        make = pa.list_ if pa.types.is_list(kind) else pa.large_list
        return make(kind.value_field.with_type(_whole(kind.value_type)))
    return WITHOUT_VIEWS.get(kind, kind)


def _holds_json(kind: Any) -> bool:
    """Whether a type has Arrow's JSON in it: as datasets writes messages that do not all have the same fields."""
    inner = [kind.field(place).type for place in range(kind.num_fields)]
    return isinstance(kind, pa.JsonType) or any(map(_holds_json, inner))


def _unpacked(value: Any, kind: Any) -> Any:
    """A value of a type that has JSON in it, with what the JSON says; a number, true and null stay text.

    What is no JSON, or nested too deep, is left as bytes: a text would be learned.
    """
    if value is None:
        return None
    if isinstance(kind, pa.JsonType):
        raw = value.encode("utf-8", "surrogatepass")
        said = parse(raw)
        if isinstance(said, Reject) or not _is_shallow(said):
            return raw
        return said if isinstance(said, str | list | dict) else value
    if pa.types.is_struct(kind):
        return {field.name: _unpacked(value[field.name], field.type) for field in kind}
    if isinstance(value, list) and not pa.types.is_map(kind):
        return [_unpacked(one, kind.value_type) for one in value]
    return value


def _is_shallow(value: Any) -> bool:
    level = [value]
    for _ in range(DEEPEST):
        inner = [part.values() if isinstance(part, dict) else part for part in level if isinstance(part, dict | list)]
        level = list(chain.from_iterable(inner))
    return not level


def _values(batch: Any) -> Iterator[tuple[Any, Any]]:
    """A batch's rows and their raw form, one by one where one of them cannot be read or is too long."""
    rows = _listed(batch) if batch.nbytes <= MAX_ROW else None
    if rows is not None:
        yield from zip(rows, rows, strict=True)
        return
    for index in range(batch.num_rows):
        row = batch.slice(index, 1)
        try:
            value = Reject.OVER_LONG if row.nbytes > MAX_ROW else row.to_pylist()[0]
        except UnicodeDecodeError:
            value = Reject.INVALID_TEXT
        except (ValueError, OverflowError, pa.ArrowException):
            value = Reject.WRONG_TYPE
        yield value, row.serialize().to_pybytes() if isinstance(value, Reject) else value


def _listed(batch: Any) -> list[Any] | None:
    try:
        return list(batch.to_pylist())
    except (ValueError, OverflowError, pa.ArrowException):
        return None
