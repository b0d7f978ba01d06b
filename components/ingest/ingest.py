"""Reads a dataset row by row into valid, unique records; every other row is counted with its reason."""

import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from itertools import chain, islice
from pathlib import Path

from components import progress
from components.corpora import corpora_digest, parse_corpora, pin_corpora
from components.datasets import Source, parse_columns, pin_sources
from components.errors import DataError, ParameterError
from components.ingest.cleaning import parse_cleaning
from components.ingest.preparation import Rules
from components.ingest.readers import read_file, read_hub
from components.ingest.rows import Block
from components.ingest.shapes import Shape, choose, selected
from components.ingest.tables import Select
from components.ingest.text import rows_of
from components.ingest.workers import Done, Preparer, Task, prepared
from components.merging import merge_prepared
from components.prepared import File, Place, Plan, PreparedWriter
from components.records import REJECTS, write_json, write_table
from components.repeats import check_similarity
from components.sources import Pinned, fetch_files, short_name, where

# The rows by which a file's shape is told: some may lack an optional field. Fewer where they are long.
SAMPLE, SAMPLE_BLOCKS = 1000, 8


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
    ingest_cache: str = "",
    workers: int = 0,
    shard: int = 0,
    shards: int = 1,
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
        ingest_cache: Folder or URI where prepared rows are kept by their content, so that only new ones are prepared;
            empty: nowhere.
        workers: The number of processes; 0: one a core, at most 16, when there is work for more than one.
        shard: Which part of the dataset this is, from 0, when merge puts several together.
        shards: The number of parts.
        records: Where to write the records (Parquet); of a shard its prepared rows (Arrow), for merge.
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
    if not 0 <= shard < shards:
        raise ParameterError(f"shard={shard} is not one of {shards} shards, counted from 0")
    if workers < 0:
        raise ParameterError(f"workers={workers} must be at least 0")
    given = parse_columns(columns)
    check_similarity(near_duplicates)
    rules = Rules(
        cleaning=cleaning,
        pii=pii,
        pii_names=pii_names,
        decontaminate=decontaminate,
        decontaminate_digest=decontaminate_digest or corpora_digest(pin_corpora(decontaminate, "evaluation_set")),
        sketched=near_duplicates > 0,
    )
    prepare = Preparer(rules, ingest_cache)
    pinned, sources = pin_sources(dataset)
    if dataset_digest and pinned.digest != dataset_digest:
        raise DataError(f"dataset: {dataset} changed after it was resolved; start the run again")
    tasks = _Tasks(sources, given, license, shard, shards)
    records.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".ingest-", dir=records.parent) as scratch:
        target = records if shards > 1 else Path(scratch) / "prepared"
        with PreparedWriter(target, rules.sketched) as writer:
            rows = _write(writer, prepared(iter(tasks), prepare, workers), bool(ingest_cache))
            plan = Plan(
                dataset=dataset,
                shards=shards,
                blocks=tasks.blocks,
                files=tuple(tasks.files),
                cleaning=parse_cleaning(cleaning),
                pii=pii,
                pii_names=pii_names,
                sets=tuple(parse_corpora(decontaminate, "decontaminate")),
                near_duplicates=near_duplicates,
                max_reject_fraction=max_reject_fraction,
            )
            writer.finish(plan)
        if shards == 1:
            return merge_prepared("ingest", [target], records=records, rejects=rejects, metrics=metrics)
    write_table(rejects, REJECTS, [])
    write_json(metrics, {"shard": shard, "shards": shards, "rows": rows})
    print(f"ingest: {rows} rows in shard {shard} of {shards}")
    return {"rows": rows}


def _write(writer: PreparedWriter, blocks: Iterator[Done], tell: bool) -> int:
    """Writes prepared blocks. Returns the number of rows."""
    rows = number = kept = 0
    with progress.bar("ingest", None, "rows") as bar:
        for done in blocks:
            place = Place(number=done.number, file=done.file, start=done.start, counts=done.counts)
            writer.add(place, done.rows)
            rows += len(done.rows)
            number += 1
            kept += done.was_kept
            bar.update(len(done.rows))
    if tell:
        print(f"ingest: {number - kept} of {number} blocks prepared, {kept} kept from earlier runs")
    return rows


class _Tasks:
    """The blocks of all sources in their order; of a shard, those that are its own."""

    def __init__(
        self,
        sources: list[tuple[Source, Pinned]],
        columns: Mapping[str, str],
        license: str,
        shard: int,
        shards: int,
    ) -> None:
        self.files: list[File] = []
        self.blocks = 0
        self._sources = sources
        self._columns = columns
        self._license = license
        self._shard, self._shards = shard, shards

    def __iter__(self) -> Iterator[Task]:
        for source, place in _told_apart(self._sources):
            name = source.name or _own_name(place)
            columns = {**self._columns, **source.columns}
            for label, kind, unread in _files(source, place, partial(selected, given=columns)):
                shape, blocks = _shaped(label, unread, columns)
                file = File(
                    source=name,
                    label=label,
                    license=source.license or self._license,
                    weight=source.weight,
                    kind=f"{kind}: {shape}",
                )
                self.files.append(file)
                for block in blocks:
                    if self.blocks % self._shards == self._shard:
                        yield Task(self.blocks, len(self.files) - 1, block, shape)
                    self.blocks += 1


def _told_apart(sources: list[tuple[Source, Pinned]]) -> Iterator[tuple[Source, Pinned]]:
    """The sources; those without a name whose own name others have too get their number for one."""
    own = Counter(_own_name(place) for source, place in sources if not source.name)
    for number, (source, place) in enumerate(sources, start=1):
        shared = not source.name and own[_own_name(place)] > 1
        yield (replace(source, name=f"{number}. {_own_name(place)}") if shared else source), place


def _own_name(place: Pinned) -> str:
    return place.uri if where(place.uri) == "hub" else short_name(place.uri)


def _files(source: Source, place: Pinned, select: Select) -> Iterator[tuple[str, str, Iterator[Block]]]:
    """A source's files: the name that stands in records and rejects, the format, the rows in blocks."""
    if where(place.uri) == "hub":
        yield source.name or place.uri, "hub", read_hub(place, select)
        return
    for name, path in fetch_files(place).items():
        kind, blocks = read_file(path, select)
        yield "/".join(filter(None, (source.name, name))), kind, blocks


def _shaped(label: str, blocks: Iterator[Block], columns: Mapping[str, str]) -> tuple[Shape, Iterator[Block]]:
    """The shape that a file's first rows have, and all of its blocks."""
    sample: list[Block] = []
    values: list[object] = []
    for block in islice(blocks, SAMPLE_BLOCKS):
        sample.append(block)
        values += (value for _, value, _ in islice(rows_of(block), SAMPLE - len(values)))
        if len(values) == SAMPLE:
            break
    names = dict.fromkeys(name for value in values if isinstance(value, dict) for name in value)
    try:
        return choose(names, columns), chain(sample, blocks)
    except DataError as error:
        raise DataError(f"dataset: {label}: {error}") from None
