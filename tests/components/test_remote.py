"""A training in a TrainJob from the step's side: what is put on the claim, what the job is given, what is collected."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from components.cli import main
from components.errors import ClusterError, ModelError
from components.train.claim import Claim
from components.train.config import TrainConfig
from components.train.kubernetes import PERMISSIONS, Cluster
from components.train.remote import train_remotely
from components.train.retry import Pace
from components.train.trainjob import JobSettings, settings_as_values
from tests.cluster.nodes import OWN_POD, Nodes
from tests.cluster.play import OWNER, PACE, configuration, playing
from tests.cluster.server import NAMESPACE, Server, Thing
from tests.conftest import ROOT, make_record, write_tokens

METRICS = {"steps": 4, "train_loss": 2.5, "device": "cuda"}
TASK = {
    "resources": {"limits": {"cpu": "8", "nvidia.com/gpu": "2"}},
    "volumes": [{"name": "claim", "persistentVolumeClaim": {"claimName": "claim"}}],
    "volume_mounts": [{"name": "claim", "mountPath": "/training"}],
}


@pytest.fixture
def nodes(monkeypatch: pytest.MonkeyPatch) -> Iterator[Nodes]:
    monkeypatch.setenv("KFP_POD_NAME", OWN_POD)
    server = Server()
    yield Nodes(server)
    server.close()


@pytest.fixture
def storage(tmp_path: Path) -> Path:
    """The claim, with a base model on it."""
    base = tmp_path / "claim" / "cache" / "base"
    base.mkdir(parents=True)
    (base / "config.json").write_text("{}")
    (base / "model.safetensors").write_bytes(b"weights")
    return tmp_path / "claim"


@pytest.fixture
def config(tmp_path: Path, storage: Path) -> TrainConfig:
    step = tmp_path / "step"
    step.mkdir()
    rows = write_tokens(step / "train.parquet", [make_record(f"question {number}", "answer") for number in range(3)])
    return TrainConfig(
        train=rows,
        test=rows,
        tokenizer=storage / "cache" / "base",
        base_model=str(storage / "cache" / "base"),
        base_model_digest="digest",
        model=step / "model",
        curves=step / "curves.json",
        metrics=step / "metrics.json",
        num_nodes=2,
    )


def launcher(storage: Path) -> dict[str, Any]:
    given = {"image": "train:1", "image_pull_secrets": ["registry"], "storage": str(storage)}
    return given | settings_as_values(JobSettings())


def train(nodes: Nodes, config: TrainConfig, storage: Path, script: Any, pace: Pace = PACE) -> Any:
    cluster = Cluster(configuration(nodes.server), NAMESPACE, pace=pace)
    with playing(nodes, script):
        return train_remotely(config, launcher(storage), TASK, cluster)


def told(job: Thing) -> dict[str, Any]:
    """The configuration that the job's command names."""
    told: dict[str, Any] = json.loads(Path(job["spec"]["trainer"]["command"][-1]).read_text(encoding="utf-8"))
    return told


def leave_results(job: Thing) -> None:
    """What training leaves on the claim."""
    given = told(job)
    Path(given["model"]).mkdir()
    (Path(given["model"]) / "model.safetensors").write_bytes(b"tuned")
    Path(given["curves"]).write_text("[]")
    Path(given["metrics"]).write_text(json.dumps(METRICS))


def succeed(nodes: Nodes) -> None:
    job = nodes.job()
    leave_results(job)
    nodes.succeed(job)


