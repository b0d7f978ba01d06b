"""A TrainJob whose pods share an object store and no volume, from the step's side and from a node's."""

import json
import os
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from components.cli import main
from components.errors import ClusterError
from components.store import MARKER, Store
from components.train.bucket import Bucket
from components.train.config import TrainConfig
from components.train.kubernetes import Cluster
from components.train.node import node
from components.train.remote import train_remotely
from components.train.trainjob import JobSettings, settings_as_values
from tests.cluster.nodes import OWN_POD, Nodes
from tests.cluster.play import PACE, configuration, playing
from tests.cluster.server import NAMESPACE, Server, Thing
from tests.conftest import make_record, write_tokens

METRICS = {"steps": 4, "train_loss": 2.5, "device": "cuda"}
TASK: dict[str, Any] = {
    "resources": {"limits": {"cpu": "8", "nvidia.com/gpu": "2"}, "requests": {"cpu": "8"}},
    "env": [
        {"name": "AWS_ACCESS_KEY_ID", "valueFrom": {"secretKeyRef": {"name": "bucket", "key": "id", "optional": True}}},
        {"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": {"name": "hub", "key": "token"}}},
    ],
}


@pytest.fixture
def nodes(monkeypatch: pytest.MonkeyPatch) -> Iterator[Nodes]:
    monkeypatch.setenv("KFP_POD_NAME", OWN_POD)
    server = Server()
    yield Nodes(server)
    server.close()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store((tmp_path / "bucket").as_uri())


@pytest.fixture
def config(tmp_path: Path) -> TrainConfig:
    """What the step is given: rows, and a base model where the launcher can read it and pods cannot."""
    step, base = tmp_path / "step", tmp_path / "base"
    step.mkdir()
    base.mkdir()
    (base / "config.json").write_text("{}")
    (base / "model.safetensors").write_bytes(b"weights")
    (base / "notes.txt").write_text("not part of a model")
    rows = write_tokens(step / "rows", [make_record(f"question {number}", "answer") for number in range(3)])
    return TrainConfig(
        train=rows,
        test=rows,
        tokenizer=base,
        base_model=str(base),
        base_model_digest="sha256:abc",
        model=step / "model",
        curves=step / "curves.json",
        metrics=step / "metrics.json",
        num_nodes=2,
    )


def train(nodes: Nodes, config: TrainConfig, store: Store, script: Any) -> Any:
    launcher: dict[str, Any] = {"image": "train:1", "storage": "/training", "secrets": ["bucket"]}
    launcher |= {"bucket": {"uri": store.uri, "scratch": "300Gi"}, **settings_as_values(JobSettings())}
    with playing(nodes, script):
        return train_remotely(config, launcher, TASK, Cluster(configuration(nodes.server), NAMESPACE, pace=PACE))


def place_of(job: Thing) -> Store:
    """The job's folder, which its command names."""
    arguments: list[str] = job["spec"]["trainer"]["command"]
    return Store(next(value.partition("=")[2] for value in arguments if value.startswith("--store=")))


def leave_results(job: Thing) -> None:
    """What the first node uploads."""
    place = place_of(job)
    place.write("model/model.safetensors", b"tuned")
    place.write("curves.json", b"[]")
    place.write("metrics.json", json.dumps(METRICS).encode())
    place.write(MARKER, b"{}")


def succeed(nodes: Nodes) -> None:
    job = nodes.job()
    leave_results(job)
    nodes.succeed(job)


def test_everything_goes_through_the_store(nodes: Nodes, config: TrainConfig, store: Store) -> None:
    seen: list[dict[str, str]] = []

    def script(nodes: Nodes) -> None:
        seen.append({name: (store.read(name) or b"").decode("latin-1") for name in store.list()})
        succeed(nodes)

    def when_there(nodes: Nodes) -> None:
        nodes.job()
        script(nodes)

    figures, place = train(nodes, config, store, when_there)
    assert figures == {"steps": 4, "train_loss": 2.5}
    assert json.loads(config.metrics.read_text()) == METRICS
    assert config.curves.read_text() == "[]"
    run = place["path"].removeprefix(f"{store.uri}/").removesuffix("/model")
    assert set(seen[0]) == {
        *(f"{run}/{name}" for name in ("config.json", "input/COMPLETE", "input/train.parquet", "input/test.parquet")),
        *(f"{run}/input/tokenizer/{name}" for name in ("config.json", "model.safetensors", "notes.txt")),
        *(f"cache/sha256-abc/{name}" for name in ("COMPLETE", "config.json", "model.safetensors")),
    }
    told = json.loads(seen[0][f"{run}/config.json"])
    assert told["train"] == "/training/input/train.parquet"
    assert told["base_model"] == f"{store.uri}/cache/sha256-abc"
    assert told["checkpoint_store"] == f"{store.uri}/checkpoints"
    assert (told["nproc_per_node"], told["num_nodes"]) == (2, 2)
    assert store.read(f"{run}/model/model.safetensors") == b"tuned"
    assert not [name for name in store.list() if "/input/" in name], "no rows stay behind"


