"""Which launcher trains: this process and torchrun, or the pods of a TrainJob."""

from collections.abc import Mapping
from typing import Any

from components.errors import ParameterError
from components.train.config import TrainConfig
from components.train.start import starting_with
from components.train.train import train


def launch(
    config: TrainConfig,
    launcher: Mapping[str, Any],
    task_config: Mapping[str, Any],
    start: Mapping[str, str] | None = None,
) -> tuple[dict[str, float], dict[str, str]]:
    """Trains, here or in a TrainJob.

    Args:
        launcher: what the profile says of TrainJobs; empty: train here.
        task_config: what was set on the KFP step for the pods that train.
        start: the registered version whose weights it begins with, as resolve pinned it; empty: the base model's.

    Returns:
        The figures of the training, and where the model lies when that is not config.model: {"path": …}.

    Raises:
        ParameterError: several nodes without a TrainJob.
        ModelError: the version has other tokens than this run.
    """
    if start:
        config = starting_with(config, start)
    if not launcher:
        if config.num_nodes > 1:
            raise ParameterError(f"num_nodes={config.num_nodes} needs a profile with launcher: trainjob")
        return train(config), {}
    from components.train.remote import train_remotely

    return train_remotely(config, launcher, task_config)
