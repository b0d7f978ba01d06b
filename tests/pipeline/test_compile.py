"""The compiled pipeline: one text, checked in CI, complete in the KFP UI."""

import os
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.compile import COMMITTED, compile_profile
from pipeline.parameters import Parameters
from pipeline.settings import STEPS


def compile_command(*arguments: str, seed: str = "0") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pipeline.compile", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONHASHSEED": seed},
    )


@pytest.fixture(scope="module")
def compiled() -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load(COMMITTED.read_text(encoding="utf-8"))
    return document


def test_the_committed_yaml_is_what_the_code_compiles_to() -> None:
    """The golden is compared whole; `python -m pipeline.compile` regenerates it."""
    assert compile_profile("default") == COMMITTED.read_text(encoding="utf-8")


@pytest.mark.parametrize("seed", ["1", "2"])
def test_the_text_does_not_depend_on_the_hash_seed(tmp_path: Path, seed: str) -> None:
    finished = compile_command("--output", str(tmp_path / "p.yaml"), seed=seed)
    assert finished.returncode == 0, finished.stderr
    assert (tmp_path / "p.yaml").read_bytes() == COMMITTED.read_bytes()


def test_check_fails_with_a_diff_when_the_file_is_stale(tmp_path: Path) -> None:
    stale = tmp_path / "p.yaml"
    stale.write_text(COMMITTED.read_text().replace("defaultValue: 42.0", "defaultValue: 43.0"))
    finished = compile_command("--check", "--output", str(stale))
    assert finished.returncode == 1
    assert "-      defaultValue: 43.0" in finished.stdout or "-        defaultValue: 43.0" in finished.stdout
    assert "is stale; run python -m pipeline.compile" in finished.stderr
    assert "43.0" in stale.read_text(), "--check writes nothing"


def test_check_passes_on_the_committed_file_and_fails_on_a_missing_one(tmp_path: Path) -> None:
    assert compile_command("--check").returncode == 0
    assert compile_command("--check", "--output", str(tmp_path / "none.yaml")).returncode == 1


def test_an_unknown_profile_is_one_line_and_exit_2() -> None:
    finished = compile_command("--profile", "prod")
    assert finished.returncode == 2
    assert finished.stderr.count("\n") == 1


def test_the_ui_shows_every_parameter_with_description_and_default(compiled: dict[str, Any]) -> None:
    shown = compiled["root"]["inputDefinitions"]["parameters"]
    assert set(shown) == {entry.name for entry in fields(Parameters)}
    for entry in fields(Parameters):
        assert shown[entry.name]["description"] == entry.metadata["description"]
        assert shown[entry.name].get("defaultValue") == entry.default
        assert shown[entry.name]["isOptional"]


def test_every_step_runs_in_a_pinned_image_and_installs_nothing(compiled: dict[str, Any]) -> None:
    executors = compiled["deploymentSpec"]["executors"]
    assert set(executors) == {f"exec-{step}" for step in STEPS}
    for executor in executors.values():
        assert executor["container"]["image"].endswith(":0.1.0")
        assert "pip install" not in str(executor["container"])


def test_only_resolve_is_never_cached(compiled: dict[str, Any]) -> None:
    tasks = compiled["root"]["dag"]["tasks"]
    assert {name for name, task in tasks.items() if not task["cachingOptions"].get("enableCache")} == {"resolve"}


def test_every_cached_step_takes_digests_not_names(compiled: dict[str, Any]) -> None:
    """What a step reads from outside comes from resolve, together with its digest."""
    tasks = compiled["root"]["dag"]["tasks"]
    for step in ("ingest", "tokenize", "train", "evaluate"):
        parameters = tasks[step]["inputs"]["parameters"]
        name = "dataset" if step == "ingest" else "base_model"
        for pinned in (name, f"{name}_digest"):
            assert parameters[pinned]["taskOutputParameter"]["producerTask"] == "resolve", (step, pinned)
