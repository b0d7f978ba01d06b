"""Reads a dataset row by row into valid, unique records; every other row is counted with its reason."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from components import progress
from components.datasets import Source, parse_columns, pin_sources
from components.errors import DataError, ParameterError
from components.ingest.preparation import Preparation
from components.ingest.readers import read_file, read_hub
from components.ingest.repeats import check_similarity, repeats
from components.ingest.rows import Row
from components.ingest.shapes import Fields, Shape, choose, wanted
from components.records import (
    RECORDS,
    REJECTS,
    Reject,
    Removal,
    TableWriter,
    read_batches,
    record_ids,
    write_batches,
    write_json,
    write_table,
)
from components.sources import Pinned, fetch_files, where

# The rows by which a file's shape is told: some may lack an optional field.
SAMPLE = 1000


def ingest(
    *,
    dataset: str,
    dataset_digest: str = "",
    columns: str = "",
    license: str = "unknown",
    max_reject_fraction: float = 0.1,
    cleaning: str = "control,whitespace,references,nfc",
    pii: str = "redact",
    pii_names: str = "",
    near_duplicates: float = 0.7,
    decontaminate: str = "",
    decontaminate_digest: str = "",
    records: Path,
    rejects: Path,
    metrics: Path,
) -> dict[str, float]:
    """Validates every row of a dataset and writes records, rejects and their counts.

    Args:
        dataset: A file, folder or glob, an fsspec URI of one, a hub id (org/name@revision:split), or a YAML list of
            sources.
        dataset_digest: What resolve found; the bytes must still be these. Empty: not checked.
        columns: Where the fields stand when they have other names: instruction=question,response=answer.
        license: The dataset's licence, carried with each record to the model card.
        max_reject_fraction: The share of rows that may be rejected before the run fails.
        cleaning: What is cleaned in every record, a list of: control, whitespace, references, nfc.
        pii: What happens to personal data and secrets: redact, drop (the record), report (only count) or off.
        pii_names: A function that also finds people's names, package.module:function; empty: names are not looked for.
        near_duplicates: How alike (Jaccard, word 3-grams) a record is to an earlier one to be removed; 0: none is.
        decontaminate: Evaluation sets to keep out: name=path or URI of a txt, jsonl or parquet file, separated by
            commas. A record with 13 words in a row of one is removed.
        decontaminate_digest: What resolve found of these; checked like dataset_digest.
        records: Where to write the records (Parquet).
        rejects: Where to write what was rejected, with source, position and reason but no text (Parquet).
        metrics: Where to write the counts (JSON).

    Returns:
        The counts that a run is judged by: rows, records, rejected, removed.

    Raises:
        ParameterError: max_reject_fraction is no share, columns is not field=column pairs, or cleaning, pii, pii_names,
            near_duplicates or decontaminate is not allowed.
        DataError: the dataset or an evaluation set is unreadable or changed since it was resolved; no valid record, or
            too many rejects.
    """
    if not 0 <= max_reject_fraction <= 1:
        raise ParameterError(f"max_reject_fraction={max_reject_fraction:g} must be a share from 0 to 1")
    given = parse_columns(columns)
    check_similarity(near_duplicates)
    prepare = Preparation(
        cleaning=cleaning,
        pii=pii,
        pii_names=pii_names,
        decontaminate=decontaminate,
        decontaminate_digest=decontaminate_digest,
    )
    pinned, sources = pin_sources(dataset)
    if dataset_digest and pinned.digest != dataset_digest:
        raise DataError(f"dataset: {dataset} changed after it was resolved; start the run again")
    with TableWriter(rejects, REJECTS) as rejected:
        reader = _Reader(rejected, prepare)
        found = (
            record
            for source, place in sources
            for record in reader.records(source, place, {**given, **source.columns}, source.license or license)
        )
        kept = write_table(records, RECORDS, progress.track(found, "ingest", None, "records"))
    if near_duplicates:
        kept -= reader.remove(Removal.NEAR_DUPLICATE, repeats(records, near_duplicates), records)
    counts = reader.counts
    report = {
        "rows": counts.rows,
        "records": kept,
        "rejected": _sorted(counts.rejected),
        "removed": _sorted(counts.removed),
        "categories": _sorted(reader.categories),
        "license": ", ".join(sorted({tally.license for tally in reader.sources.values()})),
        "sources": {name: tally.as_json() for name, tally in reader.sources.items()},
        **prepare.metrics(),
    }
    write_json(metrics, report)
    _check(dataset, kept, reader, max_reject_fraction)
    total, bad, removed = counts.rows, counts.rejected.total(), counts.removed.total()
    print(f"ingest: {total} rows = {kept} records + {bad} rejected + {removed} removed")
    return {"rows": total, "records": kept, "rejected": bad, "removed": removed}


@dataclass(kw_only=True)
class _Tally:
    """What became of the rows of a source. A row counts once for each record that it gives, and once without any."""

    license: str = ""
    rows: int = 0
    records: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    removed: Counter[str] = field(default_factory=Counter)
    files: Counter[str] = field(default_factory=Counter)  # by format and shape

    def as_json(self) -> dict[str, Any]:
        reasons = {"rejected": _sorted(self.rejected), "removed": _sorted(self.removed)}
        return {**vars(self), **reasons, "files": _sorted(self.files)}


class _Reader:
    """One pass over all sources; what it drops is counted on the way."""

    def __init__(self, rejects: TableWriter, prepare: Preparation) -> None:
        self._prepare = prepare
        self._written: list[_Tally] = []  # of each record
        self._rejects = rejects
        self._ids: set[str] = set()
        self._prompts: set[str] = set()
        self.first_reject = ""
        self.categories: Counter[str] = Counter()
        self.sources: dict[str, _Tally] = {}

    @property
    def counts(self) -> _Tally:
        """The sum over all sources."""
        total = _Tally()
        for tally in self.sources.values():
            total.rows += tally.rows
            total.records += tally.records
            total.rejected += tally.rejected
            total.removed += tally.removed
        return total

    def records(
        self, source: Source, place: Pinned, columns: Mapping[str, str], license: str
    ) -> Iterator[dict[str, Any]]:
        """Valid records of a source; of each prompt the first that was seen, in the order of sources and rows."""
        name = source.name or (place.uri if where(place.uri) == "hub" else Path(place.uri).name)
        tally = self.sources.setdefault(name, _Tally(license=license))
        for label, kind, unread in _files(source, place, wanted(columns)):
            shape, rows = _shaped(unread, columns)
            tally.files[f"{kind}: {shape}"] += 1
            for row in rows:
                found = shape.records(row.value)
                if isinstance(found, Reject):
                    self._reject(tally, label, row, found)
                    continue
                for fields in (self._prepare(fields, name) for fields in found):
                    if isinstance(fields, Reject):
                        self._reject(tally, label, row, fields)
                        continue
                    tally.rows += 1
                    if isinstance(fields, Removal):
                        tally.removed[fields] += 1
                        continue
                    identity, reason = self._judge(fields, source.weight)
                    if reason:
                        tally.removed[reason] += 1
                        continue
                    tally.records += 1
                    self._written.append(tally)
                    self.categories[fields["category"]] += 1
                    yield {"id": identity, "source": label, "license": license, **fields}

    def remove(self, reason: Removal, marked: np.ndarray, records: Path) -> int:
        """Takes the marked records out of the file and the counts. Returns how many."""
        rows = np.flatnonzero(marked)
        if not len(rows):
            return 0
        for row in rows:
            self._written[row].records -= 1
            self._written[row].removed[reason] += 1
        whole = records.with_name(f"{records.name}.whole")
        records.rename(whole)
        write_batches(records, RECORDS, self._kept(whole, marked))
        whole.unlink()
        return len(rows)

    def _kept(self, path: Path, marked: np.ndarray) -> Iterator[pa.RecordBatch]:
        start = 0
        for batch in read_batches(path):
            out = marked[start : start + len(batch)]
            self.categories -= Counter(batch.column("category").filter(pa.array(out)).to_pylist())
            start += len(batch)
            yield batch.filter(pa.array(~out))

    def _judge(self, fields: Fields, weight: float) -> tuple[str, Removal | None]:
        """A record's id, and why it is removed, if it is."""
        identity, prompt = record_ids(fields["instruction"], fields["context"], fields["response"], fields["history"])
        if weight < 1 and int(identity[:16], 16) >= weight * 2**64:
            return identity, Removal.NOT_SAMPLED
        if identity in self._ids:
            return identity, Removal.DUPLICATE
        self._ids.add(identity)
        if prompt in self._prompts:
            return identity, Removal.REPEATED_PROMPT
        if prompt:
            self._prompts.add(prompt)
        return identity, None

    def _reject(self, tally: _Tally, label: str, row: Row, reason: Reject) -> None:
        tally.rows += 1
        tally.rejected[reason] += 1
        self.first_reject = self.first_reject or f"{label}, row {row.position}"
        self._rejects.write({"source": label, "position": row.position, "reason": str(reason), "digest": row.digest})


