"""drift as a KFP component."""

from kfp.dsl import Artifact, Dataset, Input, Markdown, Metrics, Output

from components.kfp_step import step


@step
def drift(
    records: Input[Dataset],
    ingested: Input[Metrics],
    near_duplicates: float,
    champion: str,
    registry: str,
    model_name: str,
    rules: str,
    rules_digest: str,
    precision: str,
    batch_size: int,
    trust_remote_code: bool,
    metrics: Output[Metrics],
    panel: Output[Markdown],
    profile: Output[Artifact],
) -> None:
    """Compare the records that are new with those that the champion was trained on."""
    from pathlib import Path

    from components.drift.drift import drift as run

    files = {"records": records, "ingested": ingested, "metrics": metrics, "panel": panel, "profile": profile}
    measured = run(
        **{name: Path(artifact.path) for name, artifact in files.items()},
        near_duplicates=near_duplicates,
        champion=champion,
        registry=registry,
        model_name=model_name,
        rules=rules,
        rules_digest=rules_digest,
        precision=precision,
        batch_size=batch_size,
        trust_remote_code=trust_remote_code,
    )
    metrics.metadata.update(measured)


@step
def admit(drift: Input[Metrics], on_drift: str, dataset_digest: str, registry: str, model_name: str) -> None:
    """Let the run go on to its training, unless its data has drifted and the user asked to stop then."""
    from pathlib import Path

    from components.drift.drift import admit as run

    run(
        drift=Path(drift.path),
        on_drift=on_drift,
        dataset_digest=dataset_digest,
        registry=registry,
        model_name=model_name,
    )
