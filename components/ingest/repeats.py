"""Near-duplicates among all records: of those that say the same of the same, the first in source order is kept.

A record is removed when it nearly repeats an earlier one that is kept. So what is appended never changes what became of
the records before it. In memory stand some 300 bytes a record; shingles stand on disk.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from components import progress
from components.errors import ParameterError
from components.near import BANDS, jaccard, sketch
from components.records import count_rows, normalise, read_table

LOWEST = 0.5  # below, too many pairs share no band
BLOCK = 2048  # texts that are sketched at a time
# Of the records with the same band as many are compared with, the first ones: enough, as these differ from each other.
COMPARED = 8


def check_similarity(value: float) -> None:
    """Raises ParameterError unless near-duplicates can be told at this similarity, or are not looked for."""
    if value != 0 and not LOWEST <= value <= 1:
        raise ParameterError(
            f"near_duplicates={value:g} must be 0 (off) or a similarity from {LOWEST:g} to 1, such as 0.7"
        )


def repeats(records: Path, similarity: float) -> np.ndarray:
    """Which records nearly repeat an earlier one that is kept (bool, one a record).

    Two records do when the word 3-grams of instruction and response have at least this Jaccard similarity, and those of
    what was said before and of the context have, too. A question about a passage repeats no other about it.

    Args:
        records: Parquet with instruction, context, response and history.
        similarity: from 0.5 to 1.
    """
    removed = np.zeros(count_rows(records), bool)
    with tempfile.TemporaryDirectory() as scratch:
        answers, contexts = (_Shingles(Path(scratch) / name) for name in ("answers", "contexts"))
        bands = _sketched(records, answers, contexts)
        for row, others in _candidates(bands):
            removed[row] = any(
                not removed[other]
                and jaccard(answers.row(row), answers.row(other)) >= similarity
                and jaccard(contexts.row(row), contexts.row(other)) >= similarity
                for other in others
            )
    return removed


class _Shingles:
    """The shingles of texts, in a file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._ends: list[np.ndarray] = [np.zeros(1, np.int64)]
        self._open: tuple[Any, np.ndarray] | None = None

    def add(self, shingles: np.ndarray, ends: np.ndarray) -> None:
        """Adds those of a block of texts: one text's after another's, and where each text's end."""
        with self._path.open("ab") as file:
            file.write(shingles.tobytes())
        self._ends.append(ends + self._ends[-1][-1])

    def row(self, index: int) -> np.ndarray:
        """Those of one text."""
        if self._open is None:
            self._open = np.memmap(self._path, np.uint64, "r"), np.concatenate(self._ends)
        shingles, ends = self._open
        return np.asarray(shingles[ends[index] : ends[index + 1]])


def _sketched(records: Path, answers: _Shingles, contexts: _Shingles) -> np.ndarray:
    """Writes the records' shingles and gives the bands by which answers are told to be alike."""
    bands = np.zeros((count_rows(records), BANDS), np.uint64)
    start = 0
    for block in progress.track(_blocks(records), "near-duplicates", None, "blocks"):
        answer = sketch([normalise(f"{record['instruction']} {record['response']}") for record in block])
        context = sketch([normalise(f"{record['history']} {record['context']}") for record in block])
        answers.add(answer.shingles, answer.ends)
        contexts.add(context.shingles, context.ends)
        bands[start : start + len(block)] = answer.bands
        start += len(block)
    return bands


def _blocks(records: Path) -> Iterator[list[dict[str, str]]]:
    block: list[dict[str, str]] = []
    for record in read_table(records, ["instruction", "context", "response", "history"]):
        block.append(record)
        if len(block) == BLOCK:
            yield block
            block = []
    if block:
        yield block


def _candidates(bands: np.ndarray) -> Iterator[tuple[int, list[int]]]:
    """Rows that share a band with earlier rows, in order, each with the first of these."""
    pairs = [np.zeros((0, 2), np.uint32)]
    for band in range(BANDS):
        keys = bands[:, band]
        order = np.argsort(keys, kind="stable").astype(np.uint32)
        starts = np.flatnonzero(np.concatenate([[True], keys[order][1:] != keys[order][:-1]]))
        place = np.arange(len(order)) - np.repeat(starts, np.diff([*starts, len(order)]))
        for back in range(COMPARED):  # the row that stands at this place among those with the same band
            later = np.flatnonzero(place > back)
            pairs.append(np.stack([order[later], order[later - place[later] + back]], axis=1))
    together = np.unique(np.concatenate(pairs), axis=0)
    rows, first = np.unique(together[:, 0], return_index=True)
    for row, others in zip(rows.tolist(), np.split(together[:, 1], first[1:]), strict=bool(len(rows))):
        yield row, others.tolist()
