"""Makes records of prepared rows: what repeats an earlier record is removed, everything is counted by source.

Of each record some 100 bytes stand in memory; its text is read where it lies, once to be written, and when it may
nearly repeat another.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from components.errors import DataError
from components.prepared import File, Prepared, fixed, is_record
from components.records import RECORDS, REJECTS, Reject, Removal, TableWriter, normalise, write_json
from components.repeats import near_repeated, repeated

ALL = slice(None)
TOGETHER = 8  # bands that are read at a time
KEPT = 0
# What else becomes of a record, by its number.
FATES = {
    1: Removal.NOT_SAMPLED,
    2: Removal.DUPLICATE,
    3: Removal.REPEATED_PROMPT,
    4: Removal.NEAR_DUPLICATE,
}
REJECTED = frozenset(Reject)
NUMBER = {reason: number for number, reason in FATES.items()}
HEX = np.frombuffer("".join(f"{byte:02x}" for byte in range(256)).encode(), "S2")


def merge_prepared(
    step: str, paths: Sequence[Path], *, records: Path, rejects: Path, metrics: Path
) -> dict[str, float]:
    """Writes the records, rejects and counts of all shards' prepared rows.

    Args:
        step: who tells the counts.
        paths: What ingest wrote, of each shard.
        records: Where to write the records (Parquet).
        rejects: Where to write what was rejected (Parquet).
        metrics: Where to write the counts (JSON).

    Returns:
        The counts that a run is judged by: rows, records, rejected, removed.

    Raises:
        DataError: no valid record, or too many rejects.
        PipelineError: a shard is missing, or they were not made alike.
    """
    merge = _Merge(Prepared(paths))
    with TableWriter(records, RECORDS) as kept, TableWriter(rejects, REJECTS) as rejected:
        merge.write(kept, rejected)
    write_json(metrics, merge.report(kept.rows))
    merge.check(kept.rows)
    total, bad, removed = merge.rows, merge.rejected.total(), merge.removed.total()
    print(f"{step}: {total} rows = {kept.rows} records + {bad} rejected + {removed} removed")
    return {"rows": total, "records": kept.rows, "rejected": bad, "removed": removed}


@dataclass(kw_only=True)
class _Tally:
    """What became of the rows of a source. A row counts once for each record that it gives, and once without any."""

    licenses: set[str] = field(default_factory=set)
    rows: int = 0
    records: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    removed: Counter[str] = field(default_factory=Counter)
    files: Counter[str] = field(default_factory=Counter)  # by format and shape

    def as_json(self) -> dict[str, Any]:
        reasons = {"rejected": _sorted(self.rejected), "removed": _sorted(self.removed)}
        counts = {"license": ", ".join(sorted(self.licenses)), "rows": self.rows, "records": self.records}
        return {**counts, **reasons, "files": _sorted(self.files)}


class _Merge:
    def __init__(self, prepared: Prepared) -> None:
        self._prepared = prepared
        self._plan = prepared.plan
        self._categories: Counter[str] = Counter()
        self._first_reject = ""
        self._sources: dict[str, _Tally] = {}
        for file in self._plan.files:
            self._tally(file).files[file.kind] += 1

    def _tally(self, file: File) -> _Tally:
        tally = self._sources.setdefault(file.source, _Tally())
        tally.licenses.add(file.license)
        return tally

    @property
    def rows(self) -> int:
        return sum(tally.rows for tally in self._sources.values())

    @property
    def rejected(self) -> Counter[str]:
        return sum((tally.rejected for tally in self._sources.values()), Counter[str]())

    @property
    def removed(self) -> Counter[str]:
        return sum((tally.removed for tally in self._sources.values()), Counter[str]())

    def write(self, records: TableWriter, rejects: TableWriter) -> None:
        """Writes every record that is kept and every row that was rejected, and counts all."""
        fates = decide(self._prepared)
        start = 0
        for place, rows in self._prepared:
            file = self._plan.files[place.file]
            chosen = is_record(rows)
            kept = np.zeros(len(rows), bool)
            end = start + int(chosen.sum())
            own, start = fates[start:end], end
            kept[chosen] = own == KEPT
            batch = _records(rows.filter(pa.array(kept)), file)
            self._count(file, rows, own, batch)
            records.write_batch(batch)
            rejected = _rejects(rows.filter(rows.column("digest").is_valid()), place.start, file)
            if len(rejected):
                rejects.write_batch(rejected)
                self._first_reject = self._first_reject or f"{file.label}, row {rejected.column('position')[0]}"

    def _count(self, file: File, rows: pa.RecordBatch, fates: np.ndarray, kept: pa.RecordBatch) -> None:
        tally = self._tally(file)
        tally.rows += len(rows)
        tally.records += len(kept)
        self._categories.update(_counts(kept.column("category")))
        tally.removed.update({FATES[fate]: int((fates == fate).sum()) for fate in FATES if (fates == fate).any()})
        for reason, number in _counts(rows.column("reason").drop_null()).items():
            (tally.rejected if reason in REJECTED else tally.removed)[reason] += number

    def report(self, kept: int) -> dict[str, Any]:
        """What ingest.json holds."""
        plan = self._plan
        counted: dict[str, Counter[str]] = {name: Counter() for name in ("cleaned", "contaminated", "found")}
        by_source: dict[str, Counter[str]] = {}
        for place in self._prepared.places:
            for name, counter in counted.items():
                counter.update(place.counts[name])
            if place.counts["found"]:
                by_source.setdefault(plan.files[place.file].source, Counter()).update(place.counts["found"])
        return {
            "rows": self.rows,
            "records": kept,
            "rejected": _sorted(self.rejected),
            "removed": _sorted(self.removed),
            "categories": _sorted(self._categories),
            "license": ", ".join(sorted({name for tally in self._sources.values() for name in tally.licenses})),
            "sources": {name: tally.as_json() for name, tally in self._sources.items()},
            "cleaned": {name: counted["cleaned"][name] for name in plan.cleaning},
            "contaminated": {name: counted["contaminated"][name] for name in plan.sets},
            "pii": {
                "policy": plan.pii,
                "names": plan.pii_names,
                "records": sum(place.counts["with_findings"] for place in self._prepared.places),
                "found": _sorted(counted["found"]),
                "by_source": {source: _sorted(by_source[source]) for source in sorted(by_source)},
            },
        }

    def check(self, kept: int) -> None:
        """Raises DataError when nothing is kept, or when too much was rejected."""
        plan, rejected = self._plan, self.rejected.total()
        if self.rows != kept + rejected + self.removed.total():
            raise AssertionError("a row was lost between reading and writing")
        reasons = ", ".join(f"{reason} {count}" for reason, count in self.rejected.most_common())
        if kept == 0:
            read_as = ", ".join(sorted({file.kind for file in plan.files}))
            raise DataError(
                f"dataset: {plan.dataset} has no valid record in {self.rows} rows"
                + (f" (rejected: {reasons}; read as {read_as})" if reasons else "")
            )
        if rejected > plan.max_reject_fraction * self.rows:
            raise DataError(
                f"dataset: {rejected} of {self.rows} rows of {plan.dataset} were rejected ({reasons}; "
                f"the first at {self._first_reject}), more than max_reject_fraction={plan.max_reject_fraction:g}; "
                "mend them, or raise the limit"
            )


def decide(prepared: Prepared) -> np.ndarray:
    """What becomes of each record, in their order: KEPT, or a number of FATES (int8)."""
    chosen = [np.flatnonzero(is_record(rows)).astype(np.int32) for _, rows in prepared]
    keys = _column(prepared, "keys", chosen)
    fates = _sampled(prepared, keys[:, 0], [len(rows) for rows in chosen])
    rest = np.flatnonzero(fates == KEPT)
    fates[rest[repeated(keys[rest, :2])]] = NUMBER[Removal.DUPLICATE]
    rest = np.flatnonzero((fates == KEPT) & keys[:, 2:].any(axis=1))  # plain text has no prompt
    fates[rest[repeated(keys[rest, 2:])]] = NUMBER[Removal.REPEATED_PROMPT]
    if prepared.plan.near_duplicates:
        rest = np.flatnonzero(fates == KEPT)
        fates[rest[_near(prepared, chosen, rest)]] = NUMBER[Removal.NEAR_DUPLICATE]
    return fates


def _sampled(prepared: Prepared, first: np.ndarray, lengths: list[int]) -> np.ndarray:
    """The records' fates by the weights of their sources.

    Args:
        first: the first 8 bytes of each record's id, as they stand in memory.
        lengths: the number of each block's records.
    """
    weights = [prepared.plan.files[place.file].weight for place in prepared.places]
    fates = np.zeros(len(first), np.int8)
    if any(weight < 1 for weight in weights):
        ends = np.array([math.ceil(weight * 2**64) - 1 for weight in weights], np.uint64)
        beyond = np.ascontiguousarray(first).view(">u8") > np.repeat(ends, lengths)
        fates[beyond] = NUMBER[Removal.NOT_SAMPLED]
    return fates


def _near(prepared: Prepared, chosen: list[np.ndarray], rest: np.ndarray) -> np.ndarray:
    """Which of the records that are left nearly repeat an earlier one.

    Args:
        chosen: of each block, the rows that are records.
        rest: the numbers, among all records, of those that are left.
    """
    blocks = np.repeat(np.arange(len(chosen), dtype=np.int32), [len(rows) for rows in chosen])[rest]
    rows = np.concatenate([np.zeros(0, np.int32), *chosen])[rest]

    @lru_cache(1)
    def bands(group: int) -> np.ndarray:
        columns: np.ndarray = _column(prepared, "bands", chosen, slice(group * TOGETHER, (group + 1) * TOGETHER))[rest]
        return columns

    def band(number: int) -> np.ndarray:
        return bands(number // TOGETHER)[:, number % TOGETHER]

    def texts(record: int) -> tuple[str, str]:
        block, row = prepared.rows(int(blocks[record])), int(rows[record])
        asked, given, answer, before = (
            block.column(name)[row].as_py() for name in ("instruction", "context", "response", "history")
        )
        return normalise(f"{asked} {answer}"), normalise(f"{before} {given}")

    return near_repeated(len(rest), band, texts, prepared.plan.near_duplicates)


def _column(prepared: Prepared, name: str, chosen: list[np.ndarray], place: int | slice = ALL) -> np.ndarray:
    """A column of bytes of all records, as numbers (uint64): all those of a row, or the one at a place."""
    nothing = np.zeros((0, prepared.width(name)), np.uint64)[:, place]
    return np.concatenate(
        [nothing, *(fixed(rows, name)[own, place] for (_, rows), own in zip(prepared, chosen, strict=True))]
    )


def _records(rows: pa.RecordBatch, file: File) -> pa.RecordBatch:
    """Prepared records as later steps read them."""
    ids = fixed(rows, "keys")[:, :2].copy().view(np.uint8)
    names = HEX[ids].tobytes()
    ends = np.arange(0, 32 * len(rows) + 1, 32, dtype=np.int32)
    columns = {
        "id": pa.Array.from_buffers(pa.string(), len(rows), [None, pa.py_buffer(ends), pa.py_buffer(names)]),
        "source": pa.repeat(file.label, len(rows)),
        "license": pa.repeat(file.license, len(rows)),
    }
    return pa.RecordBatch.from_arrays(
        [columns.get(name) if name in columns else rows.column(name) for name in RECORDS.names], schema=RECORDS
    )


def _rejects(rows: pa.RecordBatch, start: int, file: File) -> pa.RecordBatch:
    columns = {
        "source": pa.repeat(file.label, len(rows)),
        "position": pc.add(rows.column("position"), start),
    }
    return pa.RecordBatch.from_arrays(
        [columns.get(name) if name in columns else rows.column(name) for name in REJECTS.names], schema=REJECTS
    )


def _counts(column: pa.Array) -> dict[str, int]:
    return {entry["values"]: entry["counts"] for entry in column.value_counts().to_pylist()}


def _sorted(counter: Counter[str]) -> dict[str, int]:
    return {str(name): counter[name] for name in sorted(counter)}
