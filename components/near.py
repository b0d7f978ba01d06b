"""Near-duplicates: MinHash finds candidates, the exact Jaccard similarity of their word 3-grams decides.

Texts come in blocks, already normalised. Of each indexed text 32 numbers stay in memory, its shingles and MinHash
values on disk, so an index of a million texts takes about half a GiB.
"""

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
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
# The share of equal MinHash values from which on two texts are compared; it tells their similarity to 0.04, so one pair
# in 30,000 at the threshold shows less. Where all texts have a form in common, nearly all share bands.
LIKELY = 0.54
# Scripts that put no spaces between words: Thai to Lao, Burmese, Khmer, Japanese and Chinese. Each of their characters
# counts as a word, or a whole page would be one.
UNSPACED = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
)
# Odd constants of splitmix64 and of xxhash, to mix 64-bit numbers.
MIX = np.array([0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB], np.uint64)


@dataclass(frozen=True, kw_only=True)
class Sketch:
    """Of n texts: the hashes of their shingles, one text's after another's, and what finds texts that are like them."""

    shingles: np.ndarray  # uint64; a text's may repeat
    ends: np.ndarray  # int64, n; where a text's shingles end
    digests: np.ndarray  # uint32, n by PERMUTATIONS; MinHash's
    bands: np.ndarray  # uint64, n by BANDS

    def __len__(self) -> int:
        return len(self.ends)

    def row(self, index: int) -> np.ndarray:
        """The shingles of one text."""
        return _row(self.shingles, self.ends, index)


class NearDuplicates:
    """An index of texts that answers whether other texts nearly repeat one of them. First add, then ask.

    What stands before a text, if anything, must be alike too: the same words in another conversation are no repeat.
    """

    def __init__(self, scratch: Path) -> None:
        """scratch: a folder for what need not stand in memory."""
        self._texts, self._before = _Rows(scratch / "texts"), _Rows(scratch / "before")
        self._digests = scratch / "digests"
        self._added: list[np.ndarray] = [np.zeros((0, BANDS), np.uint64)]
        self._index: _Index | None = None

    def add(self, texts: Sequence[str], before: Sequence[str] | None = None) -> None:
        """Adds a block of texts, with what stands before each."""
        added = sketch(texts)
        self._texts.add(added.shingles, added.ends)
        self._before.add(*_shingled(before or [""] * len(texts)))
        with self._digests.open("ab") as file:
            file.write(added.digests.tobytes())
        self._added.append(added.bands)
        self._index = None

    def matches(self, texts: Sequence[str], before: Sequence[str] | None = None) -> list[bool]:
        """Of each text of a block, whether its Jaccard similarity with one that was added reaches THRESHOLD."""
        if self._index is None:
            self._index = _Index(np.concatenate(self._added), self._digests)
        asked = sketch(texts)
        values, ends = _shingled(before or [""] * len(texts))
        found = np.zeros(len(texts), bool)
        for row, others in self._index.candidates(asked):
            said, given = asked.row(row), _row(values, ends, row)
            found[row] = any(
                jaccard(said, self._texts.row(other)) >= THRESHOLD
                and jaccard(given, self._before.row(other)) >= THRESHOLD
                for other in others
            )
        return list(found.tolist())


class _Rows:
    """Shingles of many texts, on disk."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._ends = [np.zeros(1, np.int64)]
        self._values: Any = None
        self._all_ends = self._ends[0]

    def add(self, values: np.ndarray, ends: np.ndarray) -> None:
        with self._file.open("ab") as file:
            file.write(values.tobytes())
        self._ends.append(ends + self._ends[-1][-1])
        self._values = None

    def row(self, index: int) -> np.ndarray:
        if self._values is None:
            self._values, self._all_ends = np.memmap(self._file, np.uint64, "r"), np.concatenate(self._ends)[1:]
        return _row(self._values, self._all_ends, index)


class _Index:
    def __init__(self, bands: np.ndarray, digests: Path) -> None:
        # by band, so that what is searched lies together
        bands = np.ascontiguousarray(bands.T)
        self._order = np.argsort(bands, axis=1, kind="stable")
        self._keys = np.take_along_axis(bands, self._order, axis=1)
        self._order = self._order.astype(np.uint32)
        shape = (bands.shape[1], PERMUTATIONS)
        self._digests: Any = np.memmap(digests, np.uint32, "r", shape=shape) if shape[0] else None

    def candidates(self, asked: Sketch) -> Iterator[tuple[int, list[int]]]:
        """The rows of a sketch that share a band with texts which may be alike, each with these, in their order."""
        found: defaultdict[int, list[np.ndarray]] = defaultdict(list)
        for order, keys, wanted in zip(self._order, self._keys, asked.bands.T, strict=True):
            first = np.searchsorted(keys, wanted)
            rows = np.flatnonzero(keys.take(first, mode="clip") == wanted) if len(keys) else first[:0]
            last = np.searchsorted(keys, wanted[rows], "right")
            for row, start, end in zip(rows.tolist(), first[rows].tolist(), last.tolist(), strict=True):
                found[row].append(order[start:end])
        for row, parts in found.items():
            others = np.unique(np.concatenate(parts))
            shared = (self._digests[others] == asked.digests[row]).mean(axis=1)
            yield row, others[shared >= LIKELY].tolist()


def sketch(texts: Sequence[str]) -> Sketch:
    """Shingles and bands of normalised texts; a text of fewer words than a shingle has is one shingle."""
    if not texts:
        empty = np.zeros((0, PERMUTATIONS), np.uint32), np.zeros((0, BANDS), np.uint64)
        return Sketch(shingles=MIX[:0], ends=np.zeros(0, np.int64), digests=empty[0], bands=empty[1])
    values, ends = _shingled(texts)
    offsets = np.concatenate([[0], ends]).astype(np.uint64)
    rows = RMinHash.digest_matrix_from_flat_token_hashes(values, offsets, PERMUTATIONS, SEED).to_rows()
    digests = np.array(rows, np.uint32)
    bands = _mixed(digests.view(np.uint64).reshape(len(texts), BANDS, -1))
    return Sketch(shingles=values, ends=ends, digests=digests, bands=bands)


def shingles(text: str) -> np.ndarray:
    """The hashes of a normalised text's shingles, each once (uint64)."""
    return np.unique(_shingled([text])[0])


def _row(values: np.ndarray, ends: np.ndarray, index: int) -> np.ndarray:
    return values[ends[index - 1] if index else 0 : ends[index]]


def _shingled(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """The hashes of the texts' shingles, one text's after another's, and where each text's end."""
    if not texts:
        return MIX[:0], np.zeros(0, np.int64)
    words = [hashes + [0] * (SHINGLE - len(hashes)) for hashes in RMinHash.hash_token_sets([*map(_words, texts)])]
    ends = np.cumsum([len(hashes) for hashes in words])
    flat = np.fromiter(chain.from_iterable(words), np.uint64, ends[-1])
    windows = np.lib.stride_tricks.sliding_window_view(flat, SHINGLE)
    inside = np.ones(len(windows), bool)
    for back in range(1, SHINGLE):  # a window that begins here would reach into the next text
        inside[ends[:-1] - back] = False
    return _mixed(windows[inside]), ends - (SHINGLE - 1) * np.arange(1, len(texts) + 1)


def _words(text: str) -> list[str]:
    return (text if text.isascii() else UNSPACED.sub(r" \g<0> ", text)).split()


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