def test_a_pod_gets_a_disk_and_the_stores_credentials_and_no_claim(
    nodes: Nodes, config: TrainConfig, store: Store
) -> None:
    train(nodes, config, store, succeed)
    [job] = nodes.server.state.objects["trainjobs"].values()
    trainer = job["spec"]["trainer"]
    by_name = {entry["name"]: entry for entry in trainer["env"]}
    assert by_name["AWS_ACCESS_KEY_ID"] == TASK["env"][0]
    assert "HF_TOKEN" not in by_name
    assert by_name["PRIVATE_LLM_CACHE"]["value"] == "/training/cache"
    assert trainer["resourcesPerNode"]["requests"]["ephemeral-storage"] == "300Gi"
    assert "ephemeral-storage" not in trainer["resourcesPerNode"]["limits"]
    (patch,) = job["spec"]["runtimePatches"]
    (replicated,) = patch["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"]
    pod = replicated["template"]["spec"]["template"]["spec"]
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    assert volumes.keys() == {"training", "shared-memory"}
    assert volumes["training"]["emptyDir"] == {"sizeLimit": "300Gi"}
    assert {"name": "training", "mountPath": "/training"} in pod["containers"][0]["volumeMounts"]


def test_a_successor_uploads_nothing_twice(nodes: Nodes, config: TrainConfig, store: Store) -> None:
    train(nodes, config, store, succeed)
    nodes.server.remove("trainjobs", next(iter(nodes.server.state.objects["trainjobs"])))
    store.write("cache/sha256-abc/model.safetensors", b"of the first upload")
    train(nodes, config, store, succeed)
    assert store.read("cache/sha256-abc/model.safetensors") == b"of the first upload"


def test_a_base_model_with_a_uri_is_not_copied(nodes: Nodes, config: TrainConfig, store: Store) -> None:
    config = replace(config, base_model="memory://models/base", base_model_digest="remote:abc")
    train(nodes, config, store, succeed)
    assert not [name for name in store.list() if name.startswith("cache/")]


def test_a_job_that_left_no_marker_has_left_nothing(nodes: Nodes, config: TrainConfig, store: Store) -> None:
    def half(nodes: Nodes) -> None:
        job = nodes.job()
        place_of(job).write("model/model.safetensors", b"half")
        nodes.succeed(job)

    with pytest.raises(ClusterError, match=r"complete and left nothing complete at file://\S+"):
        train(nodes, config, store, half)


def test_what_nobody_uses_is_removed_after_a_time(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = [("runs/old/x", 31), ("runs/current/x", 99), ("runs/queueing/x", 31), ("checkpoints/old/c/y", 31)]
    for name, days in [*old, ("runs/new/x", 1), ("checkpoints/its/c/y", 31)]:
        store.write(name, b"")
        os.utime(tmp_path / "bucket" / name, (time.time() - days * 86400,) * 2)
    Bucket(store.uri, "current", tmp_path, "1Gi").remove_old(30, {"queueing", "its"})
    assert sorted(store.list()) == ["checkpoints/its/c/y", "runs/current/x", "runs/new/x", "runs/queueing/x"]
    assert f"removed {store.uri}/runs/old, which is older than 30 days" in capsys.readouterr().out


def test_a_node_without_input_says_so(store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(node, argv=[f"--store={store.uri}/runs/x", f"--folder={tmp_path}"]) == 1
    assert capsys.readouterr().err == (
        f"node: {store.uri}/runs/x/config.json is not there; only the launcher of a TrainJob writes it\n"
    )
