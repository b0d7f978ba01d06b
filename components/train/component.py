"""train as a KFP component, in two forms: one trains in its own pod, one hands what it is given on to a TrainJob."""

from kfp.dsl import Artifact, Dataset, Input, Metrics, Model, Output, TaskConfig, TaskConfigField, TaskConfigPassthrough

from components.kfp_step import step


def train(
    train: Input[Dataset],
    test: Input[Dataset],
    tokenizer: Input[Artifact],
    base_model: str,
    base_model_digest: str,
    settings: dict,  # type: ignore[type-arg]  # KFP knows the bare dict only
    checkpoints: str,
    launcher: dict,  # type: ignore[type-arg]
    start: dict,  # type: ignore[type-arg]
    task_config: TaskConfig,
    model: Output[Model],
    curves: Output[Artifact],
    tensorboard: Output[Artifact],
    metrics: Output[Metrics],
) -> None:
    """Fine-tune the base model with torchrun and DeepSpeed."""
    from pathlib import Path

    from components.train.config import TrainConfig
    from components.train.launch import launch

    files = {"train": train, "test": test, "tokenizer": tokenizer, "model": model}
    files |= {"curves": curves, "tensorboard": tensorboard, "metrics": metrics}
    config = TrainConfig.from_settings(
        settings,
        base_model=base_model,
        base_model_digest=base_model_digest,
        checkpoints=checkpoints,
        **{name: Path(artifact.path) for name, artifact in files.items()},
    )
    figures, place = launch(config, launcher, vars(task_config), start)
    metrics.metadata.update(figures)
    model.metadata.update(place)


# The launcher needs the volumes and the environment too; the rest is for the pods that train.
BOTH = (TaskConfigField.ENV, TaskConfigField.KUBERNETES_VOLUMES)
PASSED = [TaskConfigPassthrough(field=field, apply_to_task=field in BOTH) for field in TaskConfigField]
TRAIN = {"local": step(train), "trainjob": step(train, task_config_passthroughs=PASSED)}
