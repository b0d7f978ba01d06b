"""train as a KFP component."""

from kfp.dsl import Artifact, Dataset, Input, Metrics, Model, Output

from components.kfp_step import step


@step
def train(
    train: Input[Dataset],
    test: Input[Dataset],
    tokenizer: Input[Artifact],
    base_model: str,
    base_model_digest: str,
    settings: dict,  # type: ignore[type-arg]  # KFP knows the bare dict only
    checkpoints: str,
    model: Output[Model],
    curves: Output[Artifact],
    metrics: Output[Metrics],
) -> None:
    """Fine-tune the base model with torchrun and DeepSpeed."""
    from pathlib import Path

    from components.train.config import TrainConfig
    from components.train.train import train as run

    config = TrainConfig.from_settings(
        settings,
        train=Path(train.path),
        test=Path(test.path),
        tokenizer=Path(tokenizer.path),
        base_model=base_model,
        base_model_digest=base_model_digest,
        model=Path(model.path),
        curves=Path(curves.path),
        metrics=Path(metrics.path),
        checkpoints=Path(checkpoints) if checkpoints else None,
    )
    metrics.metadata.update(run(config))
