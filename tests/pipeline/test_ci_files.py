"""The files of docs/ci: their syntax, what they refer to, and that they hold no secret."""

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.schedule import main as schedule
from pipeline.submit import main as submit
from tests.ci_files import CI, FILES, scripts

SCHEMAS = {"github-actions.yml": "vendor.github-workflows", "gitlab-ci.yml": "vendor.gitlab-ci"}
PROMISED = (
    "make check",
    "make test",
    "pipeline.compile --check",
    "make images",
    "pipeline.submit upload",
    "pipeline.submit run",
    "--wait",
    "pipeline.schedule apply",
)


def tekton() -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((CI / "tekton.yaml").read_text()))


@pytest.mark.parametrize(("name", "schema"), SCHEMAS.items())
def test_a_file_is_what_its_schema_says(name: str, schema: str) -> None:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", schema, str(CI / name)]
    checked = subprocess.run(command, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_the_schema_finds_a_mistake(tmp_path: Path) -> None:
    broken = tmp_path / "github-actions.yml"
    broken.write_text((CI / "github-actions.yml").read_text().replace("runs-on:", "run-on:"))
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.github-workflows", str(broken)]
    assert subprocess.run(command, capture_output=True, check=False).returncode == 1


@pytest.mark.skipif(
    not shutil.which("actionlint"), reason="actionlint is not on the PATH; its package fetches a binary"
)
def test_actionlint_finds_nothing() -> None:
    linted = subprocess.run(["actionlint", str(CI / "github-actions.yml")], capture_output=True, text=True, check=False)
    assert linted.returncode == 0, linted.stdout


@pytest.mark.parametrize("name", FILES)
def test_the_shell_in_a_file_parses(name: str) -> None:
    assert scripts(name)
    for script in scripts(name):
        parsed = subprocess.run(["bash", "-n"], input=script, capture_output=True, text=True, check=False)
        assert parsed.returncode == 0, f"{parsed.stderr}\n{script}"


@pytest.mark.parametrize("name", FILES)
def test_a_file_does_all_that_is_promised(name: str) -> None:
    text = "\n".join(scripts(name))
    assert [words for words in PROMISED if words not in text] == []


@pytest.mark.parametrize("name", FILES)
def test_images_and_actions_have_versions(name: str) -> None:
    text = (CI / name).read_text()
    named = re.findall(r"^\s*(?:- )?(?:image|uses): (\S+)$", text, re.MULTILINE)
    assert named
    for image in named:
        assert re.search(r"[:@]v?\d", image), image


@pytest.mark.parametrize("name", sorted(path.name for path in CI.iterdir()))
def test_no_file_holds_a_secret(name: str) -> None:
    for line in (CI / name).read_text().splitlines():
        match = re.search(r"(?i)(token|password|secret|cookie)\w*:\s*(\S.*)$", line)
        assert not match or match[2].startswith(("${{ secrets.", "$")), line


def test_tekton_tasks_are_there_with_their_parameters_and_workspaces() -> None:
    documents = tekton()
    assert {document["apiVersion"] for document in documents} == {"tekton.dev/v1"}
    tasks = {task["metadata"]["name"]: task["spec"] for task in documents if task["kind"] == "Task"}
    (pipeline,) = (document["spec"] for document in documents if document["kind"] == "Pipeline")
    names = [task["name"] for task in pipeline["tasks"]]
    for task in pipeline["tasks"]:
        assert set(task.get("runAfter", [])) <= set(names[: names.index(task["name"])])
        if "name" not in task["taskRef"]:
            continue
        spec = tasks[task["taskRef"]["name"]]
        given = {param["name"] for param in task.get("params", [])}
        declared = {param["name"]: "default" in param for param in spec.get("params", [])}
        assert given <= set(declared)
        assert [name for name, optional in declared.items() if not optional and name not in given] == []
        assert {one["name"] for one in task["workspaces"]} == {one["name"] for one in spec["workspaces"]}


@pytest.mark.parametrize("kind", ["Task", "Pipeline"])
def test_tekton_uses_only_parameters_that_are_declared(kind: str) -> None:
    for document in tekton():
        if document["kind"] == kind:
            used = set(re.findall(r"\$\(params\.([\w-]+)\)", str(document["spec"])))
            assert used == {param["name"] for param in document["spec"].get("params", [])}


def test_the_examples_are_taken(capsys: pytest.CaptureFixture[str]) -> None:
    assert schedule(["check", str(CI / "schedules.yaml")]) == 0
    assert submit(["--dry-run", "--params", str(CI / "smoke.yaml")]) == 0
    assert "SmolLM2" in capsys.readouterr().out
