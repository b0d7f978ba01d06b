"""split as a KFP component."""

from kfp.dsl import Dataset, Input, Metrics, Output

from components.kfp_step import step


@step
def split(
    records: Input[Dataset],
    tokens: Input[Dataset],
    test_size: float,
    seed: int,
    train: Output[Dataset],
    test: Output[Dataset],
    metrics: Output[Metrics],
) -> None:
    """Divide the records into train and test, for good, and remove what would leak."""
    from pathlib import Path

    from components.split.split import split as run

    counts = run(
        records=Path(records.path),
        tokens=Path(tokens.path),
        test_size=test_size,
        seed=seed,
        train=Path(train.path),
        test=Path(test.path),
        metrics=Path(metrics.path),
    )
    metrics.metadata.update(counts)
