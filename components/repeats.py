"""Repeats among all records: exact ones by their ids, near ones by what they say; the first in source order is kept.

A record is removed when it repeats an earlier one that is kept. So what is appended never changes what became of the
records before it. In memory stand some 60 bytes a record and the candidate pairs.
"""

from collections.abc import Callable, Iterator
from functools import lru_cache

import numpy as np

from components import progress
from components.errors import ParameterError
from components.near import BANDS, jaccard, shingles

LOWEST = 0.5  # below, too many pairs share no band
# Of the records with the same band as many are compared with, the first ones: enough, as these differ from each other.
COMPARED = 8
# Shingles are made again when they are needed, but those of so many records are kept.
KEPT = 1024
MANY = 1 << 22  # pairs that are collected before those that came from several bands are put together


def check_similarity(value: float) -> None:
    """Raises ParameterError unless near-duplicates can be told at this similarity, or are not looked for."""
    if value != 0 and not LOWEST <= value <= 1:
        raise ParameterError(
            f"near_duplicates={value:g} must be 0 (off) or a similarity from {LOWEST:g} to 1, such as 0.7"
        )


def repeated(keys: np.ndarray) -> np.ndarray:
    """Which of n keys (uint64, n by 2) an earlier one is equal to (bool, n)."""
    order = np.lexsort((keys[:, 1], keys[:, 0]))
    ordered = keys[order]
    found = np.zeros(len(keys), bool)
    found[order[1:]] = (ordered[1:] == ordered[:-1]).all(axis=1)
    return found


def near_repeated(
    records: int,
    band: Callable[[int], np.ndarray],
    texts: Callable[[int], tuple[str, str]],
    similarity: float,
) -> np.ndarray:
    """Which records nearly repeat an earlier one that is kept (bool, one a record).

    Two records do when the word 3-grams of instruction and response have at least this Jaccard similarity, and those of
    what was said before and of the context have, too. A question about a passage repeats no other about it.

    Args:
        records: their number.
        band: the hash of one of the BANDS bands, by its number, of each record's instruction and response (uint64).
        texts: of a record, by its number: instruction and response, and history and context, both normalised.
        similarity: from 0.5 to 1.
    """
    removed = np.zeros(records, bool)
    said = lru_cache(KEPT)(lambda row: shingles(texts(row)[0]))
    given = lru_cache(KEPT)(lambda row: shingles(texts(row)[1]))
    for row, others in progress.track(_candidates(band), "near-duplicates", None, "candidates"):
        removed[row] = any(
            not removed[other]
            and jaccard(said(row), said(other)) >= similarity
            and jaccard(given(row), given(other)) >= similarity
            for other in others
        )
    return removed


def _candidates(band: Callable[[int], np.ndarray]) -> Iterator[tuple[int, list[int]]]:
    """Rows that share a band with earlier rows, in order, each with the first of these."""
    found = [np.zeros(0, np.uint64)]
    for number in range(BANDS):
        found.append(_pairs(band(number)))
        if sum(map(len, found)) > MANY:
            found = [np.unique(np.concatenate(found))]
    pairs = np.unique(np.concatenate(found))
    rows, first = np.unique(pairs >> np.uint64(32), return_index=True)
    others = pairs & np.uint64(0xFFFFFFFF)
    for row, start, end in zip(rows.tolist(), first.tolist(), [*first[1:].tolist(), len(pairs)], strict=False):
        yield row, others[start:end].tolist()


def _pairs(keys: np.ndarray) -> np.ndarray:
    """Rows with the same key as an earlier one, each with the first COMPARED of these, as row << 32 | earlier row."""
    order = np.argsort(keys, kind="stable").astype(np.uint32)
    starts = np.flatnonzero(np.concatenate([[True], keys[order][1:] != keys[order][:-1]]))
    place = np.arange(len(order)) - np.repeat(starts, np.diff([*starts, len(order)]))
    pairs = []
    for back in range(COMPARED):  # the row that stands at this place among those with the same key
        later = np.flatnonzero(place > back)
        earlier = order[later - place[later] + back].astype(np.uint64)
        pairs.append(order[later].astype(np.uint64) << np.uint64(32) | earlier)
    return np.concatenate(pairs)
