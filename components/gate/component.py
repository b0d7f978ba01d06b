"""gate as a KFP component."""

from kfp.dsl import HTML, Artifact, Input, Markdown, Metrics, Output

from components.kfp_step import step


@step
def gate(
    evaluation: Input[Metrics],
    rules: str,
    rules_digest: str,
    min_improvement: float,
    max_regression: float,
    verdict: Output[Artifact],
    panel: Output[Markdown],
) -> None:
    """Decide by rules whether the tuned model is better than the base model and not behind the champion."""
    from pathlib import Path

    from components.gate.gate import gate as run

    decision = run(
        evaluation=Path(evaluation.path),
        rules=rules,
        rules_digest=rules_digest,
        min_improvement=min_improvement,
        max_regression=max_regression,
        verdict=Path(verdict.path),
        panel=Path(panel.path),
    )
    verdict.metadata.update(verdict=decision["verdict"], reasons=decision["reasons"])


@step
def enforce(verdict: Input[Artifact], page: Input[HTML]) -> None:  # noqa: ARG001  # the report is written first
    """Fail the run of a rejected model, because the user asked for that."""
    from pathlib import Path

    from components.gate.gate import enforce as run

    run(Path(verdict.path))
