"""Trainings that are killed, stopped, or run out of disk, with torchrun and DeepSpeed on CPU: nothing is lost."""

import json
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from components.models import load_model
from components.perplexity import score
from components.records import read_table
from components.train.launcher import RESUME_EXIT_CODE
from tests.components.trainings import command, curve, prepare, run, weights

PATIENCE_SECONDS = 150
KILLS, KILLS_SEED = int(os.environ.get("KILLS", "5")), int(os.environ.get("KILLS_SEED", "20"))
ARGUMENTS = {"per_device_batch_size": 2, "nproc_per_node": 2, "save_steps": 4, "epochs": 6}


@pytest.fixture(scope="module")
def prepared(dolly: Path, stories: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepare(tmp_path_factory.mktemp("prepared"), dolly, stories, "dolly")


@pytest.fixture(scope="module")
def whole(prepared: Path, stories: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training that nothing disturbed."""
    output = tmp_path_factory.mktemp("whole")
    finished = run(prepared, stories, output, **ARGUMENTS)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return output


in_either_place = pytest.mark.parametrize("start", ["checkpoints", "checkpoint_store"], indirect=True)


class Training:
    """One attempt at a training, in a process of its own."""

    def __init__(self, arguments: list[str], checkpoints: Path) -> None:
        self.checkpoints = checkpoints
        self.log = checkpoints.with_name("log")
        with self.log.open("w") as log:
            self.process = subprocess.Popen(arguments, stdout=log, stderr=log, start_new_session=True)

    def wait_until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not condition():
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.02)

    def wait_until_ready(self) -> None:
        """Until the ranks begin to train."""
        self.wait_until(lambda: "ready after" in self.log.read_text())

    def wait_for_step(self, step: int) -> None:
        """Until they train and a checkpoint of that step or a later one is complete."""
        self.wait_until_ready()
        self.wait_until(lambda: max(steps(self.checkpoints), default=0) >= step)

    def ranks(self) -> list[psutil.Process]:
        """The processes that train."""
        below = psutil.Process(self.process.pid).children(recursive=True)
        return [process for process in below if "components.train" in process.cmdline() and process.children() == []]

    def end(self) -> tuple[int, str]:
        """Its exit code, and all that it said."""
        return self.process.wait(timeout=PATIENCE_SECONDS), self.log.read_text()


def steps(checkpoints: Path) -> list[int]:
    return sorted(int(marker.parent.name.split("-")[1]) for marker in checkpoints.glob("*/checkpoint-*/COMPLETE"))


def assert_same(output: Path, whole: Path) -> None:
    for key, weight in weights(whole).items():
        assert torch.equal(weights(output)[key], weight), key


@pytest.fixture
def start(
    prepared: Path, stories: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[Callable[..., Training]]:
    """Starts a training whose checkpoints are in tmp_path; kills what is left of it at the end.

    With the parameter checkpoint_store that folder is an object store, to which a node uploads.
    """
    started: list[Training] = []
    kept = getattr(request, "param", "checkpoints")

    def begin(**arguments: Any) -> Training:
        checkpoints = tmp_path / "checkpoints"
        place = {kept: checkpoints if kept == "checkpoints" else checkpoints.as_uri()}
        values = {**ARGUMENTS, **place, **arguments}
        started.append(Training(command(prepared, stories, tmp_path, **values), checkpoints))
        return started[-1]

    yield begin
    for training in started:
        training.process.kill()
        training.process.wait()


@pytest.mark.long
def test_sigterm_leaves_a_checkpoint_and_the_next_start_goes_on_from_there(
    start: Callable[..., Training], whole: Path, tmp_path: Path
) -> None:
    training = start(save_steps=1000)
    training.wait_until_ready()
    training.process.send_signal(signal.SIGTERM)
    code, said = training.end()
    assert code == RESUME_EXIT_CODE, said
    assert not (tmp_path / "model").exists()
    [step] = steps(training.checkpoints)
    assert f"stopped at step {step} of" in said.splitlines()[-1]
    code, said = start(save_steps=1000).end()
    assert code == 0, said
    assert "resuming from" in said
    assert f"checkpoint-{step}" in said
    assert_same(tmp_path, whole)


@pytest.mark.faults
def test_killed_at_random_points_the_weights_are_those_of_an_undisturbed_training(
    start: Callable[..., Training], whole: Path, tmp_path: Path
) -> None:
    chance = random.Random(KILLS_SEED)
    total = json.loads((whole / "metrics.json").read_text())["steps"]
    for number, step in enumerate(sorted(chance.sample(range(total - 8), KILLS))):
        training = start()
        training.wait_for_step(step // 4 * 4)
        time.sleep(chance.random() * 0.2)
        kind = chance.choice(["SIGTERM", "SIGKILL", "SIGKILL to a rank"])
        ranks = training.ranks()
        if kind == "SIGKILL to a rank":
            chance.choice(ranks).kill()
        else:
            training.process.send_signal(signal.Signals[kind])
        code, said = training.end()
        assert not psutil.wait_procs(ranks, timeout=10)[1], "a rank trains on unseen"
        left = steps(training.checkpoints)
        print(f"kill {number + 1} of {KILLS}: {kind} after step {step}, exit code {code}, checkpoints {left}")
        assert code == {"SIGTERM": RESUME_EXIT_CODE, "SIGKILL": -signal.SIGKILL, "SIGKILL to a rank": 1}[kind], said
    code, said = start().end()
    assert code == 0, said
    assert "resuming from" in said
    assert_same(tmp_path, whole)
    assert curve(tmp_path, "loss") == curve(whole, "loss")
    assert not list((tmp_path / "checkpoints").iterdir()), "checkpoints of a finished training are removed"


@pytest.mark.faults
@in_either_place
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(
    start: Callable[..., Training], whole: Path, tmp_path: Path
) -> None:
    training = start()
    training.wait_for_step(8)
    training.process.send_signal(signal.SIGTERM)
    training.end()
    *_, before, newest = steps(training.checkpoints)
    [damaged] = training.checkpoints.glob(f"*/checkpoint-{newest}")
    largest = max(damaged.iterdir(), key=lambda path: path.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    largest.write_bytes(content)
    code, said = start().end()
    assert code == 0, said
    assert f"/{damaged.name} is damaged ({largest.name} has other content than was written) and is passed over" in said
    assert re.search(rf"resuming from \S+/checkpoint-{before}\n", said)
    assert_same(tmp_path, whole)


@pytest.mark.faults
def test_a_full_disk_costs_a_checkpoint_and_not_the_training(
    start: Callable[..., Training], whole: Path, tmp_path: Path
) -> None:
    """A limit on the size of files stands in for the disk: the model fits in, a rank's optimizer state does not."""
    training = start(save_steps=20)
    resource.prlimit(training.process.pid, resource.RLIMIT_FSIZE, (1_400_000, 1_400_000))
    code, said = training.end()
    assert code == 0, said
    assert "the checkpoint at step 20 could not be written (rank 0: File too large)" in said
    assert "training goes on; the last good one is none" in said
    assert_same(tmp_path, whole)
    assert json.loads((tmp_path / "metrics.json").read_text())["failed_checkpoints"] == 4


@pytest.mark.faults
def test_a_store_that_cannot_be_written_costs_checkpoints_and_not_the_training(
    start: Callable[..., Training], whole: Path, tmp_path: Path
) -> None:
    (tmp_path / "taken").write_text("a file where a folder would have to be")
    code, said = start(save_steps=20, checkpoint_store=(tmp_path / "taken").as_uri()).end()
    assert code == 0, said
    assert "the checkpoint at step 20 could not be written (rank 0: cannot write file://" in said
    assert_same(tmp_path, whole)
    assert json.loads((tmp_path / "metrics.json").read_text())["failed_checkpoints"] == 4


@pytest.mark.faults
def test_a_killed_rank_ends_the_others_at_once_and_is_named(start: Callable[..., Training]) -> None:
    training = start(epochs=1000)
    training.wait_until_ready()
    started = time.monotonic()
    training.ranks()[1].kill()
    code, said = training.end()
    assert code == 1
    assert said.splitlines()[-1].startswith("train: training failed: rank 1 was killed by SIGKILL")
    assert time.monotonic() - started < 20


@pytest.mark.faults
def test_a_rank_that_dies_while_starting_ends_the_others_and_is_named(start: Callable[..., Training]) -> None:
    training = start()
    training.wait_until(lambda: len(training.ranks()) == 2)
    ranks = training.ranks()
    ranks[1].kill()
    code, said = training.end()
    assert code == 1
    assert said.splitlines()[-1].startswith("train: training failed: rank 1 was killed by SIGKILL")
    assert not psutil.wait_procs(ranks, timeout=10)[1]


@pytest.mark.faults
def test_sigterm_before_the_ranks_have_started_means_start_again(
    start: Callable[..., Training], tmp_path: Path
) -> None:
    training = start()
    training.wait_until(lambda: "2 processes on CPU" in training.log.read_text())
    training.process.send_signal(signal.SIGTERM)
    code, said = training.end()
    assert code == RESUME_EXIT_CODE, said
    assert said.splitlines()[-1].startswith("train: stopped ")
    assert not (tmp_path / "model").exists()


@pytest.mark.faults
def test_killed_while_a_checkpoint_is_written_nothing_of_it_counts_or_stays(
    start: Callable[..., Training], whole: Path, tmp_path: Path
) -> None:
    training = start(save_steps=1)
    training.wait_until(lambda: any(training.checkpoints.glob("*/.partial-checkpoint-*")))
    training.process.kill()
    training.end()
    training = start(save_steps=2)
    training.wait_for_step(40)
    training.process.send_signal(signal.SIGTERM)
    assert training.end()[0] == RESUME_EXIT_CODE
    assert not list(training.checkpoints.glob("*/.partial-*"))
    code, said = start().end()
    assert code == 0, said
    assert_same(tmp_path, whole)


@pytest.mark.faults
def test_a_folder_that_goes_away_costs_checkpoints_and_not_the_training(
    start: Callable[..., Training], whole: Path, tmp_path: Path
) -> None:
    training = start(save_steps=20)
    training.wait_until_ready()
    shutil.rmtree(training.checkpoints)
    training.checkpoints.touch()
    code, said = training.end()
    assert code == 0, said
    assert "the checkpoint at step 20 could not be written (rank 0: Not a directory); training goes on" in said
    assert_same(tmp_path, whole)


@pytest.mark.faults
def test_ranks_that_do_not_stop_in_time_are_killed(start: Callable[..., Training]) -> None:
    training = start(epochs=1000, grace_seconds=1)
    training.wait_until_ready()
    stuck = training.ranks()
    for rank in stuck:
        rank.suspend()
    training.process.send_signal(signal.SIGTERM)
    code, said = training.end()
    assert code == RESUME_EXIT_CODE
    assert "the ranks have not stopped within 1 s and are killed" in said
    assert not psutil.wait_procs(stuck, timeout=10)[1]


@pytest.mark.faults
@pytest.mark.parametrize(
    ("zero_stage", "start"),
    [(0, "checkpoints"), (1, "checkpoints"), (2, "checkpoints"), (3, "checkpoints"), (2, "checkpoint_store")],
    indirect=["start"],
)
def test_another_number_of_ranks_goes_on_with_the_same_curve(
    start: Callable[..., Training], whole: Path, tmp_path: Path, zero_stage: int
) -> None:
    starting, spent = 0.0, 0.0  # seconds of all ranks
    for processes, until in ((2, 8), (1, 30), (2, 0)):
        began = time.monotonic()
        training = start(nproc_per_node=processes, zero_stage=zero_stage)
        if until:
            training.wait_for_step(until)
            training.process.send_signal(signal.SIGTERM)
        code, said = training.end()
        assert code == (RESUME_EXIT_CODE if until else 0), said
        starting += processes * float(re.search(r"ready after ([\d.]+) s", said)[1])  # type: ignore[index]
        spent += processes * (time.monotonic() - began)
    assert starting < json.loads((tmp_path / "metrics.json").read_text())["accelerator_hours"] * 3600 < spent
    assert curve(tmp_path, "loss") == pytest.approx(curve(whole, "loss"), rel=1e-4)
    norms = curve(whole, "grad_norm") if zero_stage else []  # without ZeRO, DeepSpeed tells none in fp32
    assert curve(tmp_path, "grad_norm") == pytest.approx(norms, rel=1e-3)
    assert curve(tmp_path, "learning_rate") == curve(whole, "learning_rate")


@pytest.mark.faults
@pytest.mark.parametrize(
    ("zero_stage", "start"),
    [(0, "checkpoints"), (1, "checkpoints"), (2, "checkpoints"), (3, "checkpoints"), (3, "checkpoint_store")],
    indirect=["start"],
)
def test_early_stopping_ends_with_the_best_weights(
    start: Callable[..., Training], prepared: Path, tmp_path: Path, zero_stage: int
) -> None:
    stopping = {"early_stopping_patience": 2, "learning_rate": "3e-3", "eval_steps": 5, "epochs": 50}
    code, said = start(**stopping, zero_stage=zero_stage).end()
    assert code == 0, said
    losses = curve(tmp_path, "eval_loss")
    best = min(range(len(losses)), key=losses.__getitem__)
    assert len(losses) == best + 3, "two evaluations without a lower loss end the training"
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["best_step"] == 5 * best > 0
    assert metrics["steps"] == 5 * (best + 2)
    assert held_out_loss(tmp_path, prepared) == pytest.approx(losses[best], rel=1e-5)


def held_out_loss(output: Path, prepared: Path) -> float:
    scores = score(load_model(output / "model", 0, torch.float32), list(read_table(prepared / "test")), batch_size=8)
    return float(scores.nll.sum() / scores.tokens.sum())


@pytest.mark.faults
def test_best_weights_that_could_not_be_kept_cost_no_more_than_these(
    start: Callable[..., Training], prepared: Path, tmp_path: Path
) -> None:
    """Of the best checkpoints only the first can be written; it stays, and the training ends with what it has."""
    stopping = {"early_stopping_patience": 2, "learning_rate": "3e-3", "eval_steps": 5, "epochs": 50}
    training = start(**stopping, save_total_limit=1)
    training.wait_until(lambda: any(training.checkpoints.glob("*/")))
    [folder] = training.checkpoints.iterdir()
    for step in range(10, 1000, 5):
        (folder / f".partial-checkpoint-{step}").touch()  # where a folder would have to be
    training.wait_for_step(16)
    training.process.send_signal(signal.SIGTERM)
    code, said = training.end()
    assert code == RESUME_EXIT_CODE, said
    assert "the checkpoint at step 10 could not be written" in said
    assert 5 in steps(training.checkpoints)
    code, said = start(**stopping, save_total_limit=1).end()
    assert code == 0, said
    losses = curve(tmp_path, "eval_loss")
    best = min(range(len(losses)), key=losses.__getitem__)
    assert f"checkpoint-{5 * best} is damaged (COMPLETE is missing) and is passed over" in said
    assert f"train: the weights of step {5 * best}, held-out loss {losses[best]:.3f}, are lost" in said
    assert losses[-1] < losses[1], "the last weights are the better ones of those there still are"
    assert held_out_loss(tmp_path, prepared) == pytest.approx(losses[-1], rel=1e-5)
