"""The compiled pipeline: one text, checked in CI, complete in the KFP UI."""

import os
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.compile import COMMITTED, compile_profile, main
from pipeline.parameters import Parameters
from pipeline.settings import STEPS
from tests.manifests.rendering import problems


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
    document: dict[str, Any] = next(yaml.safe_load_all(COMMITTED.read_text(encoding="utf-8")))
    return document


@pytest.fixture(scope="module")
def placed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a profile with everything in it asks of Kubernetes, by step."""
    path = tmp_path_factory.mktemp("profile") / "full.yaml"
    path.write_text(
        """
        data_image: a:1
        train_image: b:1
        scheduling:
          evaluate:
            node_selector: {pool: a100}
            tolerations: [{key: spot, operator: Equal, value: "true", effect: NoSchedule}, {key: nvidia.com/gpu}]
        timeouts: {evaluate: 3600}
        secrets: [{name: hub, keys: {token: HF_TOKEN}, steps: [resolve], optional: true}]
        image_pull_secrets: [harbor]
        ttl: 60
        """
    )
    _, platform = yaml.safe_load_all(compile_profile(str(path)))
    kubernetes: dict[str, Any] = platform["platforms"]["kubernetes"]
    return kubernetes


def tasks_of(compiled: dict[str, Any], component: str) -> dict[str, Any]:
    """The tasks of a condition or an exit handler."""
    tasks: dict[str, Any] = compiled["components"][component]["dag"]["tasks"]
    return tasks


def steps_of(compiled: dict[str, Any]) -> dict[str, Any]:
    """Every step's task, wherever it stands; conditions and exit handlers are no steps."""
    groups = [compiled["root"], *compiled["components"].values()]
    tasks = [task for group in groups if "dag" in group for task in group["dag"]["tasks"].items()]
    return {name: task for name, task in tasks if name in STEPS}


def test_the_committed_yaml_is_what_the_code_compiles_to() -> None:
    """The golden is compared whole; `python -m pipeline.compile` regenerates it."""
    assert compile_profile("default") == COMMITTED.read_text(encoding="utf-8")


def test_the_kubernetes_objects_hold_the_same_pipeline_whole() -> None:
    pipeline, version = yaml.safe_load_all(compile_profile("default", "kubernetes"))
    spec, platform = yaml.safe_load_all(COMMITTED.read_text(encoding="utf-8"))
    assert re.fullmatch(r"private-llm-[0-9.]+-[0-9a-f]{8}", version["metadata"]["name"])
    assert (pipeline["kind"], pipeline["metadata"]["name"]) == ("Pipeline", "private-llm")
    assert version["spec"]["pipelineSpec"] == spec
    assert version["spec"]["platformSpec"] == platform
    assert version["spec"]["pipelineName"] == "private-llm"
    for resource, found in (("pipelines", pipeline), ("pipelineversions", version)):
        assert problems(f"pipelines.kubeflow.org_{resource}", found) == []


def test_a_changed_pipeline_is_another_version(tmp_path: Path) -> None:
    """KFP refuses to change the content of a version that it has."""
    other = tmp_path / "other.yaml"
    other.write_text("extends: default\nretries: 3\n")
    names = [
        list(yaml.safe_load_all(compile_profile(profile, "kubernetes")))[1]["metadata"]["name"]
        for profile in ("default", "default", str(other))
    ]
    assert names[0] == names[1] != names[2]


def test_check_works_for_kubernetes_objects_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "k.yaml"
    arguments = ["--format", "kubernetes", "--output", str(path)]
    assert main(arguments) == main([*arguments, "--check"]) == 0
    path.write_text(path.read_text(encoding="utf-8").replace("maxRetryCount: 2", "maxRetryCount: 9"), encoding="utf-8")
    assert main([*arguments, "--check"]) == 1
    assert "maxRetryCount: 9" in capsys.readouterr().out


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


def test_check_tells_other_line_ends(tmp_path: Path) -> None:
    copied = tmp_path / "copied.yaml"
    copied.write_bytes(COMMITTED.read_bytes().replace(b"\n", b"\r\n"))
    assert main(["--check", "--output", str(copied)]) == 1


