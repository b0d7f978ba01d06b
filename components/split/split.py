"""Divides token rows into train and test, by each record's own key alone."""

import hashlib
import heapq
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from components import progress
from components.errors import DataError, ParameterError, PipelineError
from components.near import NearDuplicates
from components.records import (
    TOKENS,
    Removal,
    normalise,
    read_batches,
    read_table,
    write_batches,
    write_json,
)

# The share of keys that stands on the test side when test_size is a number of records, which then caps it.
NUMBER_FRACTION = 0.1
# Where a token row ends.
TRAIN, TEST, OVER, LEAK = range(4)
REMOVED = {OVER: Removal.OVER_TEST_SIZE, LEAK: Removal.NEAR_DUPLICATE_OF_TEST}
BLOCK = 2048  # texts that are compared at a time


def split(
    *, records: Path, tokens: Path, test_size: float = 0.1, seed: int = 42, train: Path, test: Path, metrics: Path
) -> dict[str, float]:
    """Writes train and test rows. Data can grow for years and no record changes its side.

    A record's side is a function of its key (its context, else its instruction), the seed and the fraction. A
    training record that nearly repeats a test record, in text and in what was said before, is removed.

    Args:
        records: The records that ingest wrote.
        tokens: The token rows that tokenize wrote.
        test_size: Below 1, the fraction of keys to test on; from 1, at most that many records of the 10 % test side.
        seed: Another seed gives another split.
        train: Where to write the training rows (Parquet).
        test: Where to write the test rows (Parquet).
        metrics: Where to write the counts (JSON).

    Returns:
        The counts that a run is judged by: train, test, removed.

    Raises:
        ParameterError: test_size is neither a fraction nor a number.
        DataError: one side would be empty.
        PipelineError: the token rows are not of these records.
    """
    fraction = test_fraction(test_size)
    positions = np.fromiter((position(key, seed) for key in _column(tokens, "key")), np.float64)
    sides = np.where(positions < fraction, TEST, TRAIN).astype(np.int8)
    if test_size >= 1:
        _cap(sides, positions, tokens, int(test_size))
    _remove_leaks(sides, records, tokens)
    counts = Counter(sides.tolist())
    for side, name in ((TEST, "test"), (TRAIN, "training")):
        if not counts[side]:
            raise DataError(
                f"dataset: test_size={test_size:g} leaves no {name} record among {len(sides)}; change it or add records"
            )
    by_category = {TRAIN: Counter[str](), TEST: Counter[str]()}
    for path, side in ((train, TRAIN), (test, TEST)):
        write_batches(path, TOKENS, _of_side(tokens, sides, side, by_category[side]))
    reasons = {str(reason): counts[side] for side, reason in REMOVED.items() if counts[side]}
    report = {"train": counts[TRAIN], "test": counts[TEST], "removed": sum(reasons.values())}
    write_json(
        metrics,
        {
            **report,
            "removed": dict(sorted(reasons.items())),
            "test_fraction": counts[TEST] / len(sides),
            "train_by_category": dict(sorted(by_category[TRAIN].items())),
            "test_by_category": dict(sorted(by_category[TEST].items())),
        },
    )
    print("split: {train} train, {test} test, {removed} removed".format(**report))
    return {name: float(count) for name, count in report.items()}


def test_fraction(test_size: float) -> float:
    """The share of keys on the test side.

    Raises:
        ParameterError: test_size is not in (0, 1) and no whole number.
    """
    if 0 < test_size < 1:
        return test_size
    if test_size >= 1 and float(test_size).is_integer():
        return NUMBER_FRACTION
    raise ParameterError(f"test_size={test_size:g} is neither a fraction between 0 and 1 nor a whole number of records")


def position(key: str, seed: int) -> float:
    """Where a key stands in [0, 1), uniformly, by SHA-256 of seed and key."""
    value = hashlib.sha256(f"{seed}:{key}".encode()).digest()
    return int.from_bytes(value[:8], "big") / 2**64


def _column(path: Path, name: str) -> Iterator[str]:
    return (value for batch in read_batches(path, [name]) for value in batch.column(0).to_pylist())


def _cap(sides: np.ndarray, positions: np.ndarray, tokens: Path, number: int) -> None:
    """Leaves the `number` test rows that come first by position, then id; the others are neither tested nor trained."""
    ids = ((positions[row], id_, row) for row, id_ in enumerate(_column(tokens, "id")) if sides[row] == TEST)
    first = [row for _, _, row in heapq.nsmallest(number, ids)]
    sides[sides == TEST] = OVER
    sides[first] = TEST


def _remove_leaks(sides: np.ndarray, records: Path, tokens: Path) -> None:
    """Marks the training rows whose text nearly repeats a tested record's."""
    with tempfile.TemporaryDirectory() as scratch, progress.bar("split", len(sides), "records") as bar:
        near = NearDuplicates(Path(scratch))
        for rows, texts, before in _texts(records, tokens, sides, TEST):
            near.add(texts, before)
            bar.update(len(rows))
        for rows, texts, before in _texts(records, tokens, sides, TRAIN):
            leaking = [row for row, leaks in zip(rows, near.matches(texts, before), strict=True) if leaks]
            sides[leaking] = LEAK
            bar.update(len(rows))


def _texts(
    records: Path, tokens: Path, sides: np.ndarray, side: int
) -> Iterator[tuple[list[int], list[str], list[str]]]:
    """The rows of a side, their records' texts and what was said before, both normalised, in blocks.

    Token rows stand in their records' order.
    """
    rows: list[int] = []
    texts: list[str] = []
    before: list[str] = []
    ids = enumerate(_column(tokens, "id"))
    row, awaited = next(ids, (-1, ""))
    for record in read_table(records, ["id", "instruction", "context", "response", "history"]):
        if record["id"] != awaited:
            continue  # it was too long
        if sides[row] == side:
            rows.append(row)
            texts.append(normalise(f"{record['instruction']} {record['context']} {record['response']}"))
            before.append(normalise(record["history"]))
        row, awaited = next(ids, (-1, ""))
        if len(rows) == BLOCK:
            yield rows, texts, before
            rows, texts, before = [], [], []
    if awaited:
        raise PipelineError(f"split: token row {row} has no record, or stands in another order than the records")
    yield rows, texts, before


def _of_side(tokens: Path, sides: np.ndarray, side: int, categories: Counter[str]) -> Iterator[pa.RecordBatch]:
    """The token rows of a side, counted by category."""
    start = 0
    for batch in read_batches(tokens):
        chosen = batch.filter(pa.array(sides[start : start + batch.num_rows] == side))
        categories.update(chosen.column("category").to_pylist())
        start += batch.num_rows
        yield chosen
