"""Near-duplicates: MinHash finds candidates, the exact Jaccard similarity of their word 3-grams decides.

Texts come in blocks, already normalised. Of each indexed text 32 numbers stay in memory and its shingles on disk, so an
index of a million texts takes about half a GiB.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from rensa import RMinHash

# Word 3-grams; two records of which seven tenths of all 3-grams are shared say the same.
SHINGLE, THRESHOLD = 3, 0.7
# 32 bands of 4 rows: a pair at the threshold is a candidate with probability 1 - (1 - 0.7^4)^32 = 0.9998.
PERMUTATIONS, BANDS, SEED = 128, 32, 1
# Odd constants of splitmix64 and of xxhash, to mix 64-bit numbers.
MIX = np.array([0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB], np.uint64)


@dataclass(frozen=True, kw_only=True)
class Sketch:
    """Of n texts: the hashes of their shingles, one text's after another's, and of their bands."""

    shingles: np.ndarray  # uint64; a text's may repeat
    ends: np.ndarray  # int64, n; where a text's shingles end
    bands: np.ndarray  # uint64, n by BANDS

    def __len__(self) -> int:
        return len(self.ends)

    def row(self, index: int) -> np.ndarray:
        """The shingles of one text."""
        return self.shingles[self.ends[index - 1] if index else 0 : self.ends[index]]


class NearDuplicates:
    """An index of texts that answers whether other texts nearly repeat one of them. First add, then ask."""

    def __init__(self, scratch: Path) -> None:
        """scratch: a folder for what need not stand in memory."""
        self._file = scratch / "shingles"
        self._ends: list[np.ndarray] = [np.zeros(1, np.int64)]
        self._added: list[np.ndarray] = [np.zeros((0, BANDS), np.uint64)]
        self._index: _Index | None = None

    def add(self, texts: Sequence[str]) -> None:
        """Adds a block of texts."""
        added = sketch(texts)
        with self._file.open("ab") as file:
            file.write(added.shingles.tobytes())
        self._ends.append(added.ends + self._ends[-1][-1])
        self._added.append(added.bands)
        self._index = None

    def matches(self, texts: Sequence[str]) -> list[bool]:
        """Of each text of a block, whether its Jaccard similarity with one that was added reaches THRESHOLD."""
        if self._index is None:
            self._index = _Index(self._file, np.concatenate(self._ends)[1:], np.concatenate(self._added))
        asked = sketch(texts)
        found = self._index.candidates(asked.bands)
        return [any(self._index.similar(asked.row(row), other) for other in found[row]) for row in range(len(asked))]


class _Index:
    def __init__(self, file: Path, ends: np.ndarray, bands: np.ndarray) -> None:
        # by band, so that what is searched lies together
        bands = np.ascontiguousarray(bands.T)
        self._order = np.argsort(bands, axis=1, kind="stable").astype(np.uint32)
        self._keys = np.take_along_axis(bands, self._order, axis=1)
        shingles: Any = np.memmap(file, np.uint64, "r") if len(ends) else np.zeros(0, np.uint64)
        self._rows = Sketch(shingles=shingles, ends=ends, bands=bands[:0])

    def candidates(self, bands: np.ndarray) -> list[list[int]]:
        """For each row of bands, the texts that share one of them, in the order in which they were added."""
        found: list[set[int]] = [set() for _ in range(len(bands))]
        for order, keys, asked in zip(self._order, self._keys, bands.T, strict=True):
            first = np.searchsorted(keys, asked)
            rows = np.flatnonzero(keys.take(first, mode="clip") == asked) if len(keys) else first[:0]
            last = np.searchsorted(keys, asked[rows], "right")
            for row, start, end in zip(rows.tolist(), first[rows].tolist(), last.tolist(), strict=True):
                found[row].update(order[start:end].tolist())
        return [sorted(others) for others in found]

    def similar(self, shingles: np.ndarray, other: int) -> bool:
        return jaccard(shingles, self._rows.row(other)) >= THRESHOLD


def sketch(texts: Sequence[str]) -> Sketch:
    """Shingles and bands of normalised texts; a text of fewer words than a shingle has is one shingle."""
    if not texts:
        return Sketch(shingles=MIX[:0], ends=np.zeros(0, np.int64), bands=np.zeros((0, BANDS), np.uint64))
    values, ends = _shingled(texts)
    offsets = np.concatenate([[0], ends]).astype(np.uint64)
    digests = RMinHash.digest_matrix_from_flat_token_hashes(values, offsets, PERMUTATIONS, SEED).to_rows()
    bands = np.array(digests, np.uint32).view(np.uint64).reshape(len(texts), BANDS, -1)
    return Sketch(shingles=values, ends=ends, bands=_mixed(bands))


def shingles(text: str) -> np.ndarray:
    """The hashes of a normalised text's shingles, each once (uint64)."""
    return np.unique(_shingled([text])[0])


def _shingled(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """The hashes of the texts' shingles, one text's after another's, and where each text's end."""
    words = [hashes + [0] * (SHINGLE - len(hashes)) for hashes in RMinHash.hash_token_sets([t.split() for t in texts])]
    ends = np.cumsum([len(hashes) for hashes in words])
    flat = np.fromiter(chain.from_iterable(words), np.uint64, ends[-1])
    windows = np.lib.stride_tricks.sliding_window_view(flat, SHINGLE)
    inside = np.ones(len(windows), bool)
    for back in range(1, SHINGLE):  # a window that begins here would reach into the next text
        inside[ends[:-1] - back] = False
    return _mixed(windows[inside]), ends - (SHINGLE - 1) * np.arange(1, len(texts) + 1)


def jaccard(one: np.ndarray, other: np.ndarray) -> float:
    """Shared values over all values of both."""
    one, other = np.unique(one), np.unique(other)
    shared = len(np.intersect1d(one, other, assume_unique=True))
    return shared / (len(one) + len(other) - shared)


def _mixed(values: np.ndarray) -> np.ndarray:
    """One number for the numbers along the last axis, in their order."""
    mixed = (values * MIX[: values.shape[-1]]).sum(axis=-1, dtype=np.uint64)
    mixed ^= mixed >> np.uint64(31)
    mixed *= MIX[1]
    return np.asarray(mixed ^ (mixed >> np.uint64(29)))
