"""Divides token rows into train and test, by each record's own key alone."""

import hashlib
import heapq
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from components import progress
from components.errors import DataError, ParameterError
from components.records import TOKENS, Removal, count_rows, normalise, read_table, write_json, write_table
from components.split.near import NearDuplicates

# The share of keys that stands on the test side when test_size is a number of records, which then caps it.
NUMBER_FRACTION = 0.1


def split(
    *, records: Path, tokens: Path, test_size: float = 0.1, seed: int = 42, train: Path, test: Path, metrics: Path
) -> dict[str, float]:
    """Writes train and test rows. Data can grow for years and no record changes its side.

    A record's side is a function of its key (its context, else its instruction), the seed and the fraction. A
    training record that nearly repeats a test record is removed.

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
    """
    fraction = test_fraction(test_size)
    keys = {row["id"]: row["key"] for row in read_table(tokens, ["id", "key"])}
    on_test_side = {id_ for id_, key in keys.items() if position(key, seed) < fraction}
    tested = on_test_side if test_size < 1 else _cap(on_test_side, keys, seed, int(test_size))
    removed: dict[str, Removal] = dict.fromkeys(on_test_side - tested, Removal.OVER_TEST_SIZE)
    for id_ in _leaks(records, keys, on_test_side, tested):
        removed[id_] = Removal.NEAR_DUPLICATE_OF_TEST
    trained = keys.keys() - on_test_side - removed.keys()
    for side, ids in (("test", tested), ("training", trained)):
        if not ids:
            raise DataError(
                f"dataset: test_size={test_size:g} leaves no {side} record among {len(keys)}; change it or add records"
            )
    write_table(train, TOKENS, (row for row in read_table(tokens) if row["id"] in trained))
    write_table(test, TOKENS, (row for row in read_table(tokens) if row["id"] in tested))
    counts = {"train": len(trained), "test": len(tested), "removed": len(removed)}
    reasons = Counter(str(reason) for reason in removed.values())
    write_json(
        metrics,
        {
            **counts,
            "removed": dict(sorted(reasons.items())),
            "test_fraction": len(tested) / len(keys),
            "train_by_category": _by_category(tokens, trained),
            "test_by_category": _by_category(tokens, tested),
        },
    )
    print(f"split: {len(trained)} train, {len(tested)} test, {len(removed)} removed")
    return {name: float(count) for name, count in counts.items()}


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


def _cap(ids: set[str], keys: dict[str, str], seed: int, number: int) -> set[str]:
    """The `number` records that come first by position, then id."""
    return set(heapq.nsmallest(number, ids, key=lambda id_: (position(keys[id_], seed), id_)))


def _leaks(records: Path, keys: dict[str, str], on_test_side: set[str], tested: set[str]) -> Iterator[str]:
    """Ids on the training side whose text nearly repeats a tested record's."""
    near = NearDuplicates()
    for record in read_table(records):
        if record["id"] in tested:
            near.add(_text(record))
    for record in progress.track(read_table(records), "split", count_rows(records), "records"):
        if record["id"] in keys and record["id"] not in on_test_side and near.matches(_text(record)):
            yield record["id"]


def _text(record: dict[str, Any]) -> str:
    return normalise(f"{record['instruction']} {record['context']} {record['response']}")


def _by_category(tokens: Path, ids: Any) -> dict[str, int]:
    counts = Counter(row["category"] for row in read_table(tokens, ["id", "category"]) if row["id"] in ids)
    return dict(sorted(counts.items()))
