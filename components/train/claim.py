"""A training's input and output on a claim that the pods share.

The claim holds, under where it is mounted: cache (base models), runs/NAME (one job's input and output) and
checkpoints (by the digest of what decides the weights, so that a repeated run finds them).
"""

import shutil
import time
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from components.errors import ClusterError, ModelError
from components.models import MODEL_FILES
from components.sources import Pinned, fetch
from components.train.checks import check_inputs
from components.train.config import TrainConfig


class Claim:
    """Where a job's pods, and the steps around it, read and write.

    Args:
        path: where the claim is mounted.
        job: the TrainJob's name.
    """

    env: Mapping[str, str] = {}
    requests: Mapping[str, str] = {}

    def __init__(self, path: Path, job: str) -> None:
        if not path.is_dir():
            raise ClusterError(f"{path} is not there: the step must mount the claim of the profile's storage")
        self.path, self.folder = path, path / "runs" / job
        self.model = str(self.folder / "model")
        self.command = ("python", "-m", "components.train", "--config", str(self.folder / "config.json"))

    def stage(self, config: TrainConfig) -> TrainConfig:
        """Copies the rows and the tokenizer to the claim and fetches the base model there, each once.

        Returns:
            The training with its paths on the claim.

        Raises:
            ModelError: the base model is not where the pods can read it.
        """
        base = fetch(Pinned(uri=config.base_model, digest=config.base_model_digest), "model", MODEL_FILES)
        if not base.is_relative_to(self.path):
            raise ModelError(
                f"base_model: {base} is not on the claim at {self.path}; give a hub id, a URI, or a folder there"
            )
        check_inputs(config, base)
        inputs, partial = self.folder / "input", self.folder / "input.partial"
        if not inputs.exists():
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
            shutil.copyfile(config.train, partial / "train.parquet")
            shutil.copyfile(config.test, partial / "test.parquet")
            shutil.copytree(config.tokenizer, partial / "tokenizer", copy_function=shutil.copyfile)
            partial.rename(inputs)
        return replace(
            config,
            train=inputs / "train.parquet",
            test=inputs / "test.parquet",
            tokenizer=inputs / "tokenizer",
            base_model=str(base),
            model=self.folder / "model",
            curves=self.folder / "curves.json",
            metrics=self.folder / "metrics.json",
            tensorboard=self.folder / "tensorboard",
            checkpoints=config.checkpoints or self.path / "checkpoints",
        )

    def tell(self, configuration: str) -> None:
        """Writes what the job's command reads."""
        partial = self.folder / "config.partial"
        partial.write_text(configuration, encoding="utf-8")
        partial.rename(self.folder / "config.json")

    def volumes(self, given: Mapping[str, Any]) -> Mapping[str, Any]:
        """What was set on the step, with the volumes that the pods need besides: none, the step mounts the claim."""
        return given

    def collect(self, config: TrainConfig) -> None:
        """Copies the small files that a finished job left, and removes its input. The model stays where it is.

        Raises:
            ClusterError: the job left nothing.
        """
        for name in ("metrics.json", "curves.json", "model"):
            if not (self.folder / name).exists():
                raise ClusterError(
                    f"the TrainJob is complete and left no {self.folder / name}; do its pods share the claim?"
                )
        shutil.copyfile(self.folder / "curves.json", config.curves)
        shutil.copyfile(self.folder / "metrics.json", config.metrics)
        curves = self.folder / "tensorboard"
        if config.tensorboard and curves.exists():
            shutil.copytree(curves, config.tensorboard, copy_function=shutil.copyfile, dirs_exist_ok=True)
        shutil.rmtree(self.folder / "input", ignore_errors=True)

    def remove_old(self, days: int, busy: Collection[str] = ()) -> None:
        """Removes runs and checkpoints that nothing has been written to for that many days, and says what.

        Args:
            busy: jobs that queue or run, and their trainings' digests; what is theirs stays.
        """
        oldest = time.time() - 86400 * days
        for entry in sorted([*(self.path / "runs").glob("*"), *(self.path / "checkpoints").glob("*")]):
            if entry != self.folder and entry.name not in busy and _last_written(entry) < oldest:
                shutil.rmtree(entry, ignore_errors=True)
                print(f"train: removed {entry}, which is older than {days} days", flush=True)


def _last_written(folder: Path) -> float:
    """When something was last written to a folder; 0 for what another launcher has removed meanwhile."""
    try:
        inside = list(folder.rglob("*"))
    except FileNotFoundError:
        inside = []
    return max(_written(path) for path in (folder, *inside))


def _written(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0