def _files(source: Source, place: Pinned, names: frozenset[str]) -> Iterator[tuple[str, str, Iterator[Row]]]:
    """A source's files: the name that stands in records and rejects, the format, the rows."""
    if where(place.uri) == "hub":
        yield source.name or place.uri, "hub", read_hub(place, names)
        return
    for name, path in fetch_files(place).items():
        kind, rows = read_file(path, names)
        yield "/".join(filter(None, (source.name, name))), kind, rows


def _shaped(rows: Iterator[Row], columns: Mapping[str, str]) -> tuple[Shape, Iterator[Row]]:
    """The shape that a file's first rows have, and all of its rows."""
    sample = list(islice(rows, SAMPLE))
    names = dict.fromkeys(name for row in sample if isinstance(row.value, dict) for name in row.value)
    return choose(names, columns), chain(sample, rows)


def _check(dataset: str, kept: int, reader: _Reader, max_reject_fraction: float) -> None:
    counts = reader.counts
    rejected = counts.rejected.total()
    if counts.rows != kept + rejected + counts.removed.total():
        raise AssertionError("a row was lost between reading and writing")
    reasons = ", ".join(f"{reason} {count}" for reason, count in counts.rejected.most_common())
    if kept == 0:
        raise DataError(
            f"dataset: {dataset} has no valid record in {counts.rows} rows"
            + (f" (rejected: {reasons}; read as {_read_as(reader)})" if reasons else "")
        )
    if rejected > max_reject_fraction * counts.rows:
        raise DataError(
            f"dataset: {rejected} of {counts.rows} rows of {dataset} were rejected ({reasons}; "
            f"the first at {reader.first_reject}), more than max_reject_fraction={max_reject_fraction:g}; "
            "mend them, or raise the limit"
        )


def _read_as(reader: _Reader) -> str:
    return ", ".join(sorted({kind for tally in reader.sources.values() for kind in tally.files}))


def _sorted(counter: Counter[str]) -> dict[str, int]:
    return {str(name): counter[name] for name in sorted(counter)}
