"""Steps in containers of this machine's Docker engine, held as tightly as a cluster holds its pods."""

import os
from contextlib import closing
from pathlib import Path
from typing import Any

from components.corpora import parse_corpora
from components.datasets import sources
from components.errors import ParameterError
from components.files import glob_parts
from components.records import digest, read_json
from components.sources import cache_folder, local_path, where
from components.tasks import is_folder, parse_tasks
from pipeline.settings import Settings

# Credentials and addresses that steps may read from the environment, never written anywhere; and the number of threads,
# which decides in what order sums are made.
PASSED_ON = (
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_ENDPOINT_URL",
    "HF_ENDPOINT",
    "HF_HUB_OFFLINE",
    "HF_TOKEN",
    "MLFLOW_TRACKING_PASSWORD",
    "MLFLOW_TRACKING_TOKEN",
    "MLFLOW_TRACKING_USERNAME",
    "MODEL_REGISTRY_TOKEN",
    "OMP_NUM_THREADS",
    "PRIVATE_LLM_WEBHOOK_URL",
)


def identify(settings: Settings) -> str:
    """One digest of a profile's images, which must be in the engine: a tag alone can be built anew.

    Raises:
        ParameterError: no engine answers, or it does not have an image.
    """
    import docker

    try:
        with closing(docker.from_env()) as engine:
            return digest(*(engine.images.get(name).id for name in (settings.data_image, settings.train_image)))
    except docker.errors.ImageNotFound as error:
        raise ParameterError(
            f"--runner docker: {error.explanation}; run make images, then give --profile build/images.yaml"
        ) from None
    except docker.errors.DockerException as error:
        reason = str(error).splitlines()[0]
        raise ParameterError(
            f"--runner docker: no Docker engine answers; start it, or set DOCKER_HOST: {reason}"
        ) from None


def docker_runner(settings: Settings, output: Path) -> Any:
    """A kfp DockerRunner: no capabilities, a read-only root, this user, and only the folders that the run names."""
    from kfp import local

    cache = cache_folder().absolute()
    return local.DockerRunner(
        user=f"{os.getuid()}:{os.getgid()}",
        read_only=True,
        tmpfs={"/tmp": "exec,mode=1777"},  # noqa: S108  # the container's own
        cap_drop=["ALL"],
        security_opt=["no-new-privileges"],
        network_mode="host",  # a registry on this machine has the same address inside
        shm_size="1g",
        mounts=_mounts(settings, output.absolute().parent, cache),
        environment={
            "PRIVATE_LLM_CACHE": str(cache),
            "HF_HOME": str(cache / "huggingface"),
            **{name: os.environ[name] for name in PASSED_ON if name in os.environ},
        },
    )


def first_unfinished(artifacts: Path, steps: dict[str, dict[str, Any]]) -> str | None:
    """The first step of the newest run that wrote no outputs, whatever status kfp gave it.

    kfp removes a container as it ends and takes one that is gone before it looked for a success.

    Args:
        artifacts: kfp's pipeline root.
        steps: those that ran, in their order, with whether each was cached.
    """
    newest = max(artifacts.iterdir(), key=lambda folder: folder.stat().st_mtime, default=artifacts)
    ran = (name for name, step in steps.items() if not step["cached"])
    return next((name for name in ran if not (newest / name / "executor_output.json").exists()), None)


def forget_empty(cache: Path) -> None:
    """Removes what the cache holds of such steps: each of ours has outputs, but admit, which is soon done again."""
    for entry in cache.glob("*.json"):
        if read_json(entry) == {}:
            entry.unlink()


def _mounts(settings: Settings, runs: Path, cache: Path) -> list[Any]:
    """Folders under their own names: what the run writes, and read-only what it reads."""
    from docker.types import Mount

    p = settings.parameters
    written = {runs, cache} | {Path(place) for place in (p.checkpoints, p.ingest_cache) if place and "://" not in place}
    if p.registry.startswith("sqlite:///"):
        written.add(Path(p.registry.removeprefix("sqlite:///")).parent)
    for folder in written:
        folder.mkdir(parents=True, exist_ok=True)
    named = (
        *parse_corpora(p.evaluation_corpora).values(),
        *parse_corpora(p.decontaminate, "decontaminate").values(),
        *filter(is_folder, parse_tasks(p.evaluation_tasks)),
    )
    listed = [source.dataset for source in sources(p.dataset)] if where(p.dataset) == "local" else []
    read = {
        local_path(source)
        for source in (p.dataset, *listed, p.base_model, p.template, p.gate_rules, p.drift_rules, *named)
        if source and where(source) == "local"
    }
    read = {path if path.exists() else Path(glob_parts(str(path), os.path.isdir)[0]) for path in read}
    read = {path for path in read if path.exists()}
    return [Mount(str(path), str(path), type="bind", read_only=path in read) for path in sorted(written | read)]
