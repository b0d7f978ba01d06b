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
    page: Output[HTML],
) -> None:
    """Write one self-contained page about the run."""
    from pathlib import Path

    from components.report.report import report as run

    run(
        ingested=Path(ingested.path),
        tokenized=Path(tokenized.path),
        divided=Path(divided.path),
        trained=Path(trained.path),
        curves=Path(curves.path),
        evaluation=Path(evaluation.path),
        verdict=Path(verdict.path),
        registered=Path(registered.path),
        page=Path(page.path),
    )
