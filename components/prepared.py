"""Prepared rows: what a block of a source's rows becomes before it is compared with any other.

One Arrow file holds those of many blocks, each a record batch with its place and counts, and behind them a batch
without rows that holds the plan. `ingest` writes one for all blocks, or one for those of a shard; `merge_prepared`
makes records of all of them.
"""

import mmap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa

from components.errors import PipelineError
from components.near import BANDS

TEXTS = ("instruction", "context", "response", "category", "history")
PLAN, PLACE = "plan", "place"
RELEASED = 64  # blocks that are read before their memory is let go


def rows_schema(sketched: bool) -> pa.Schema:
    """The columns of prepared rows.

    Args:
        sketched: whether near-duplicates will be looked for.
    """
    columns = [
        ("position", pa.int64()),  # counted from the block's start
        ("reason", pa.string()),  # why the row is rejected or removed; null for a record
        ("digest", pa.string()),  # of the raw row, where it is rejected
        ("keys", pa.binary(32)),  # a record's id and its prompt's
        *((name, pa.string()) for name in TEXTS),
    ]
    return pa.schema(columns + [("bands", pa.binary(8 * BANDS))] * sketched)


@dataclass(frozen=True, kw_only=True)
class File:
    """One file of a source, or one hub dataset."""

    source: str  # the source's name in the counts
    label: str  # what stands in records and rejects
    license: str
    weight: float
    kind: str  # format and shape


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What all shards of a dataset must agree on."""

    dataset: str  # as the user named it
    shards: int
    blocks: int  # in all shards
    files: tuple[File, ...]
    cleaning: tuple[str, ...]
    pii: str
    pii_names: str
    sets: tuple[str, ...]  # the names of the evaluation sets
    near_duplicates: float
    max_reject_fraction: float

    @classmethod
    def parse(cls, text: bytes) -> "Plan":
        values: dict[str, Any] = orjson.loads(text)
        values["files"] = [File(**file) for file in values["files"]]
        values |= {name: tuple(values[name]) for name in ("files", "cleaning", "sets")}
        return cls(**values)


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a block stands, and what was counted while it was prepared."""

    number: int  # among all blocks, in the order of the sources
    file: int  # of the plan's
    start: int  # what is added to its positions
    counts: dict[str, Any]


class PreparedWriter:
    """Writes one file of prepared rows."""

    def __init__(self, path: Path, sketched: bool) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._schema = rows_schema(sketched)
        self._writer = pa.ipc.new_file(str(path), self._schema)

    def add(self, place: Place, rows: pa.RecordBatch) -> None:
        """Adds a block."""
        self._writer.write_batch(rows, custom_metadata={PLACE: orjson.dumps(place)})

    def __enter__(self) -> "PreparedWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self._writer.close()

    def finish(self, plan: Plan) -> None:
        """Adds the plan; nothing comes behind it."""
        columns = [pa.array([], type) for type in self._schema.types]
        nothing = pa.RecordBatch.from_arrays(columns, schema=self._schema)
        self._writer.write_batch(nothing, custom_metadata={PLAN: orjson.dumps(plan)})


class Prepared:
    """The prepared rows of all shards, read where they lie.

    Raises:
        PipelineError: a shard is missing, twice there, or was made with another dataset or other rules.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self._maps: list[mmap.mmap] = []
        self._fetched = 0
        plans = set()
        found: list[tuple[Place, Any, int]] = []
        for path in paths:
            try:
                with path.open("rb") as file:
                    self._maps.append(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
                reader = pa.ipc.open_file(pa.py_buffer(self._maps[-1]))
                *numbers, last = range(reader.num_record_batches)
                plans.add(reader.get_batch_with_custom_metadata(last).custom_metadata[PLAN])
            except (pa.ArrowException, ValueError, KeyError) as error:
                raise PipelineError(f"merge: {path} is no prepared shard: {error}") from error
            for number in numbers:
                told = reader.get_batch_with_custom_metadata(number).custom_metadata[PLACE]
                found.append((Place(**orjson.loads(told)), reader, number))
        found.sort(key=lambda block: block[0].number)
        if len(plans) != 1:
            raise PipelineError("merge: the shards were not made of the same dataset with the same rules")
        self.plan = Plan.parse(plans.pop())
        self.places = [place for place, _, _ in found]
        if len(paths) != self.plan.shards or [place.number for place in self.places] != list(range(self.plan.blocks)):
            raise PipelineError(f"merge: {len(paths)} shards came, of which some are missing or twice there")
        self._blocks = [(reader, number) for _, reader, number in found]
        self.rows = lru_cache(16)(self._rows)

    def __iter__(self) -> Iterator[tuple[Place, pa.RecordBatch]]:
        for number, place in enumerate(self.places):
            yield place, self._rows(number)

    def width(self, name: str) -> int:
        """How many numbers a row of a column of bytes has."""
        return int(rows_schema(sketched=True).field(name).type.byte_width) // 8

    def _rows(self, number: int) -> pa.RecordBatch:
        self._fetched += 1
        if self._fetched % RELEASED == 0:  # what was read stays in the page cache, but not in this process
            for mapped in self._maps:
                mapped.madvise(mmap.MADV_DONTNEED)
        reader, place = self._blocks[number]
        return reader.get_batch(place)


def is_record(rows: pa.RecordBatch) -> np.ndarray:
    """Which rows are records (bool)."""
    return np.asarray(rows.column("reason").is_null())


def fixed(rows: pa.RecordBatch, name: str) -> np.ndarray:
    """A column of bytes of one length, as numbers (uint64, n by a row's)."""
    column = rows.column(name)
    values = np.frombuffer(column.buffers()[1], np.uint64) if len(column) else np.zeros(0, np.uint64)
    return values.reshape(-1, column.type.byte_width // 8)[column.offset : column.offset + len(column)]
