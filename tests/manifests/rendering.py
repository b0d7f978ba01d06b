"""Renders manifests with kubectl and checks them against the shared custom resource definitions."""

import json
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

ROOT = Path(__file__).parents[2]
MANIFESTS = ROOT / "manifests"
OVERLAYS = sorted(path.name for path in (MANIFESTS / "overlays").iterdir())
FOLDERS = ["base", *(f"overlays/{name}" for name in OVERLAYS)]
SCHEMAS = ROOT.parent / "shared" / "schemas"

Object = dict[str, Any]


@cache
def render(folder: str) -> tuple[Object, ...]:
    """The objects of a folder below manifests/, or of an absolute path; skips where there is no kubectl."""
    return tuple(yaml.load_all(_kubectl("kustomize", str(MANIFESTS / folder)), Loader=yaml.CSafeLoader))


def patched(found: Object, patch: Object) -> Object:
    """An object under a strategic merge patch, as Trainer lays a TrainJob's patches over its runtime."""
    options = ("--local", "--type=strategic", "--output=json", "--filename=-", f"--patch={json.dumps(patch)}")
    merged: Object = json.loads(_kubectl("patch", *options, given=json.dumps(found)))
    return merged


def _kubectl(*arguments: str, given: str = "") -> str:
    kubectl = shutil.which("kubectl") or shutil.which("kubectl", path=str(Path(sys.executable).parent))
    if kubectl is None:
        pytest.skip("kubectl is not installed; .ci/kubectl FOLDER fetches it")
    finished = subprocess.run([kubectl, *arguments], input=given, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


def of_kind(objects: tuple[Object, ...], kind: str) -> dict[str, Object]:
    """The objects of one kind, by name."""
    return {found["metadata"]["name"]: found for found in objects if found["kind"] == kind}


def job_of_runtime(objects: tuple[Object, ...]) -> Object:
    """The Job that Trainer makes of the TrainingRuntime, before a TrainJob's own values."""
    (job,) = of_kind(objects, "TrainingRuntime")["private-llm"]["spec"]["template"]["spec"]["replicatedJobs"]
    template: Object = job["template"]
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": job["name"]}, "spec": template["spec"]}


def pod_templates(objects: tuple[Object, ...]) -> dict[str, Object]:
    """Every pod template, by the kind and name of what makes the pods."""
    makers = [found for found in objects if found["kind"] in ("Deployment", "Job", "StatefulSet", "DaemonSet")]
    templates = {f"{found['kind']}/{found['metadata']['name']}": found["spec"]["template"] for found in makers}
    return {**templates, "TrainingRuntime/private-llm": job_of_runtime(objects)["spec"]["template"]}


@cache
def validator(resource: str) -> Draft202012Validator:
    """A validator of one custom resource that refuses fields which its definition does not name."""
    path = SCHEMAS / f"{resource}.yaml"
    if not path.exists():
        pytest.skip(f"the shared schemas are not here: {path}")
    versions = yaml.load(path.read_text(encoding="utf-8"), Loader=yaml.CSafeLoader)["spec"]["versions"]
    schema = versions[-1]["schema"]["openAPIV3Schema"]
    _refuse_unknown(schema)
    schema["properties"]["metadata"] = {"type": "object"}
    return Draft202012Validator(schema)


def problems(resource: str, found: Object) -> list[str]:
    """What the resource's definition says against an object."""
    return [f"{error.json_path}: {error.message}" for error in validator(resource).iter_errors(found)]


def _refuse_unknown(schema: Any) -> None:
    if isinstance(schema, dict):
        if "properties" in schema and not schema.get("x-kubernetes-preserve-unknown-fields"):
            schema.setdefault("additionalProperties", False)
        for below in schema.values():
            _refuse_unknown(below)
    elif isinstance(schema, list):
        for below in schema:
            _refuse_unknown(below)
