"""What the images hold and how they behave where a cluster puts them."""

import hashlib
import json
import re
import subprocess
import tarfile
import tempfile
from collections.abc import Callable
from typing import Any

import docker
import pytest

from components import __version__
from tests.conftest import ROOT
from tests.containers.conftest import BUILT, build

pytestmark = pytest.mark.containers

RunIn = Callable[..., str]
LIMITS = {"data": 600e6, "train": 1.6e9}  # bytes, uncompressed
DATA_STEPS = ("resolve", "ingest", "tokenize", "split", "gate", "register", "report", "notify")
COMPILERS = ("cc", "gcc", "c++", "g++", "clang", "ld", "as", "nvcc", "make", "ninja")


@pytest.mark.parametrize("image", LIMITS)
def test_an_image_stays_below_its_limit(engine: Any, images: dict[str, str], image: str) -> None:
    size = engine.images.get(images[image]).attrs["Size"]
    print(f"{images[image]}: {size / 1e6:.0f} MB")
    assert size <= LIMITS[image]


@pytest.mark.parametrize("image", LIMITS)
def test_an_image_says_what_it_is_and_runs_as_nobody_in_particular(
    engine: Any, images: dict[str, str], image: str
) -> None:
    configuration = engine.images.get(images[image]).attrs["Config"]
    labels = {name.removeprefix("org.opencontainers.image."): value for name, value in configuration["Labels"].items()}
    revision = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert labels["revision"] == revision.stdout.strip()
    assert re.fullmatch(rf"{re.escape(__version__)}-[0-9a-f]{{7}}(-dirty)?", labels["version"])
    assert labels["version"] in images[image]
    assert labels["licenses"] == "Apache-2.0"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", labels["created"])
    assert re.fullmatch(r"\d+:\d+", configuration["User"])  # a number, which runAsNonRoot can check
    assert not configuration["User"].startswith("0")
    assert configuration.get("Healthcheck") is None
    assert configuration.get("Entrypoint") is None  # KFP starts a shell


def test_the_data_image_has_no_torch_and_no_compiler(run_in: RunIn) -> None:
    found = run_in("data", "sh", "-c", f"for tool in {' '.join(COMPILERS)}; do command -v $tool; done; id -u; id -g")
    assert found.split() == ["10001", "10001"]
    with pytest.raises(docker.errors.ContainerError, match=r"No module named \S*torch"):
        run_in("data", "python3", "-c", "import torch")


def test_every_data_step_starts_on_a_read_only_root_under_any_user(run_in: RunIn) -> None:
    commands = "; ".join(f"python3 -m components.{step} --help >/dev/null" for step in DATA_STEPS)
    assert run_in("data", "sh", "-ec", commands, user="4711:0") == ""


def test_the_train_image_needs_no_compiler(run_in: RunIn) -> None:
    """It has none, so DeepSpeed could not compile an operator; the pipeline's run shows that it asks for none."""
    script = (
        f"import shutil; assert not [tool for tool in {COMPILERS[:-1]} if shutil.which(tool)]\n"
        "import deepspeed; from deepspeed.accelerator import get_accelerator; print(get_accelerator()._name)"
    )
    assert run_in("train", "python3", "-c", script, user="4711:0").splitlines()[-1] == "cpu"


@pytest.mark.parametrize("image", BUILT)
def test_the_sbom_lists_what_the_lock_pins(images: dict[str, str], image: str) -> None:
    bom = json.loads((ROOT / "build" / "sbom" / image / "sbom.cdx.json").read_text(encoding="utf-8"))
    assert bom["bomFormat"] == "CycloneDX"
    assert bom["metadata"]["component"]["name"] == "private-llm-pipeline"
    listed = {(_name(part["name"]), part["version"]) for part in bom["components"]}
    locks = [image, "deepspeed"] if image.startswith("train") else [image]
    pinned = "".join((ROOT / "docker" / f"{lock}.lock").read_text(encoding="utf-8") for lock in locks)
    assert listed == {
        (_name(name), version) for name, version in re.findall(r"^([\w.-]+)==(\S+)", pinned, re.MULTILINE)
    }


def test_two_builds_of_a_commit_hold_the_same_files(engine: Any, images: dict[str, str]) -> None:
    again = build("data", REPOSITORY="again", NO_CACHE="1").split()[0]
    assert listing(engine, again) == listing(engine, images["data"])


def listing(engine: Any, image: str) -> dict[str, tuple[Any, ...]]:
    """For each file of an image its kind, mode, owner, content's digest, and below /opt its time."""
    container = engine.containers.create(image, "true")
    files = {}
    try:
        with tempfile.TemporaryFile() as spool:
            for chunk in container.export():
                spool.write(chunk)
            spool.seek(0)
            with tarfile.open(fileobj=spool) as archive:
                for entry in archive:
                    content = archive.extractfile(entry) if entry.isfile() else None
                    digest = hashlib.sha256(content.read()).hexdigest() if content else entry.linkname
                    time = entry.mtime if entry.name.startswith("opt/") else None
                    files[entry.name] = (entry.type, entry.mode, entry.uid, entry.gid, digest, time)
    finally:
        container.remove()
    assert sum(name.startswith("opt/private-llm/components/") for name in files) > 30
    return files


def _name(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