def test_input_goes_to_the_claim_and_the_model_stays_there(nodes: Nodes, config: TrainConfig, storage: Path) -> None:
    seen: list[TrainConfig] = []

    def script(nodes: Nodes) -> None:
        job = nodes.job()
        argv = ["--config", job["spec"]["trainer"]["command"][-1]]
        assert main(seen.append, TrainConfig, argv) == 0
        assert seen[0].train.read_bytes() == config.train.read_bytes()
        assert seen[0].tokenizer.is_dir()
        succeed(nodes)

    figures, place = train(nodes, config, storage, script)
    assert figures == {"steps": 4, "train_loss": 2.5}
    model = Path(place["path"])
    assert (model / "model.safetensors").read_bytes() == b"tuned"
    assert model.is_relative_to(storage)
    assert not config.model.exists(), "the model is written once"
    assert json.loads(config.metrics.read_text()) == METRICS
    assert config.curves.read_text() == "[]"
    assert not (model.parent / "input").exists(), "no rows stay behind"
    assert seen[0].checkpoints == storage / "checkpoints"
    assert (seen[0].nproc_per_node, seen[0].num_nodes) == (2, 2)


def test_the_job_tells_whose_it_is(nodes: Nodes, config: TrainConfig, storage: Path) -> None:
    own = nodes.server.get("pods", OWN_POD)
    assert own
    own["metadata"]["ownerReferences"] = [OWNER | {"controller": True, "blockOwnerDeletion": True}]
    nodes.server.put("pods", own)
    train(nodes, config, storage, succeed)
    [job] = nodes.server.state.objects["trainjobs"].values()
    assert job["metadata"]["ownerReferences"] == [OWNER]
    assert job["metadata"]["labels"]["private-llm/run-id"] == "run-1"
    assert job["metadata"]["annotations"]["private-llm/dataset-digest"]
    assert job["spec"]["trainer"]["image"] == "train:1"
    assert job["spec"]["trainer"]["numNodes"] == 2


def test_the_launchers_calls_are_the_ones_its_role_grants(nodes: Nodes, config: TrainConfig, storage: Path) -> None:
    def script(nodes: Nodes) -> None:
        job = nodes.job()
        pods = nodes.start(job)
        nodes.end(pods[0], 75)
        nodes.finish(job, "Failed")
        job = nodes.job(attempt=2)
        leave_results(job)
        nodes.succeed(job)

    train(nodes, config, storage, script)
    granted = {(group, resource, verb) for (group, resource), verbs in PERMISSIONS.items() for verb in verbs}
    assert set(nodes.server.state.calls) == granted


def test_a_successor_finds_the_input_and_the_job(nodes: Nodes, config: TrainConfig, storage: Path) -> None:
    def lose_the_api(nodes: Nodes) -> None:
        nodes.job()
        nodes.server.state.away = True

    with pytest.raises(ClusterError, match="did not answer"):
        train(nodes, config, storage, lose_the_api, replace(PACE, patience=0.2, cleanup=0.1))
    nodes.server.state.away = False
    train(nodes, config, storage, succeed)
    created = [thing for _, kind, of, thing in nodes.server.state.history if of == "trainjobs" and kind == "ADDED"]
    assert len(created) == 1


def test_two_runs_at_the_same_training_do_not_share_its_checkpoints(
    nodes: Nodes, config: TrainConfig, storage: Path
) -> None:
    train(nodes, config, storage, succeed)
    [job] = nodes.server.state.objects["trainjobs"].values()
    metadata = {"name": "private-llm-train-other", "labels": job["metadata"]["labels"]}
    nodes.server.put("trainjobs", {"metadata": metadata, "spec": job["spec"]})
    nodes.server.remove("trainjobs", job["metadata"]["name"])
    with pytest.raises(ClusterError, match="TrainJob private-llm-train-other of another run is at the same training"):
        train(nodes, config, storage, lambda _: None)


