"""The commands of docs/ci, run against a server as a CI would run them."""

import re
import shlex
import shutil
from pathlib import Path

import pytest

from pipeline.schedule import main as schedule
from pipeline.submit import main as submit
from tests.ci_files import CI, FILES, scripts
from tests.kfp_server.play import Play
from tests.kfp_server.server import Server


@pytest.mark.parametrize("name", FILES)
def test_a_ci_uploads_a_version_runs_it_once_and_applies_the_schedules(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    server.state.script = lambda run: Play(run, at_once=True)
    (tmp_path / "profiles").mkdir()
    for file in ("smoke.yaml", "schedules.yaml"):
        shutil.copy(CI / file, tmp_path / "profiles" / file)
    (tmp_path / "profiles" / "cluster.yaml").write_text("extends: default\n")
    (tmp_path / "cluster-images.yaml").write_text("extends: profiles/cluster.yaml\ntrain_image: ghcr.io/a/train:1\n")
    monkeypatch.chdir(tmp_path)
    mains = {"submit": submit, "schedule": schedule}
    text = "\n".join(scripts(name)).replace("\\\n", " ")
    commands = re.findall(r"-m pipeline\.(submit|schedule) (.+)", text)
    for module, words in commands:
        assert mains[module](shlex.split(re.sub(r"\$\w+", "17", words))) == 0, words
    assert len(server.state.versions) == 1
    assert [run["state"] for run in server.state.runs.values()] == ["SUCCEEDED"]
    assert len(server.state.recurring) > 1
