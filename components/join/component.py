"""join as a KFP component."""

from kfp.dsl import Artifact, Dataset, Input, Metrics, Output

from components.kfp_step import step


@step
def join(
    token_shards: Input[list[Dataset]],
    tokenizer_shards: Input[list[Artifact]],
    metric_shards: Input[list[Metrics]],
    tokens: Output[Dataset],
    tokenizer: Output[Artifact],
    metrics: Output[Metrics],
) -> None:
    """Put together the token rows of all shards."""
    from pathlib import Path

    from components.join.join import join as run

    counts = run(
        token_shards=[Path(shard.path) for shard in token_shards],
        tokenizer_shards=[Path(shard.path) for shard in tokenizer_shards],
        metric_shards=[Path(shard.path) for shard in metric_shards],
        tokens=Path(tokens.path),
        tokenizer=Path(tokenizer.path),
        metrics=Path(metrics.path),
    )
    metrics.metadata.update(counts)