def test_what_a_job_needs_that_queues_for_long_is_not_removed(nodes: Nodes, config: TrainConfig, storage: Path) -> None:
    """Its folder and its checkpoints, when the launcher of another run cleans the claim."""
    labels = {"private-llm/training": "digest-of-it"}
    for name in ("queueing", "of-others"):
        metadata = {"name": name, "labels": labels if name == "queueing" else {}}
        nodes.server.put("trainjobs", {"metadata": metadata, "spec": {}})
    for old in ("runs/queueing", "runs/finished", "checkpoints/digest-of-it", "checkpoints/of-another"):
        (storage / old).mkdir(parents=True)
        os.utime(storage / old, (0, 0))

    def script(nodes: Nodes) -> None:
        nodes.server.wait(lambda: len(nodes.server.state.objects["trainjobs"]) == 3)
        jobs = nodes.server.state.objects["trainjobs"].values()
        [job] = [job for job in jobs if job["metadata"]["name"] not in ("queueing", "of-others")]
        leave_results(job)
        nodes.succeed(job)

    train(nodes, config, storage, script)
    assert (storage / "runs" / "queueing").is_dir()
    assert [path.name for path in (storage / "checkpoints").iterdir()] == ["digest-of-it"]
    assert not (storage / "runs" / "finished").exists()


def test_a_base_model_that_the_pods_cannot_read_is_named(
    nodes: Nodes, config: TrainConfig, storage: Path, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "elsewhere"
    (storage / "cache" / "base").rename(elsewhere)
    config = replace(config, base_model=str(elsewhere), tokenizer=elsewhere)
    with pytest.raises(ModelError, match=r"base_model: \S+/elsewhere is not on the claim at \S+; give a hub id"):
        train(nodes, config, storage, lambda _: None)


def test_a_job_that_leaves_nothing_is_a_failure(nodes: Nodes, config: TrainConfig, storage: Path) -> None:
    with pytest.raises(ClusterError, match=r"left no .*metrics\.json; do its pods share the claim"):
        train(nodes, config, storage, lambda nodes: nodes.succeed(nodes.job()))


def test_outside_of_a_run_or_without_the_claim_nothing_starts(nodes: Nodes, config: TrainConfig, storage: Path) -> None:
    with pytest.raises(ClusterError, match="the step must mount the claim"):
        train(nodes, config, storage / "missing", lambda _: None)
    nodes.server.put("pods", {"metadata": {"name": OWN_POD}, "spec": {}, "status": {}})
    with pytest.raises(ClusterError, match="has no label pipeline/runid: launcher: trainjob works in a KFP run only"):
        train(nodes, config, storage, lambda _: None)
    with pytest.raises(ClusterError, match="works in a pod of a cluster only"):
        train_remotely(config, launcher(storage), TASK)


def test_what_nobody_uses_is_removed_after_a_time(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for kind in ("runs", "checkpoints"):
        for name, days in (("old", 31), ("used", 31), ("new", 1), ("current", 99)):
            (tmp_path / kind / name).mkdir(parents=True)
            os.utime(tmp_path / kind / name, (time.time() - days * 86400,) * 2)
    (tmp_path / "checkpoints" / "used" / "checkpoint-3").mkdir()
    gone = tmp_path / "runs" / "old" / "gone"  # as what another launcher removes: listed, and not there when looked at
    gone.symlink_to(tmp_path / "nowhere")
    os.utime(gone.parent, (0, 0))
    curves = tmp_path / "runs" / "writing" / "tensorboard"  # a training that has gone on for longer than that
    curves.mkdir(parents=True)
    (curves / "events").touch()
    for folder in (curves, curves.parent):
        os.utime(folder, (0, 0))
    Claim(tmp_path, "current").remove_old(30)
    assert sorted(entry.name for entry in (tmp_path / "runs").iterdir()) == ["current", "new", "writing"]
    assert sorted(entry.name for entry in (tmp_path / "checkpoints").iterdir()) == ["new", "used"]
    assert f"removed {tmp_path / 'runs' / 'old'}, which is older than 30 days" in capsys.readouterr().out


def test_the_launcher_and_its_checks_need_no_torch() -> None:
    """A TrainJob is launched from the data image, which holds none."""
    blocked = "import sys; sys.modules['torch'] = None; import components.train.launch, components.train.remote"
    finished = subprocess.run([sys.executable, "-c", blocked], capture_output=True, text=True, check=False, cwd=ROOT)
    assert finished.returncode == 0, finished.stderr
