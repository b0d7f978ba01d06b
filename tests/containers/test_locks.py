"""What the images are pinned to: the versions that are tested here, with a hash for each file."""

import re
import subprocess
import tomllib

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from tests.conftest import ROOT

LOCKS = {
    "data": ("s3", "gcs", "azure", "signing"),
    "train-cpu": ("s3", "gcs", "azure", "train"),
    "train-cuda": ("train",),
}
FIX = "run make locks"


def pins(text: str) -> dict[str, Version]:
    """Versions by name, of a lock or of constraints.txt."""
    found = re.findall(r"^([\w.-]+)==([^\s;]+)", text, re.MULTILINE)
    return {canonicalize_name(name): Version(version) for name, version in found}


def lock(name: str) -> dict[str, Version]:
    return pins((ROOT / "docker" / f"{name}.lock").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_holds_what_the_package_asks_for(name: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = [line for extra in LOCKS[name] for line in project["optional-dependencies"][extra]]
    locked = lock(name) | lock("deepspeed")
    for requirement in map(Requirement, project["dependencies"] + extras):
        version = locked.get(canonicalize_name(requirement.name))
        assert version in requirement.specifier if version else False, f"{requirement} in {name}.lock; {FIX}"


@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_pins_what_is_tested(name: str) -> None:
    tested = pins((ROOT / "constraints.txt").read_text(encoding="utf-8"))
    for package, version in lock(name).items():
        assert version.public == tested.get(package, version).public, f"{package} in {name}.lock; {FIX}"


def test_the_data_image_is_pinned_to_no_torch() -> None:
    assert not {"torch", "deepspeed", "accelerate", "peft", "scipy"} & lock("data").keys()


@pytest.mark.parametrize("name", ["build", "build-cuda", "deepspeed", *LOCKS])
def test_a_lock_has_hashes_and_names_no_registry(name: str) -> None:
    text = (ROOT / "docker" / f"{name}.lock").read_text(encoding="utf-8")
    assert all("--hash=sha256:" in entry for entry in re.split(r"^(?=\w)", text, flags=re.MULTILINE)[1:])
    assert "://" not in text
    assert "index-url" not in text


def test_an_unknown_image_is_one_line_and_exit_2() -> None:
    finished = subprocess.run([ROOT / "docker" / "build.sh", "tain"], capture_output=True, text=True, check=False)
    assert (finished.returncode, finished.stderr) == (
        2,
        "build: image 'tain' is unknown; allowed: data, train-cpu, train-cuda\n",
    )
