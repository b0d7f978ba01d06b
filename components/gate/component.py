"""gate as a KFP component."""

from kfp.dsl import Artifact, Input, Metrics, Output

from components.kfp_step import step


@step
def gate(
    evaluation: Input[Metrics],
    min_improvement: float,
    max_regression: float,
    verdict: Output[Artifact],
) -> None:
    """Decide whether the tuned model is better than the base model and the champion."""
    from pathlib import Path

    from components.gate.gate import gate as run

    decision = run(
        evaluation=Path(evaluation.path),
        min_improvement=min_improvement,
        max_regression=max_regression,
        verdict=Path(verdict.path),
    )
    verdict.metadata.update(verdict=decision["verdict"], reasons=decision["reasons"])
