"""The whole pipeline in containers, on real records and a real model, against the same run in plain processes."""

import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

pytestmark = pytest.mark.containers

# What holds seconds; everything else, the model too, is the same to the byte.
TIMED = {"curves", "tensorboard", "train_metrics", "report"}


def run(output: Path, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pipeline.run", "--runner", "docker", "--output", str(output), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, **options)


def summary(output: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((output / "summary.json").read_text(encoding="utf-8"))
    return content


@pytest.fixture(scope="module")
def in_containers(profile: Path, trained_arguments: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the run that `trained` is, in containers."""
    output = tmp_path_factory.mktemp("containers") / "first"
    finished = run(output, "--profile", str(profile), *trained_arguments)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return output


def test_containers_give_the_numbers_of_plain_processes(in_containers: Path, trained: Path) -> None:
    ours, theirs = summary(in_containers), summary(trained)
    for name in ("records", "base", "tuned", "champion", "gate", "registered"):
        assert ours[name] == theirs[name], name
    for name in theirs["artifacts"].keys() - TIMED:
        assert ours["artifacts"][name]["digest"] == theirs["artifacts"][name]["digest"], name
    print(json.dumps({name: [ours[name], theirs[name]] for name in ("records", "base", "tuned", "steps")}))


def test_what_containers_leave_belongs_to_the_user(in_containers: Path) -> None:
    left = list(in_containers.parent.rglob("*"))
    assert len(left) > 50
    assert {path.stat().st_uid for path in left} == {os.getuid()}


def test_the_same_run_again_comes_from_the_cache(
    in_containers: Path, profile: Path, trained_arguments: list[str]
) -> None:
    again = run(in_containers.parent / "again", "--profile", str(profile), *trained_arguments)
    assert again.returncode == 0, again.stdout + again.stderr
    steps = summary(in_containers.parent / "again")["steps"]
    assert {name for name, step in steps.items() if not step["cached"]} == {"resolve", "notify"}


def test_a_step_that_fails_in_a_container_is_named_with_its_reason(
    profile: Path, stories: Path, tmp_path: Path
) -> None:
    data = tmp_path / "bad.jsonl"
    data.write_text("not json\n" * 5 + '{"instruction": "a", "response": "b"}\n')
    failed = run(tmp_path / "run", "--profile", str(profile), "--param", f"dataset={data}", f"base_model={stories}")
    assert failed.returncode == 1
    assert "run: step ingest failed: dataset: 5 of 6 rows of " in failed.stderr


@pytest.fixture
def broken(engine: Any, images: dict[str, str], tmp_path: Path) -> Iterator[Path]:
    """A profile whose data image ends without outputs: what kfp sees of a container that fails before it looks."""
    dockerfile = f"FROM {images['data']}\nUSER 0\nRUN ln -sf /bin/true /opt/venv/bin/python3\nUSER 10001:10001\n"
    name = images["data"].replace("/data:", "/broken:")
    engine.images.build(fileobj=io.BytesIO(dockerfile.encode()), tag=name)
    path = tmp_path / "broken.yaml"
    path.write_text(yaml.safe_dump({"extends": "local", "data_image": name, "train_image": images["train"]}))
    yield path
    engine.images.remove(name, force=True)


def test_a_step_without_outputs_has_not_succeeded(
    broken: Path, dolly_slice: Path, stories: Path, tmp_path: Path
) -> None:
    """kfp gives a container that is gone before it looks, such as one that fails at once, the status SUCCESS."""
    failed = run(
        tmp_path / "run", "--profile", str(broken), "--param", f"dataset={dolly_slice}", f"base_model={stories}"
    )
    assert failed.returncode == 1, failed.stdout
    assert "run: step resolve failed: " in failed.stderr
    assert not (tmp_path / "run" / "summary.json").exists()


def test_an_image_that_is_not_there_is_one_line_and_exit_2(
    engine: Any, dolly_slice: Path, stories: Path, tmp_path: Path
) -> None:
    missing = run(tmp_path / "run", "--param", f"dataset={dolly_slice}", f"base_model={stories}")
    assert missing.returncode == 2
    assert "No such image: python-private-llm:local; run make images" in missing.stderr
    assert missing.stderr.count("\n") == 1
    assert not (tmp_path / "run").exists()
