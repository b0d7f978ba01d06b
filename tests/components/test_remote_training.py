"""A TrainJob whose nodes are processes here: the launcher's job, its command, torchrun's rendezvous and real ranks."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from components.models import MODEL_FILES, model_folder
from components.records import read_json
from components.store import Store
from components.train.config import TrainConfig
from components.train.kubernetes import Cluster
from components.train.remote import train_remotely
from components.train.trainjob import JobSettings, settings_as_values
from tests.cluster.nodes import OWN_POD, Nodes
from tests.cluster.play import PACE, configuration, playing
from tests.cluster.server import NAMESPACE, Server, Thing
from tests.conftest import ROOT, make_record, write_tokens

DISK = "disk-of-a-node"
TEMPLATE = "{% for m in messages %}{{ m.content + ('\\n' if m.role == 'user' else eos_token) }}{% endfor %}"


@pytest.fixture
def nodes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Nodes]:
    monkeypatch.setenv("KFP_POD_NAME", OWN_POD)
    monkeypatch.setenv("PRIVATE_LLM_CACHE", str(tmp_path / "cache"))
    server = Server()
    yield Nodes(server)
    server.close()


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def kubelet(nodes: Nodes, job: Thing, stop_at: str = "") -> bool:
    """Runs the job's command on every node as Trainer's torch policy does; says whether all of them ended well.

    Args:
        stop_at: what node 0 prints when it is to be taken away.
    """
    trainer, port = job["spec"]["trainer"], free_port()
    processes = {}
    for rank, pod in enumerate(nodes.start(job)):
        given = {"PET_NNODES": trainer["numNodes"], "PET_NPROC_PER_NODE": trainer["numProcPerNode"]}
        given |= {"PET_NODE_RANK": rank, "PET_MASTER_ADDR": "127.0.0.1", "PET_MASTER_PORT": port}
        given |= {entry["name"]: entry["value"] for entry in trainer["env"]}
        given |= {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}  # the image's python
        processes[pod] = subprocess.Popen(
            [part.replace(DISK, f"{DISK}-{rank}") for part in trainer["command"]],  # each pod's own
            env=os.environ | {name: str(value) for name, value in given.items()} | {"OMP_NUM_THREADS": "1"},
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
    threads = [
        threading.Thread(target=print_log, args=(nodes, pod, process, stop_at if number == 0 else ""))
        for number, (pod, process) in enumerate(processes.items())
    ]
    for thread in threads:
        thread.start()
    for thread, (pod, process) in zip(threads, processes.items(), strict=True):
        thread.join()
        nodes.end(pod, process.wait())
    return all(process.returncode == 0 for process in processes.values())


def print_log(nodes: Nodes, pod: str, process: "subprocess.Popen[str]", stop_at: str) -> None:
    assert process.stdout
    with process.stdout as lines:
        for line in lines:
            nodes.server.write(pod, line.rstrip("\n"))
            if stop_at and stop_at in line:
                nodes.disrupt(pod)
                process.send_signal(signal.SIGTERM)
                stop_at = ""


@pytest.mark.faults
@pytest.mark.parametrize("bucket", [False, True], ids=["claim", "bucket"])
def test_two_nodes_train_are_preempted_and_go_on(
    bucket: bool, nodes: Nodes, stories: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    storage, step, store = tmp_path / "claim", tmp_path / "step", Store((tmp_path / "bucket").as_uri())
    step.mkdir()
    for pattern in MODEL_FILES:
        for file in stories.glob(pattern):
            (storage / "cache" / "base").mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, storage / "cache" / "base" / file.name)
    (storage / "cache" / "base" / "chat_template.jinja").write_text(TEMPLATE, encoding="utf-8")
    rows = write_tokens(step / "rows", [make_record(f"question {number}", "answer") for number in range(64)])
    config = TrainConfig(
        train=rows,
        test=rows,
        tokenizer=storage / "cache" / "base",
        base_model=str(storage / "cache" / "base"),
        base_model_digest="sha256:abc",
        model=step / "model",
        curves=step / "curves.json",
        metrics=step / "metrics.json",
        per_device_batch_size=1,
        epochs=40,  # the first loss is shown after five seconds, and then there must be more to come
        precision="fp32",
        zero_stage=2,
        gradient_checkpointing=False,
        logging_steps=1,
        save_steps=10_000,
        eval_steps=10_000,
        num_nodes=2,
        nproc_per_node=1,
    )

    def script(nodes: Nodes) -> None:
        job = nodes.job()
        assert not kubelet(nodes, job, stop_at="loss"), nodes.server.state.logs
        nodes.finish(job, "Failed", "FailedJobs")
        job = nodes.job(attempt=2)
        assert kubelet(nodes, job), nodes.server.state.logs
        nodes.finish(job)

    launcher = {"image": "train:1", "storage": str(storage), **settings_as_values(JobSettings())}
    if bucket:
        launcher |= {"storage": str(tmp_path / DISK), "bucket": {"uri": store.uri, "scratch": "1Gi"}}
    cluster = Cluster(configuration(nodes.server), NAMESPACE, pace=PACE)
    with playing(nodes, script, seconds=300):
        figures, place = train_remotely(config, launcher, {"resources": {"limits": {"cpu": "1"}}}, cluster)
    output = capsys.readouterr().out
    assert "starting again, 1 of at most 10 times" in output
    assert "train: resuming from" in output
    assert figures["steps"] == 1280
    assert figures["world_size"] == 2
    assert (model_folder(place["path"]) / "model.safetensors").is_file()
    assert [entry["step"] for entry in read_json(config.curves) if "loss" in entry] == list(range(1, 1281))
    assert list((storage / "checkpoints").glob("*")) == []
    assert not [name for name in store.list() if name.startswith("checkpoints/")]
