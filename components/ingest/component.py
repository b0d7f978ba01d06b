"""ingest as a KFP component."""

from kfp.dsl import Dataset, Metrics, Output

from components.kfp_step import step


@step
def ingest(
    dataset: str,
    dataset_digest: str,
    columns: str,
    license: str,
    max_reject_fraction: float,
    cleaning: str,
    pii: str,
    pii_names: str,
    near_duplicates: float,
    decontaminate: str,
    decontaminate_digest: str,
    ingest_cache: str,
    shard: int,
    shards: int,
    records: Output[Dataset],
    rejects: Output[Dataset],
    metrics: Output[Metrics],
) -> None:
    """Validate every row of the dataset and remove duplicates; of a shard, leave that to merge."""
    from pathlib import Path

    from components.ingest.ingest import ingest as run

    counts = run(
        dataset=dataset,
        dataset_digest=dataset_digest,
        columns=columns,
        license=license,
        max_reject_fraction=max_reject_fraction,
        cleaning=cleaning,
        pii=pii,
        pii_names=pii_names,
        near_duplicates=near_duplicates,
        decontaminate=decontaminate,
        decontaminate_digest=decontaminate_digest,
        ingest_cache=ingest_cache,
        shard=shard,
        shards=shards,
        records=Path(records.path),
        rejects=Path(rejects.path),
        metrics=Path(metrics.path),
    )
    metrics.metadata.update(counts)
