"""The files of docs/ci."""

import yaml

from tests.conftest import ROOT

CI = ROOT / "docs" / "ci"
FILES = ("github-actions.yml", "gitlab-ci.yml", "tekton.yaml")


def scripts(name: str) -> list[str]:
    """The shell that one of the files runs."""
    documents = list(yaml.safe_load_all((CI / name).read_text()))
    if name == "tekton.yaml":
        return [step["script"] for task in documents if task["kind"] == "Task" for step in task["spec"]["steps"]]
    if name == "gitlab-ci.yml":
        return ["\n".join(job["script"]) for job in documents[0].values() if isinstance(job, dict) and "script" in job]
    return [step["run"] for job in documents[0]["jobs"].values() for step in job["steps"] if "run" in step]
