"""A training's input and output in an object store, for clusters without a volume that pods can share.

The store holds, under its URI: cache (base models), runs/NAME (one job's input and output) and checkpoints (by the
digest of what decides the weights). Each folder's marker is written last; what has none is not there. Each node of the
job downloads what it needs to a disk of its own; node.py tells how.
"""

import json
import time
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from components.errors import ClusterError
from components.models import MODEL_FILES, files_read
from components.sources import Pinned, fetch, where
from components.store import MARKER, Store
from components.train.checks import check_inputs
from components.train.config import TrainConfig


class Bucket:
    """Where a job's pods, and the steps around it, read and write.

    Args:
        uri: of the store, such as s3://bucket/private-llm.
        job: the TrainJob's name.
        path: where each training pod has a disk of its own.
        scratch: that disk's size.
    """

    def __init__(self, uri: str, job: str, path: Path, scratch: str) -> None:
        self.uri, self.path, self.scratch, self.job = uri.rstrip("/"), path, scratch, job
        self.store = Store(f"{self.uri}/runs/{job}")
        self.model = f"{self.store.uri}/model"
        self.command = ("python", "-m", "components.train.node", f"--store={self.store.uri}", f"--folder={path}")
        self.env = {"PRIVATE_LLM_CACHE": f"{path}/cache", "HF_HOME": f"{path}/cache/huggingface"}
        self.requests = {"ephemeral-storage": scratch}

    def stage(self, config: TrainConfig) -> TrainConfig:
        """Uploads the rows, the tokenizer and the base model, each once.

        Returns:
            The training with its paths on a node's disk.

        Raises:
            StorageError: the store cannot be written to.
            ModelError: the base model cannot be fetched.
        """
        if self.store.read(f"input/{MARKER}") is None:
            self.store.put_file(config.train, "input/train.parquet")
            self.store.put_file(config.test, "input/test.parquet")
            self.store.at("input/tokenizer").put(config.tokenizer)
            self.store.write(f"input/{MARKER}", b"{}")
        kept = config.checkpoint_store or f"{self.uri}/checkpoints"
        return on_disk(replace(config, base_model=self._base_model(config), checkpoint_store=kept), self.path)

    def tell(self, configuration: str) -> None:
        """Writes what the job's command reads."""
        self.store.write("config.json", configuration.encode())

    def volumes(self, given: Mapping[str, Any]) -> Mapping[str, Any]:
        """What was set on the step, with each pod's own disk besides."""
        disk = {"name": "training", "emptyDir": {"sizeLimit": self.scratch}}
        mount = {"name": "training", "mountPath": str(self.path)}
        return {
            **given,
            "volumes": [*(given.get("volumes") or []), disk],
            "volume_mounts": [*(given.get("volume_mounts") or []), mount],
        }

    def collect(self, config: TrainConfig) -> None:
        """Takes the small files that a finished job left, and removes its input. The model stays where it is.

        Raises:
            ClusterError: the job left nothing.
        """
        if self.store.read(MARKER) is None:
            raise ClusterError(f"the TrainJob is complete and left nothing complete at {self.store.uri}")
        for name, target in (("curves.json", config.curves), ("metrics.json", config.metrics)):
            target.write_bytes(self.store.read(name) or b"")
        if config.tensorboard:
            self.store.at("tensorboard").get(config.tensorboard)
        self.store.remove("input")

    def remove_old(self, days: int, busy: Collection[str] = ()) -> None:
        """Removes runs and checkpoints that nothing has been written to for that many days, and says what.

        Args:
            busy: jobs that queue or run, and their trainings' digests; what is theirs stays.
        """
        oldest = time.time() - 86400 * days
        for kind in ("runs", "checkpoints"):
            kept = Store(f"{self.uri}/{kind}")
            for name, written in kept.last_written().items():
                if name != self.job and name not in busy and written < oldest:
                    kept.remove(name)
                    print(f"train: removed {kept.uri}/{name}, which is older than {days} days", flush=True)

    def _base_model(self, config: TrainConfig) -> str:
        """From where nodes take the base model: its own URI, or a copy that is made here once for all runs."""
        if where(config.base_model) == "remote":
            return config.base_model
        copy = Store(f"{self.uri}/cache/{config.base_model_digest.replace(':', '-')}")
        if copy.read(MARKER) is None:
            base = fetch(Pinned(uri=config.base_model, digest=config.base_model_digest), "model", MODEL_FILES)
            check_inputs(config, base)
            names = files_read(base)
            print(f"train: copying {config.base_model} to {copy.uri}, once", flush=True)
            copy.put(base, names)
            copy.write(MARKER, json.dumps(names).encode())
        return copy.uri


def on_disk(config: TrainConfig, folder: Path) -> TrainConfig:
    """A training whose input, output and checkpoints under way lie on a node's own disk."""
    inputs, output = folder / "input", folder / "output"
    return replace(
        config,
        train=inputs / "train.parquet",
        test=inputs / "test.parquet",
        tokenizer=inputs / "tokenizer",
        model=output / "model",
        curves=output / "curves.json",
        metrics=output / "metrics.json",
        tensorboard=output / "tensorboard",
        checkpoints=folder / "checkpoints",
    )
