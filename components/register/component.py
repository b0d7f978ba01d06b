"""register as a KFP component."""

from kfp.dsl import Artifact, Dataset, Input, Metrics, Model, Output

from components.kfp_step import step


@step
def register(
    model: Input[Model],
    train: Input[Dataset],
    test: Input[Dataset],
    curves: Input[Artifact],
    evaluation: Input[Metrics],
    verdict: Input[Artifact],
    profile: Input[Artifact],
    inputs: dict,  # type: ignore[type-arg]  # KFP knows the bare dict only
    configuration: dict,  # type: ignore[type-arg]
    pinned: dict,  # type: ignore[type-arg]
    license: str,
    registry: str,
    model_name: str,
    registered: Output[Artifact],
) -> None:
    """Register the model as champion, if the gate accepted it."""
    from pathlib import Path
    from typing import Any

    from components.models import model_folder
    from components.register.register import register as run

    files = {"train": train, "test": test, "curves": curves, "evaluation": evaluation, "verdict": verdict}
    files["profile"] = profile
    paths: dict[str, Any] = {name: Path(file.path) for name, file in (files | {"registered": registered}).items()}
    result = run(
        model=model_folder(model.metadata.get("path", model.path)),  # where a TrainJob has left it
        **paths,
        inputs=inputs,
        configuration=configuration,
        license=license,
        registry=registry,
        model_name=model_name,
        **{name: pinned[name] for name in pinned.keys() - {"registry_id", "license"}},
    )
    registered.metadata.update(result)