@pytest.mark.parametrize("place", ["", "file/below.yaml"])
def test_a_place_that_cannot_be_written_is_one_line_and_exit_2(
    place: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    assert main(["--output", str(tmp_path / place)]) == 2
    assert re.fullmatch(r"compile: --output \S+ cannot be written: [\w ]+\n", capsys.readouterr().err)


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


def test_only_what_looks_around_is_never_cached(compiled: dict[str, Any]) -> None:
    """resolve finds out whether anything is new; notify tells of this one run."""
    steps = steps_of(compiled)
    uncached = {name for name, task in steps.items() if not task["cachingOptions"].get("enableCache")}
    assert uncached == {"resolve", "notify"}


def test_nothing_but_resolve_runs_where_nothing_is_new(compiled: dict[str, Any]) -> None:
    """And what tells how the run ended stands outside of everything that may fail."""
    root, handled = compiled["root"]["dag"]["tasks"], tasks_of(compiled, "comp-exit-handler-1")
    assert set(root) == {"exit-handler-1", "notify"}
    assert root["notify"]["triggerPolicy"]["strategy"] == "ALL_UPSTREAM_TASKS_COMPLETED"
    assert set(handled) == {"resolve", "condition-2"}
    asked = handled["condition-2"]["triggerPolicy"]["condition"]
    assert asked == "inputs.parameter_values['pipelinechannel--resolve-Output'] == 'run'"
    assert set(STEPS) - {"resolve", "enforce", "notify"} <= set(tasks_of(compiled, "comp-condition-2"))


def test_nothing_is_trained_before_the_new_data_is_admitted(compiled: dict[str, Any]) -> None:
    assert "admit" in steps_of(compiled)["train"]["dependentTasks"]


def test_every_cached_step_takes_digests_not_names(compiled: dict[str, Any]) -> None:
    """What a step reads from outside comes from resolve, together with its digest."""
    tasks = steps_of(compiled)
    for step in ("ingest", "tokenize", "train", "evaluate"):
        parameters = tasks[step]["inputs"]["parameters"]
        name = "dataset" if step == "ingest" else "base_model"
        for pinned in (name, f"{name}_digest"):
            assert parameters[pinned]["componentInputParameter"] == f"pipelinechannel--resolve-{pinned}", (step, pinned)


def test_every_pod_is_ready_for_podsecurity_restricted_and_says_which_step_it_is(placed: dict[str, Any]) -> None:
    executors = placed["deploymentSpec"]["executors"]
    assert set(executors) == {f"exec-{step}" for step in STEPS}
    for step in STEPS:
        assert executors[f"exec-{step}"]["securityContext"] == {"runAsNonRoot": True}
        assert executors[f"exec-{step}"]["podMetadata"]["labels"] == {"private-llm/step": step}


def test_a_step_gets_its_own_nodes_and_deadline(placed: dict[str, Any]) -> None:
    evaluate = placed["deploymentSpec"]["executors"]["exec-evaluate"]
    assert evaluate["nodeSelector"] == {"labels": {"pool": "a100"}}
    assert evaluate["tolerations"] == [
        {"key": "spot", "operator": "Equal", "value": "true", "effect": "NoSchedule"},
        {"key": "nvidia.com/gpu", "operator": "Exists"},
    ]
    assert evaluate["activeDeadlineSeconds"] == "3600"
    assert "nodeSelector" not in placed["deploymentSpec"]["executors"]["exec-gate"]


def test_secrets_are_named_never_held_and_seen_by_their_steps_alone(placed: dict[str, Any]) -> None:
    executors = placed["deploymentSpec"]["executors"]
    (token,) = executors["exec-resolve"]["secretAsEnv"]
    assert (token["secretName"], token["keyToEnv"], token["optional"]) == (
        "hub",
        [{"secretKey": "token", "envVar": "HF_TOKEN"}],
        True,
    )
    assert [step for step in STEPS if "secretAsEnv" in executors[f"exec-{step}"]] == ["resolve"]
    assert all(executor["imagePullSecret"][0]["secretName"] == "harbor" for executor in executors.values())


def test_what_a_run_leaves_is_removed_after_its_time(placed: dict[str, Any]) -> None:
    assert placed["pipelineConfig"] == {"resourceTtlOnCompletion": 60}


def test_failed_steps_are_tried_again_with_growing_pauses_however_long_they_took(compiled: dict[str, Any]) -> None:
    for task in steps_of(compiled).values():
        assert task["retryPolicy"] == {
            "maxRetryCount": 2,
            "backoffDuration": "60s",
            "backoffFactor": 2.0,
            "backoffMaxDuration": "2592000s",
        }


def test_the_committed_yaml_names_no_latest_image_and_holds_no_secret() -> None:
    text = COMMITTED.read_text(encoding="utf-8")
    assert ":latest" not in text
    assert not re.search(r"(?i)(password|passwd|secret|token|api_?key)\s*[:=]\s*\S", text)
