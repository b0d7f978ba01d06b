"""Makes records of the rows that ingest prepared in shards: the same bytes as from one pod."""

from collections.abc import Sequence
from pathlib import Path

from components.merging import merge_prepared


def merge(*, prepared_shards: Sequence[Path], records: Path, rejects: Path, metrics: Path) -> dict[str, float]:
    """Writes the records, rejects and counts of all shards, in the order of the sources.

    Args:
        prepared_shards: What ingest wrote of each shard, in any order.
        records: Where to write the records (Parquet).
        rejects: Where to write what was rejected (Parquet).
        metrics: Where to write the counts (JSON).

    Returns:
        The counts that a run is judged by, as ingest gives them.

    Raises:
        DataError: no valid record, or too many rejects.
        PipelineError: a shard is missing, or they were not made alike.
    """
    return merge_prepared("merge", prepared_shards, records=records, rejects=rejects, metrics=metrics)
