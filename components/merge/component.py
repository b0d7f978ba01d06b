"""merge as a KFP component."""

from kfp.dsl import Dataset, Input, Metrics, Output

from components.kfp_step import step


@step
def merge(
    prepared_shards: Input[list[Dataset]],
    records: Output[Dataset],
    rejects: Output[Dataset],
    metrics: Output[Metrics],
) -> None:
    """Remove repeats among the rows that all shards prepared, and count what became of each."""
    from pathlib import Path

    from components.merge.merge import merge as run

    counts = run(
        prepared_shards=[Path(shard.path) for shard in prepared_shards],
        records=Path(records.path),
        rejects=Path(rejects.path),
        metrics=Path(metrics.path),
    )
    metrics.metadata.update(counts)
