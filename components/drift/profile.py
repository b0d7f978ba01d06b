"""A compact profile of a run's records, kept with the version that they made: later data is compared with it.

It holds no record's text: half of each record's id, and counts by length, category and source.
"""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from components.records import Removal, read_batches, read_json, write_json

PROFILE, IDS = "data_profile.json", "data_ids.parquet"
TEXTS = ("instruction", "context", "response", "history")
REPEATS = (Removal.DUPLICATE, Removal.REPEATED_PROMPT, Removal.NEAR_DUPLICATE)
BINS = 10
MOST_GROUPS, OTHER = 100, "(other)"


@dataclass(frozen=True, kw_only=True)
class Data:
    """Of n records what their comparison needs: arrays of one length, in their order."""

    ids: np.ndarray  # uint64: the first 16 of an id's 32 hex digits, which tell millions of records apart
    lengths: np.ndarray  # characters of all that a record says, int64
    categories: np.ndarray  # str
    sources: np.ndarray  # str

    def __len__(self) -> int:
        return len(self.ids)

    def select(self, chosen: np.ndarray) -> "Data":
        """Some of them."""
        return Data(**{name: values[chosen] for name, values in vars(self).items()})


@dataclass(frozen=True, kw_only=True)
class Profile:
    """What is kept of a run's data."""

    records: int
    rows: int  # of the source
    repeats: int | None  # rows that were removed because they repeat another; None: near ones were not looked for
    length_edges: list[float]  # the inner borders of BINS bins
    lengths: list[int]
    categories: dict[str, int]
    sources: dict[str, int]


def read_data(records: Path) -> Data:
    """The records of ingest, without their texts."""
    parts: dict[str, list[np.ndarray]] = {name: [np.zeros(0, kind)] for name, kind in KINDS.items()}
    for batch in read_batches(records, ["id", *TEXTS, "category", "source"]):
        lengths = sum(pc.utf8_length(batch.column(name)).to_numpy(zero_copy_only=False) for name in TEXTS)
        parts["ids"].append(np.array([int(text[:16], 16) for text in batch.column("id").to_pylist()], np.uint64))
        parts["lengths"].append(np.asarray(lengths, np.int64))
        parts["categories"].append(np.array(batch.column("category").to_pylist(), object))
        parts["sources"].append(np.array(batch.column("source").to_pylist(), object))
    return Data(**{name: np.concatenate(arrays) for name, arrays in parts.items()})


def make_profile(data: Data, ingested: dict[str, Any], near_duplicates: bool) -> Profile:
    """The profile of a run's records.

    Args:
        ingested: ingest's counts.
        near_duplicates: whether ingest looked for them.
    """
    edges = np.quantile(data.lengths, np.arange(1, BINS) / BINS)
    return Profile(
        records=len(data),
        rows=ingested["rows"],
        repeats=sum(ingested["removed"].get(str(reason), 0) for reason in REPEATS) if near_duplicates else None,
        length_edges=np.unique(edges).tolist(),
        lengths=in_bins(data.lengths, np.unique(edges)),
        categories=_most(data.categories),
        sources=_most(data.sources),
    )


def in_bins(lengths: np.ndarray, edges: Any) -> list[int]:
    """How many lengths stand in each bin; an edge belongs to the bin below."""
    counts = np.bincount(np.searchsorted(edges, lengths, "left"), minlength=len(edges) + 1)
    return [int(count) for count in counts]


def in_groups(values: np.ndarray, groups: dict[str, int]) -> list[int]:
    """How many values stand in each of the groups, and in none of them, which is counted under OTHER."""
    counts = Counter(value if value in groups else OTHER for value in values.tolist())
    return [counts[name] for name in (*(name for name in groups if name != OTHER), OTHER)]


def of_groups(groups: dict[str, int]) -> list[int]:
    """The groups' own counts, in the order of in_groups."""
    return [*(count for name, count in groups.items() if name != OTHER), groups.get(OTHER, 0)]


def write_profile(folder: Path, profile: Profile, ids: np.ndarray) -> None:
    """Writes the profile's two files."""
    write_json(folder / PROFILE, vars(profile))
    pq.write_table(pa.table({"id": np.sort(ids)}), folder / IDS, compression="zstd")


def read_profile(folder: Path) -> tuple[Profile, np.ndarray] | None:
    """The profile in a version's folder and its ids, sorted; None where the version has none."""
    if not (folder / PROFILE).is_file() or not (folder / IDS).is_file():
        return None
    ids: np.ndarray = pq.read_table(folder / IDS).column("id").to_numpy()
    return Profile(**read_json(folder / PROFILE)), ids


def are_new(ids: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Which ids (bool) are not among those known, which are sorted."""
    if not len(known):
        return np.ones(len(ids), bool)
    places = np.minimum(np.searchsorted(known, ids), len(known) - 1)
    return np.asarray(known[places] != ids)


def _most(values: np.ndarray) -> dict[str, int]:
    """The groups that are most common with their counts, the others together."""
    counts = Counter(values.tolist())
    most = dict(sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:MOST_GROUPS])
    rest = counts.total() - sum(most.values())
    return {**most, OTHER: most.get(OTHER, 0) + rest} if rest else most


KINDS = {"ids": np.uint64, "lengths": np.int64, "categories": object, "sources": object}
