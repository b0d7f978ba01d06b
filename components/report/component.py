"""report as a KFP component."""

from kfp.dsl import HTML, Artifact, Input, Metrics, Output

from components.kfp_step import step


@step
def report(
    ingested: Input[Metrics],
    tokenized: Input[Metrics],
    divided: Input[Metrics],
    trained: Input[Metrics],
    curves: Input[Artifact],
    evaluation: Input[Metrics],
    verdict: Input[Artifact],
    registered: Input[Artifact],
    drifted: Input[Metrics],
    pinned: dict,  # type: ignore[type-arg]  # KFP knows the bare dict only
    configuration: dict,  # type: ignore[type-arg]
    price_per_accelerator_hour: float,
    page: Output[HTML],
) -> None:
    """Write one self-contained page about the run."""
    from pathlib import Path

    from components.report.report import report as run

    files = {"ingested": ingested, "tokenized": tokenized, "divided": divided, "trained": trained, "curves": curves}
    files |= {"drifted": drifted, "evaluation": evaluation, "verdict": verdict, "registered": registered, "page": page}
    run(
        **{name: Path(artifact.path) for name, artifact in files.items()},
        pinned={name: value for name, value in pinned.items() if name != "registry_id"},
        configuration=configuration,
        price_per_accelerator_hour=price_per_accelerator_hour,
    )
