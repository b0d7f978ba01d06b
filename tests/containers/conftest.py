"""What the container tests share: the Docker engine that DOCKER_HOST names, and this commit's images in it."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import docker
import pytest
import yaml

from tests.conftest import ROOT

# As pods run under PodSecurity's restricted level, with a read-only root.
RESTRICTED: dict[str, Any] = {
    "cap_drop": ["ALL"],
    "read_only": True,
    "security_opt": ["no-new-privileges"],
    "tmpfs": {"/tmp": "exec,mode=1777"},
}
BUILT = ("data", "train-cpu")


def build(*images: str, **environment: str) -> str:
    """Builds images with docker/build.sh; what it printed on stdout."""
    command = [str(ROOT / "docker" / "build.sh"), *images]
    environment = {**os.environ, "PYTHON": sys.executable, **environment}
    finished = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return finished.stdout


@pytest.fixture(scope="session")
def engine() -> Iterator[Any]:
    """The Docker engine."""
    try:
        client = docker.from_env(timeout=600)
    except docker.errors.DockerException as error:
        pytest.skip(f"no Docker engine answers: {error}")
    with closing(client):
        yield client


@pytest.fixture(scope="session")
def profile(engine: Any) -> Path:
    """The profile that names this commit's images, which are built here unless PROFILE names others."""
    if given := os.environ.get("PROFILE"):
        return Path(given)
    build(*BUILT)
    return ROOT / "build" / "images.yaml"


@pytest.fixture(scope="session")
def images(profile: Path) -> dict[str, str]:
    """The images' names, by data and train."""
    content = yaml.safe_load(profile.read_text(encoding="utf-8"))
    return {image: content[f"{image}_image"] for image in ("data", "train")}


@pytest.fixture
def run_in(engine: Any, images: dict[str, str]) -> Callable[..., str]:
    """Runs a command in a restricted container of an image without a network; what it printed."""

    def run(image: str, *command: str, **options: Any) -> str:
        output: bytes = engine.containers.run(
            images[image], list(command), remove=True, stderr=True, network_mode="none", **{**RESTRICTED, **options}
        )
        return output.decode()

    return run
