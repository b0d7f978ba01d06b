"""Near-duplicates: MinHash finds candidates, their exact Jaccard similarity decides."""

from rensa import RMinHash, RMinHashLSH

# Word 3-grams; two records of which seven tenths of all 3-grams are shared say the same.
SHINGLE, THRESHOLD = 3, 0.7
# 32 bands of 4 rows: a pair at the threshold is a candidate with probability 1 - (1 - 0.7^4)^32 = 0.9998.
PERMUTATIONS, BANDS, SEED = 128, 32, 1


class NearDuplicates:
    """An index of texts that answers whether another text nearly repeats one of them."""

    def __init__(self) -> None:
        self._index = RMinHashLSH(THRESHOLD, PERMUTATIONS, BANDS)
        self._shingles: list[frozenset[str]] = []

    def add(self, text: str) -> None:
        """Adds a normalised text."""
        shingles = shingle(text)
        self._index.insert(len(self._shingles), _signature(shingles))
        self._shingles.append(shingles)

    def matches(self, text: str) -> bool:
        """Whether a normalised text has a Jaccard similarity of at least the threshold with one that was added."""
        shingles = shingle(text)
        return any(
            jaccard(shingles, self._shingles[found]) >= THRESHOLD for found in self._index.query(_signature(shingles))
        )


def shingle(text: str) -> frozenset[str]:
    """The word 3-grams of a text; the text itself when it has fewer words."""
    words = text.split()
    return frozenset(" ".join(words[start : start + SHINGLE]) for start in range(max(1, len(words) - SHINGLE + 1)))


def jaccard(one: frozenset[str], other: frozenset[str]) -> float:
    """Shared shingles over all shingles of both."""
    return len(one & other) / len(one | other)


def _signature(shingles: frozenset[str]) -> RMinHash:
    signature = RMinHash(PERMUTATIONS, SEED)
    signature.update(list(shingles))
    return signature
