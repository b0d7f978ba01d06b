"""evaluate as a KFP component."""

from kfp.dsl import Artifact, Dataset, Input, Metrics, Model, Output

from components.kfp_step import step


@step
def evaluate(
    records: Input[Dataset],
    test: Input[Dataset],
    model: Input[Model],
    base_model: str,
    base_model_digest: str,
    champion: str,
    registry: str,
    model_name: str,
    corpora: dict,  # type: ignore[type-arg]  # KFP knows the bare dict only
    stride: int,
    prompts: int,
    tasks: dict,  # type: ignore[type-arg]
    precision: str,
    batch_size: int,
    include_samples: bool,
    trust_remote_code: bool,
    evaluation: Output[Metrics],
    errors: Output[Artifact],
) -> None:
    """Measure base, tuned and champion: exact perplexity on records and texts, and how they answer."""
    from pathlib import Path

    from components.evaluate.evaluate import evaluate as run
    from components.models import model_folder

    figures = run(
        records=Path(records.path),
        test=Path(test.path),
        model=model_folder(model.metadata.get("path", model.path)),  # where a TrainJob has left it
        base_model=base_model,
        base_model_digest=base_model_digest,
        champion=champion,
        registry=registry,
        model_name=model_name,
        corpora=corpora,
        stride=stride,
        prompts=prompts,
        tasks=tasks,
        precision=precision,
        batch_size=batch_size,
        include_samples=include_samples,
        trust_remote_code=trust_remote_code,
        evaluation=Path(evaluation.path),
        errors=Path(errors.path),
    )
    evaluation.metadata.update(figures)
