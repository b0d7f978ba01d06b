"""Decontamination: records that share a run of words with an evaluation set, which a model must not be trained on.

Of the sets 8 bytes a run stay in memory; the records pass by one at a time.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
from rensa import RMinHash

from components.corpora import corpora_digest, pin_corpora, read_documents
from components.errors import DataError
from components.records import normalise
from components.sources import fetch

# Brown et al. 2020 (arXiv:2005.14165), appendix C, compare runs of 13 words, too.
WORDS = 13
# What stands between words: white space, and punctuation and signs of ASCII, Latin-1, and the general blocks. The
# joiners of scripts do not.
BETWEEN = re.compile(r"[\x00-/:-@\[-`{-\xbf\u2010-\u206f\u3000-\u303f]+")
# Powers of an odd number, so that the same words in another order are another run.
FACTORS = np.cumprod(np.full(WORDS, 0x9E3779B97F4A7C15, np.uint64))


class EvaluationSets:
    """The runs of words of named evaluation sets, and in how many records those of each were found."""

    def __init__(self, sets: Mapping[str, Iterable[str]]) -> None:
        """sets: the documents of each set, by its name.

        Raises:
            DataError: a set has no word in it; or from reading it.
        """
        self._runs = {name: _runs_of(name, documents) for name, documents in sets.items()}
        self.names = tuple(sets)
        self.found: Counter[str] = Counter()

    def hold(self, texts: Sequence[str]) -> bool:
        """Whether a record, given by its texts in the order in which they are read, shares a run with any set.

        A run is WORDS words. A document of fewer is one run by itself: a record shares it whose words, or the words of
        one of whose texts, are all of the document's.
        """
        parts = [words(text) for text in texts]
        short = [part for part in parts if 0 < len(part) < WORDS]
        record = np.concatenate([runs(part) for part in ([word for part in parts for word in part], *short)])
        shared = [name for name, held in self._runs.items() if _share(held, record)]
        self.found.update(shared)
        return bool(shared)


def load_sets(decontaminate: str, decontaminate_digest: str, clean: Callable[[str], str]) -> EvaluationSets:
    """The evaluation sets of `name=path or URI` entries.

    Args:
        decontaminate_digest: What resolve found; the bytes must still be these. Empty: not checked.
        clean: What is done to the texts of records, so that both are compared alike.

    Raises:
        ParameterError: an entry has another form.
        DataError: a set cannot be read, has no word in it, or changed since it was resolved.
    """
    pinned = pin_corpora(decontaminate, "evaluation_set")
    if decontaminate_digest and corpora_digest(pinned) != decontaminate_digest:
        raise DataError(f"decontaminate: {decontaminate} changed after it was resolved; start the run again")
    return EvaluationSets(
        {name: map(clean, read_documents(fetch(place, "evaluation_set"))) for name, place in pinned.items()}
    )


def words(text: str) -> list[str]:
    """The words of a text, normalised, without what stands between them."""
    return [word for word in BETWEEN.split(normalise(text)) if word]


def runs(found: list[str]) -> np.ndarray:
    """A hash (uint64) for each run of WORDS words; one for all words where there are fewer; none for no word."""
    if not found:
        return np.zeros(0, np.uint64)
    hashes = np.array(RMinHash.hash_token_sets([found])[0] + [0] * (WORDS - len(found)), np.uint64)
    number = len(hashes) - WORDS + 1
    combined = np.zeros(number, np.uint64)
    for place, factor in enumerate(FACTORS):
        combined += hashes[place : place + number] * factor
    return combined


def _runs_of(name: str, documents: Iterable[str]) -> np.ndarray:
    """Those of a set, each once, in order."""
    try:
        held = np.unique(np.concatenate([runs([]), *(runs(words(document)) for document in documents)]))
    except DataError as error:
        raise DataError(f"decontaminate: {name}: {error}") from None
    if not len(held):
        raise DataError(f"decontaminate: {name} is empty: no document has a word in it; mend it, or leave it out")
    return held


def _share(held: np.ndarray, asked: np.ndarray) -> bool:
    places = np.minimum(np.searchsorted(held, asked), len(held) - 1)
    return bool((held[places] == asked).any())
