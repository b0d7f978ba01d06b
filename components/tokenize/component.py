"""tokenize as a KFP component."""

from kfp.dsl import Artifact, Dataset, Input, Metrics, Output

from components.kfp_step import step


@step
def tokenize(
    records: Input[Dataset],
    base_model: str,
    base_model_digest: str,
    template: str,
    template_digest: str,
    max_length: int,
    too_long: str,
    trust_remote_code: bool,
    shard: int,
    shards: int,
    tokens: Output[Dataset],
    tokenizer: Output[Artifact],
    metrics: Output[Metrics],
) -> None:
    """Render and encode every record, and drop or cut those that do not fit."""
    from pathlib import Path

    from components.tokenize.tokenize import tokenize as run

    counts = run(
        records=Path(records.path),
        base_model=base_model,
        base_model_digest=base_model_digest,
        template=template,
        template_digest=template_digest,
        max_length=max_length,
        too_long=too_long,
        trust_remote_code=trust_remote_code,
        shard=shard,
        shards=shards,
        tokens=Path(tokens.path),
        tokenizer=Path(tokenizer.path),
        metrics=Path(metrics.path),
    )
    metrics.metadata.update(counts)
