"""How far new records are from those that the champion was trained on.

population stability index: N. Siddiqi, Credit Risk Scorecards (Wiley, 2006), which takes values below 0.1 for no shift
and from 0.25 on for a significant one. Jensen-Shannon distance: J. Lin, Divergence Measures Based on the Shannon
Entropy (IEEE Trans. Inf. Theory 37, 1991); D. Endres, J. Schindelin, A New Metric for Probability Distributions
(ibid. 49, 2003).
"""

from collections.abc import Sequence

import numpy as np

from components.drift.profile import Data, Profile, in_bins, in_groups, of_groups

SMOOTHING = 0.5  # added to each count, because an empty bin would make the index infinite


def population_stability_index(old: Sequence[int], new: Sequence[int]) -> float:
    """Sum of (new share - old share) * ln(new share / old share) over the bins; 0: the same, no upper limit.

    Each count is raised by half a record. By chance alone the index is about (bins - 1) * (1 / old + 1 / new records).
    """
    before, now = (_shares(np.asarray(counts, float) + SMOOTHING) for counts in (old, new))
    return float(((now - before) * np.log(now / before)).sum())


def jensen_shannon_distance(old: Sequence[int], new: Sequence[int]) -> float:
    """The square root of the Jensen-Shannon divergence in bits: from 0, the same, to 1, nothing in common."""
    before, now = (_shares(np.asarray(counts, float)) for counts in (old, new))
    middle = (before + now) / 2
    divergence = sum(
        float((part[part > 0] * np.log2(part[part > 0] / middle[part > 0])).sum()) / 2 for part in (before, now)
    )
    return float(np.sqrt(max(divergence, 0.0)))


def shifts(old: Profile, new: Data) -> dict[str, dict[str, list[int]]]:
    """Counts of old and new records by length, category and source, in the same bins."""
    return {
        "length": {"old": old.lengths, "new": in_bins(new.lengths, old.length_edges)},
        "category": {"old": of_groups(old.categories), "new": in_groups(new.categories, old.categories)},
        "source": {"old": of_groups(old.sources), "new": in_groups(new.sources, old.sources)},
    }


def repeat_rate(old: Profile, now: Profile, *, grown: bool) -> float | None:
    """Share of rows that repeat another one, word for word or nearly; None where ingest did not look for them.

    Args:
        grown: whether every old record is still there. Then the rows that came since are told from the others, because
            what is appended never changes what became of the rows before it; else the rate is that of all rows.
    """
    if now.repeats is None:
        return None
    if grown and old.repeats is not None and now.rows > old.rows:
        return max(0.0, (now.repeats - old.repeats) / (now.rows - old.rows))
    return now.repeats / now.rows if now.rows else None


def _shares(counts: np.ndarray) -> np.ndarray:
    return np.asarray(counts / counts.sum())
