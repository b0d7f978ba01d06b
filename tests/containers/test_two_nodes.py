"""One training on two nodes: two containers, one network, against two ranks of one node."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.containers.conftest import RESTRICTED

pytestmark = pytest.mark.containers


@pytest.fixture
def network(engine: Any) -> Iterator[Any]:
    """A network of their own, without a way out."""
    network = engine.networks.create("private-llm-test", internal=True)
    yield network
    network.remove()


def configuration(folder: Path, rows: Path, stories: Path, processes: int) -> Path:
    """A training of the rows that a run left; its folder keeps all that it writes."""
    folder.mkdir()
    settings = {
        "train": rows / "train.parquet",
        "test": rows / "test.parquet",
        "tokenizer": rows / "tokenizer",
        "base_model": stories,
        "model": folder / "model",
        "curves": folder / "curves.json",
        "metrics": folder / "metrics.json",
        "epochs": 0.5,
        "learning_rate": 2e-3,
        "warmup_steps": 5,
        "precision": "fp32",
        "gradient_checkpointing": False,
        "zero_stage": 2,
        "nproc_per_node": processes,
        "eval_steps": 0,
    }
    path = folder / "config.json"
    path.write_text(json.dumps(settings, default=str), encoding="utf-8")
    return path


def start(engine: Any, image: str, config: Path, rows: Path, stories: Path, **options: Any) -> Any:
    mounts = {str(path): {"bind": str(path), "mode": "ro"} for path in (rows.parent, stories)}
    mounts[str(config.parent)] = {"bind": str(config.parent), "mode": "rw"}
    return engine.containers.run(
        image,
        ["python3", "-m", "components.train", "--config", str(config)],
        detach=True,
        user=f"{os.getuid()}:{os.getgid()}",
        volumes=mounts,
        shm_size="1g",
        **{**RESTRICTED, **options},
    )


def finish(containers: list[Any]) -> None:
    """Waits for containers and removes them; what a failed one printed is the error."""
    try:
        codes = [container.wait(timeout=300)["StatusCode"] for container in containers]
        assert not any(codes), [container.logs().decode() for container in containers]
    finally:
        for container in containers:
            container.remove(force=True)


def test_two_nodes_end_with_the_loss_of_two_ranks_of_one(
    engine: Any, images: dict[str, str], network: Any, trained: Path, stories: Path, tmp_path: Path
) -> None:
    one = configuration(tmp_path / "one", trained, stories, 2)
    finish([start(engine, images["train"], one, trained, stories, network_mode="none", hostname="localhost")])
    two = configuration(tmp_path / "two", trained, stories, 1)
    nodes = [
        start(
            engine,
            images["train"],
            two,
            trained,
            stories,
            network=network.name,
            name=f"private-llm-node-{rank}",
            environment={
                "PET_NNODES": "2",
                "PET_NODE_RANK": str(rank),
                "PET_MASTER_ADDR": "private-llm-node-0",
                "PET_MASTER_PORT": "29400",
            },
        )
        for rank in range(2)
    ]
    finish(nodes)
    ours, theirs = (json.loads((path.parent / "metrics.json").read_text()) for path in (two, one))
    assert ours["world_size"] == theirs["world_size"] == 2
    assert ours["steps"] == theirs["steps"] > 5
    assert ours["train_loss"] == pytest.approx(theirs["train_loss"], rel=1e-6)
    print(f"two nodes {ours['train_loss']!r}, two ranks {theirs['train_loss']!r}")
