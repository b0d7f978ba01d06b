"""What a launcher promises, on the test's own API, and on a real cluster: pytest -m cluster --kubeconfig FILE."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from components.errors import ClusterError
from components.train.jobs import run_job
from components.train.trainjob import JobSettings, train_job
from tests.cluster.worlds import World, played, real


@pytest.fixture(params=["played", pytest.param("real", marks=pytest.mark.cluster)])
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    if request.param == "played":
        with played() as found:
            yield found
        return
    kubeconfig = request.config.getoption("--kubeconfig")
    if not kubeconfig:
        pytest.skip("no real cluster: give --kubeconfig FILE, in whose namespace manifests/ are applied")
    with real(Path(kubeconfig), request.config.getoption("--cluster-image")) as found:
        yield found


def launch(world: World, program: str, **settings: Any) -> None:
    known = JobSettings(shared_memory="64Mi", **settings)
    training = world.training(program)
    run_job(world.cluster, world.run, lambda: lambda attempt: train_job(world.run, training, known, attempt), known, "")


def when_there(world: World, act: Callable[[dict[str, Any]], Any]) -> threading.Thread:
    """Does something once the job exists."""

    def wait() -> None:
        while not (job := world.cluster.job(world.run.job_name)):
            time.sleep(world.cluster.pace.first_delay)
        time.sleep(world.cluster.pace.first_delay * 20)
        act(job)

    thread = threading.Thread(target=wait)
    thread.start()
    return thread


def test_a_job_succeeds_and_its_log_is_shown_once(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    launch(world, "succeed")
    output = capsys.readouterr().out
    assert output.count("step 1\n") == output.count("step 2\n") == 1


def test_a_job_fails_with_its_exit_code(world: World) -> None:
    with pytest.raises(ClusterError, match=r"failed: node [01] failed with exit code 3"):
        launch(world, "fail")


def test_a_job_that_asks_to_be_resumed_is_started_again(world: World) -> None:
    with pytest.raises(ClusterError, match="was interrupted 2 times"):
        launch(world, "resume", max_restarts=1)


def test_a_terminated_run_leaves_no_job(world: World) -> None:
    thread = when_there(world, lambda _: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(ClusterError, match="the run was terminated"):
        launch(world, "sleep")
    thread.join()
    assert world.cluster.job(world.run.job_name) is None


def test_a_job_that_someone_deletes_is_a_failure(world: World) -> None:
    def delete(job: dict[str, Any]) -> None:
        world.cluster.delete_job(world.run.job_name, job["metadata"]["uid"], wait=False)

    thread = when_there(world, delete)
    with pytest.raises(ClusterError, match="was deleted by someone else"):
        launch(world, "sleep")
    thread.join()


def test_a_job_of_the_same_name_is_adopted_or_refused(world: World) -> None:
    training = world.training("succeed")
    created = world.cluster.create_job(train_job(world.run, training, JobSettings(shared_memory="64Mi")))
    assert created
    launch(world, "succeed")
    found = world.cluster.job(world.run.job_name)
    assert found
    assert found["metadata"]["uid"] == created["metadata"]["uid"]
    other = replace(training, nodes=1)
    with pytest.raises(ClusterError, match=r"spec\.trainer\.numNodes: asked for 1, found 2"):
        run_job(
            world.cluster,
            world.run,
            lambda: lambda attempt: train_job(world.run, other, JobSettings(shared_memory="64Mi"), attempt),
            JobSettings(),
            "",
        )
