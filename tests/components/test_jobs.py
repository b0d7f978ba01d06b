"""The launcher against an API that behaves, and misbehaves: one job, followed to its end, and none left behind."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from itertools import groupby
from typing import Any

import pytest

from components.errors import ClusterError
from components.train.jobs import Build, run_job
from components.train.kubernetes import PERMISSIONS, Cluster
from components.train.trainjob import JobSettings, Training, train_job
from tests.cluster.nodes import OWN_POD, Nodes
from tests.cluster.play import PACE, RUN, SPEED, TRAINING, configuration, run_launcher
from tests.cluster.server import NAMESPACE, Fault, Server, Thing, now

GRANTED = {(group, resource, verb) for (group, resource), verbs in PERMISSIONS.items() for verb in verbs}


@pytest.fixture
def nodes() -> Iterator[Nodes]:
    server = Server()
    yield Nodes(server)
    server.close()
    assert set(server.state.calls) <= GRANTED


def jobs(nodes: Nodes) -> dict[str, Thing]:
    return nodes.server.state.objects["trainjobs"]


def creations(nodes: Nodes) -> int:
    """How many jobs there have ever been."""
    return len({thing["metadata"]["uid"] for _, kind, of, thing in nodes.server.state.history if of == "trainjobs"})


def succeed(nodes: Nodes) -> None:
    nodes.succeed(nodes.job())


def test_a_job_is_made_followed_and_its_log_shown(nodes: Nodes, capsys: pytest.CaptureFixture[str]) -> None:
    run_launcher(nodes, succeed)
    output = capsys.readouterr().out.splitlines()
    assert [line for line in output if line.startswith("step")] == ["step 1", "step 2"]
    assert output[0] == f"train: created TrainJob {RUN.job_name}, start 1"
    assert output[-1] == f"train: TrainJob {RUN.job_name} is complete"
    [job] = jobs(nodes).values()
    assert job["metadata"]["labels"]["private-llm/run-id"] == "run-1"
    assert job["metadata"]["ownerReferences"][0]["kind"] == "Workflow"


def test_the_nodes_that_run_are_reported(nodes: Nodes, capsys: pytest.CaptureFixture[str]) -> None:
    def script(nodes: Nodes) -> None:
        job = nodes.job()
        pods = nodes.start(job)
        nodes.until("running on 2 nodes")
        for pod in pods:
            nodes.end(pod, 0)
        nodes.finish(job)

    run_launcher(nodes, script)
    assert "train: running on 2 nodes with 8 processes each" in capsys.readouterr().out


# --- faults of the API: the job is made once, followed to its end, and nothing is printed twice ---

FAULTS = {
    "429 with Retry-After": [Fault(verb="create", resource="trainjobs", status=429, retry_after=2)],
    "500 and 503 on everything": [
        Fault(verb=verb, resource=resource, status=status)
        for status in (500, 503)
        for (_, resource), verbs in PERMISSIONS.items()
        for verb in verbs
        if verb != "delete"
    ],
    "the answer to a create is lost": [Fault(verb="create", resource="trainjobs", after=True)],
    "a create times out, though it was done": [Fault(verb="create", resource="trainjobs", status=504, after=True)],
    "connections are reset": [
        Fault(verb=verb, resource=resource)
        for (_, resource), verbs in PERMISSIONS.items()
        for verb in verbs
        if verb != "delete"
    ],
}


@pytest.mark.parametrize("faults", FAULTS.values(), ids=FAULTS.keys())
def test_an_api_that_fails_in_passing(nodes: Nodes, faults: list[Fault], capsys: pytest.CaptureFixture[str]) -> None:
    nodes.server.state.faults = list(faults)
    run_launcher(nodes, succeed)
    output = capsys.readouterr().out.splitlines()
    assert [line for line in output if line.startswith("step")] == ["step 1", "step 2"]
    assert creations(nodes) == 1


def test_retry_after_is_obeyed(nodes: Nodes) -> None:
    nodes.server.state.faults = [Fault(verb="create", resource="trainjobs", status=429, retry_after=100)]
    begun = time.monotonic()
    run_launcher(nodes, succeed)
    assert time.monotonic() - begun >= 100 * SPEED


def test_watches_expire_and_break(nodes: Nodes) -> None:
    def script(nodes: Nodes) -> None:
        job = nodes.job()
        nodes.server.forget()  # every watch from before is answered with 410
        nodes.server.break_streams()
        time.sleep(0.1)
        nodes.server.forget()
        nodes.succeed(job)

    run_launcher(nodes, script)
    assert creations(nodes) == 1


@pytest.mark.parametrize(
    "words",
    [
        '{"kind": "Status", "status": "Failure", "code": 500}',
        '{"type": "ERROR", "object": {"code": 500}}',
        "upstream connect error",
        "null",
    ],
)
def test_a_watch_in_which_something_else_is_said_is_begun_anew(nodes: Nodes, words: str) -> None:
    """As servers that restart and proxies do."""

    def script(nodes: Nodes) -> None:
        job = nodes.job()
        calls = nodes.server.state.calls
        nodes.server.wait(lambda: len([verb for _, _, verb in calls if verb == "watch"]) >= 4)
        nodes.server.say(words)
        time.sleep(0.2)
        nodes.succeed(job)

    settings = JobSettings(max_wait_hours=1, max_runtime_hours=1)
    run_launcher(nodes, script, settings=settings, pace=replace(PACE, hour=5.0))
    assert creations(nodes) == 1


def test_breaks_that_are_mended_do_not_add_up(nodes: Nodes, capsys: pytest.CaptureFixture[str]) -> None:
    def script(nodes: Nodes) -> None:
        job = nodes.job()
        pods = nodes.start(job)
        for number in range(8):
            nodes.server.write(pods[0], f"line {number}")
            nodes.server.break_streams()
            nodes.until(f"line {number}")
            time.sleep(0.25)
        for pod in pods:
            nodes.end(pod, 0)
        nodes.finish(job)

    run_launcher(nodes, script, pace=replace(PACE, patience=1.5))
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("line")]
    assert lines == [f"line {number}" for number in range(8)]


def test_an_api_that_is_away_for_ten_minutes(nodes: Nodes, capsys: pytest.CaptureFixture[str]) -> None:
    def script(nodes: Nodes) -> None:
        job = nodes.job()
        pods = nodes.start(job)
        nodes.server.write(pods[0], "before")
        nodes.until("before")
        nodes.server.state.away = True
        nodes.server.write(pods[0], "during")
        time.sleep(600 * SPEED)
        nodes.server.state.away = False
        nodes.server.write(pods[0], "after")
        for pod in pods:
            nodes.end(pod, 0)
        nodes.finish(job)

    run_launcher(nodes, script)
    output = capsys.readouterr().out.splitlines()
    assert [line for line in output if not line.startswith("train:")] == ["before", "during", "after"]
    assert creations(nodes) == 1
    assert len(jobs(nodes)) == 1


def test_an_api_that_stays_away_ends_the_step_and_names_it(nodes: Nodes) -> None:
    def script(nodes: Nodes) -> None:
        nodes.job()
        nodes.server.state.away = True

    impatient = replace(PACE, patience=0.3)
    with pytest.raises(ClusterError, match="the Kubernetes API did not answer for 0 s: cannot"):
        run_launcher(nodes, script, pace=impatient)


def test_a_token_that_is_renewed(nodes: Nodes) -> None:
    def reload(configuration: Any) -> None:
        configuration.api_key["authorization"] = f"Bearer {nodes.server.state.token}"

    def script(nodes: Nodes) -> None:
        job = nodes.job()
        nodes.server.state.token = "second"
        nodes.server.break_streams()
        nodes.succeed(job)

    run_launcher(nodes, script, reload=reload)
    assert creations(nodes) == 1


def test_a_log_that_breaks_off_is_shown_once_and_whole(nodes: Nodes, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [f"line {number}" for number in range(300)]

    def script(nodes: Nodes) -> None:
        job = nodes.job()
        pods = nodes.start(job)
        for start in range(0, 300, 20):
            nodes.server.write(pods[0], *lines[start : start + 20])  # twenty lines with one time
            nodes.server.break_streams()
            time.sleep(0.02)
        for pod in pods:
            nodes.end(pod, 0)
        nodes.finish(job)

    run_launcher(nodes, script)
    assert [line for line in capsys.readouterr().out.splitlines() if line.startswith("line")] == lines


def test_a_log_may_be_silent_for_longer_than_the_api_may_be_away(
    nodes: Nodes, capsys: pytest.CaptureFixture[str]
) -> None:
    def script(nodes: Nodes) -> None:
        job = nodes.job()
        pods = nodes.start(job)
        nodes.server.write(pods[0], "before")
        nodes.until("before")
        time.sleep(3)
        nodes.server.write(pods[0], "after")
        for pod in pods:
            nodes.end(pod, 0)
        nodes.finish(job)

    run_launcher(nodes, script, pace=replace(PACE, watch=0.5, patience=1.5))
    output = capsys.readouterr().out.splitlines()
    assert [line for line in output if not line.startswith("train:")] == ["before", "after"]


def test_a_missing_right_is_named(nodes: Nodes) -> None:
    nodes.server.state.faults = [Fault(verb="create", resource="trainjobs", status=403)]
    with pytest.raises(ClusterError, match="lacks a right that its Role must grant: 403"):
        run_launcher(nodes, lambda _: None)


@pytest.mark.parametrize(
    "message",
    [
        'admission webhook "validator.trainjob" denied the request: no such runtime',
        "ValidatingAdmissionPolicy 'images' with binding 'all' denied request: images must have a digest",
        "unable to create new content in namespace ml because it is being terminated",
    ],
)
def test_what_admission_forbids_is_no_missing_right(nodes: Nodes, message: str) -> None:
    nodes.server.state.faults = [Fault(verb="create", resource="trainjobs", status=403, message=message)]
    with pytest.raises(ClusterError) as error:
        run_launcher(nodes, lambda _: None)
    assert str(error.value) == f"the cluster refuses the TrainJob: 403 {message}"


def test_a_job_that_the_cluster_refuses_is_told_in_its_words(nodes: Nodes) -> None:
    nodes.server.state.faults = [Fault(verb="create", resource="trainjobs", status=422)]
    with pytest.raises(ClusterError, match="the cluster refuses the TrainJob: 422 the test's fault"):
        run_launcher(nodes, lambda _: None)


# --- a launcher after another ---


def existing(nodes: Nodes, training: Training = TRAINING) -> Thing:
    job = train_job(RUN, training, JobSettings())
    job["spec"] |= {"managedBy": "trainer.kubeflow.org/trainjob-controller", "suspend": False}
    return nodes.server.put("trainjobs", job)


def test_a_job_that_exists_is_adopted(nodes: Nodes, capsys: pytest.CaptureFixture[str]) -> None:
    existing(nodes)
    run_launcher(nodes, succeed)
    assert f"adopted TrainJob {RUN.job_name}" in capsys.readouterr().out
    assert creations(nodes) == 1


def long_ago(nodes: Nodes, job: Thing) -> Thing:
    """The job as if it had been made longer ago than it may wait, where an hour takes ten seconds."""
    job["metadata"]["creationTimestamp"] = datetime.fromtimestamp(time.time() - 600, UTC).isoformat()
    return nodes.server.put("trainjobs", job)


def test_a_job_that_has_run_for_long_is_adopted_though_its_pods_are_not_known_at_once(nodes: Nodes) -> None:
    pods = nodes.start(long_ago(nodes, existing(nodes)))
    nodes.server.state.faults = [Fault(verb="list", resource="pods", status=503)] * 6

    def script(nodes: Nodes) -> None:
        time.sleep(1)
        for pod in pods:
            nodes.end(pod, 0)
        nodes.finish(nodes.job())

    run_launcher(nodes, script, pace=replace(PACE, hour=10.0))
    assert creations(nodes) == 1


def test_a_job_that_waits_anew_is_adopted_with_all_of_its_time_to_wait(nodes: Nodes) -> None:
    job = long_ago(nodes, existing(nodes))
    suspend(nodes, job, True)

    def script(nodes: Nodes) -> None:
        time.sleep(0.3)
        suspend(nodes, job, False)
        nodes.succeed(nodes.job())

    run_launcher(nodes, script, pace=replace(PACE, hour=10.0))
    assert creations(nodes) == 1


def test_a_job_that_is_complete_already_is_adopted(nodes: Nodes) -> None:
    nodes.succeed(existing(nodes))
    run_launcher(nodes, lambda _: None)
    assert creations(nodes) == 1


def test_a_job_of_the_same_name_with_another_spec_is_left_alone(nodes: Nodes) -> None:
    existing(nodes, replace(TRAINING, image="other:1", nodes=4))
    with pytest.raises(ClusterError) as error:
        run_launcher(nodes, lambda _: None)
    assert "spec.trainer.image: asked for train:1, found other:1" in str(error.value)
    assert "spec.trainer.numNodes: asked for 2, found 4" in str(error.value)
    assert "managedBy" not in str(error.value)
    assert len(jobs(nodes)) == 1


def test_a_step_that_is_tried_again_starts_a_failed_job_again(nodes: Nodes) -> None:
    nodes.finish(existing(nodes), "Failed", "FailedJobs")
    run_launcher(nodes, lambda nodes: nodes.succeed(nodes.job(attempt=2)))
    assert creations(nodes) == 2


@pytest.mark.parametrize(
    ("code", "reason", "told"), [(2, "Error", "exit code 2: rate"), (137, "OOMKilled", "ran out of memory")]
)
def test_what_would_fail_again_is_told_again_and_not_started(
    nodes: Nodes, code: int, reason: str, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    job = existing(nodes)
    pods = nodes.start(job)
    nodes.server.write(pods[1], "the last line")
    nodes.end(pods[1], code, reason, "rate")
    nodes.finish(job, "Failed", "FailedJobs")
    with pytest.raises(
        ClusterError, match=rf"{told}.*it is not tried again: it would end the same way; start a new run"
    ):
        run_launcher(nodes, lambda _: None)
    assert "the last line" in capsys.readouterr().out
    assert creations(nodes) == 1


def test_pods_that_never_go_are_waited_for_and_named(nodes: Nodes, capsys: pytest.CaptureFixture[str]) -> None:
    nodes.server.state.pods_stay = True

    def lose_a_node(nodes: Nodes) -> None:
        job = nodes.job()
        nodes.disrupt(nodes.start(job)[0])
        nodes.finish(job, "Failed")

    with pytest.raises(
        ClusterError, match=r"has not gone for 1 h \(max_wait_hours\); delete pods of lost nodes by force"
    ):
        run_launcher(nodes, lose_a_node, settings=JobSettings(max_wait_hours=1), pace=replace(PACE, hour=0.3))
    assert "train: waiting for the pods of the last start to end" in capsys.readouterr().out
    assert creations(nodes) == 1


def test_a_job_that_is_being_deleted_is_waited_for(nodes: Nodes) -> None:
    job = existing(nodes)
    job["metadata"]["deletionTimestamp"] = "2026-11-23T10:00:00Z"

    def script(nodes: Nodes) -> None:
        time.sleep(0.1)
        nodes.server.remove("trainjobs", RUN.job_name)
        succeed(nodes)

    run_launcher(nodes, script)
    assert creations(nodes) == 2


# --- how a job ends ---


def fails(nodes: Nodes, script: Any, **arguments: Any) -> str:
    with pytest.raises(ClusterError) as error:
        run_launcher(nodes, script, **arguments)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_failure_is_that_of_the_node_that_failed_first(nodes: Nodes, capsys: pytest.CaptureFixture[str]) -> None:
    def script(nodes: Nodes) -> None:
        job = nodes.job()
        pods = nodes.start(job)
        nodes.server.write(pods[1], *(f"line {number}" for number in range(80)), "rank 9: CUDA error")
        nodes.end(pods[1], 1, message="rank 9: CUDA error", at="2026-11-23T10:00:00Z")
        nodes.end(pods[0], 75, at="2026-11-23T10:00:09Z")  # ended because the other did
        nodes.finish(job, "Failed", "FailedJobs", "jobset failed")

    message = fails(nodes, script)
    assert message == f"TrainJob {RUN.job_name} failed: node 1 failed with exit code 1: rank 9: CUDA error"
    shown = [line for line in capsys.readouterr().out.splitlines() if "-node-0-1-" in line]
    assert len(shown) == 50
    assert shown[-1].endswith("rank 9: CUDA error")
    assert len(jobs(nodes)) == 1, "a failed job stays to be looked at"


def test_memory_is_named_where_it_ran_out(nodes: Nodes) -> None:
    def script(nodes: Nodes) -> None:
        job = nodes.job()
        nodes.end(nodes.start(job)[0], 137, "OOMKilled")
        nodes.finish(job, "Failed")

    assert fails(nodes, script).endswith("failed: node 0 ran out of memory (OOMKilled, limit 8Gi)")


def test_a_deadline_is_named(nodes: Nodes) -> None:
    def script(nodes: Nodes) -> None:
        nodes.finish(nodes.job(), "Failed", "DeadlineExceeded", "TrainJob exceeded its active deadline")

    assert fails(nodes, script).endswith("ran out of time: TrainJob exceeded its active deadline")


def test_a_failure_without_pods_is_told_in_the_controllers_words(nodes: Nodes) -> None:
    def script(nodes: Nodes) -> None:
        nodes.finish(nodes.job(), "Failed", "TrainingRuntimeNotSupported", "unsupported runtime")

    assert fails(nodes, script).endswith("failed: TrainingRuntimeNotSupported: unsupported runtime")


@pytest.mark.parametrize("how", ["asks", "preempted"])
def test_an_interrupted_job_is_started_again(nodes: Nodes, how: str, capsys: pytest.CaptureFixture[str]) -> None:
    def script(nodes: Nodes) -> None:
        job = nodes.job()
        pods = nodes.start(job)
        nodes.server.write(pods[0], "first start")
        if how == "asks":
            nodes.end(pods[0], 75)
        else:  # the other node's ranks lose their peer and fail before the node that goes has ended
            nodes.disrupt(pods[0], at="2026-11-23T10:00:00Z")
            nodes.end(pods[1], 1, at="2026-11-23T10:00:01Z")
            nodes.end(pods[0], 143, at="2026-11-23T10:00:09Z")
        nodes.finish(job, "Failed", "FailedJobs")
        nodes.succeed(nodes.job(attempt=2))

    run_launcher(nodes, script)
    output = capsys.readouterr().out
    assert output.count("first start") == output.count("step 2") == 1
    assert "starting again, 1 of at most 10 times" in output
    assert creations(nodes) == 2
    assert len(jobs(nodes)) == 1


def test_restarts_have_a_budget(nodes: Nodes) -> None:
    def script(nodes: Nodes) -> None:
        for attempt in (1, 2, 3):
            job = nodes.job(attempt)
            nodes.end(nodes.start(job)[0], 75)
            nodes.finish(job, "Failed")

    message = fails(nodes, script, settings=JobSettings(max_restarts=2))
    assert "was interrupted 3 times, the last time because node 0 stopped to be resumed (exit code 75)" in message


def test_a_job_that_someone_deletes_is_not_made_anew(nodes: Nodes) -> None:
    def script(nodes: Nodes) -> None:
        nodes.start(nodes.job())
        time.sleep(0.1)
        nodes.server.remove("trainjobs", RUN.job_name)

    assert "was deleted by someone else while it ran" in fails(nodes, script)
    assert creations(nodes) == 1


# --- waiting ---


def suspend(nodes: Nodes, job: Thing, value: bool) -> None:
    """What a queue does with a job, and what Trainer says of it."""
    told = {"type": "Suspended", "status": str(value), "reason": "Queue", "message": "", "lastTransitionTime": now()}
    changed = {"spec": job["spec"] | {"suspend": value}, "status": {"conditions": [told]}}
    nodes.server.put("trainjobs", job | changed)


def unschedulable(status: Thing) -> None:
    text = "0/4 nodes are available: 4 Insufficient nvidia.com/gpu."
    told = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": text}
    status.update(conditions=[told], containerStatuses=[])


def test_what_a_job_waits_for_is_shown_once_and_told_in_the_end(
    nodes: Nodes, capsys: pytest.CaptureFixture[str]
) -> None:
    def script(nodes: Nodes) -> None:
        job = nodes.job()
        name = job["metadata"]["name"]
        nodes.event("other-job", "Pod", "FailedScheduling", "not ours")
        nodes.event(f"{name}-node-0", "Job", "FailedCreate", "exceeded quota: gpus, requested: nvidia.com/gpu=8")
        pod = nodes.pods(job)[0]
        waiting = {"reason": "ImagePullBackOff", "message": 'Back-off pulling image "train:1"'}
        image = [{"name": "node", "state": {"waiting": waiting}}]
        nodes.change(pod, lambda status: status.update(containerStatuses=image))
        nodes.until("ImagePullBackOff")
        for _ in range(3):
            nodes.change(pod, unschedulable)
            time.sleep(0.1)

    settings = JobSettings(max_wait_hours=1)
    message = fails(nodes, script, settings=settings, pace=replace(PACE, hour=4.0))
    assert "waited for more than 1 h (max_wait_hours) and is deleted; last heard: Unschedulable: 0/4 nodes" in message
    output = capsys.readouterr().out
    assert "Job FailedCreate: exceeded quota: gpus, requested: nvidia.com/gpu=8" in output
    assert "ImagePullBackOff" in output
    assert output.count("4 Insufficient nvidia.com/gpu.") == 1
    assert "not ours" not in output
    assert "waiting: 0 of 2 nodes have started" in output
    assert jobs(nodes) == {}


@pytest.mark.parametrize("again", ["listed", "expired"])
def test_an_event_of_before_is_not_the_last_that_was_heard(nodes: Nodes, again: str) -> None:
    """All are listed again whenever a watch ends, and each is reported again when the cluster drops it."""

    def script(nodes: Nodes) -> None:
        job = nodes.job()
        nodes.server.wait(lambda: ("", "events", "watch") in nodes.server.state.calls)  # reported first, not listed
        nodes.event(f"{job['metadata']['name']}-node-0", "Job", "FailedCreate", "exceeded quota: gpus")
        nodes.until("FailedCreate")
        pod = nodes.pods(job)[0]
        nodes.change(pod, unschedulable)
        nodes.until("Unschedulable")
        nodes.change(pod, lambda status: status.update(conditions=[]))
        time.sleep(0.5)  # until the launcher no longer hears it from the pod
        if again == "listed":
            nodes.server.break_streams()
        else:
            nodes.server.remove("events", "event-0")

    settings = JobSettings(max_wait_hours=1)
    message = fails(nodes, script, settings=settings, pace=replace(PACE, hour=4.0))
    assert "is deleted; last heard: Unschedulable: 0/4 nodes" in message


def test_queueing_does_not_count_as_running(nodes: Nodes, capsys: pytest.CaptureFixture[str]) -> None:
    def script(nodes: Nodes) -> None:
        job = nodes.job()
        suspend(nodes, job, True)
        time.sleep(5)  # longer than a job may run
        suspend(nodes, job, False)
        nodes.succeed(job)

    settings = JobSettings(max_wait_hours=100, max_runtime_hours=1)
    run_launcher(nodes, script, settings=settings, pace=replace(PACE, hour=4.0))
    assert "queued: the job is suspended until its queue admits it" in capsys.readouterr().out


def take_back(nodes: Nodes, job: Thing) -> list[str]:
    """A queue preempts a job that runs, and admits it again after longer than a job may run; gives its new pods."""
    pods = nodes.start(job)
    nodes.until("running on 2 nodes")
    suspend(nodes, job, True)
    nodes.until("queued")
    for pod in pods:
        nodes.end(pod, 75)
        nodes.server.remove("pods", pod)
    time.sleep(5)
    suspend(nodes, job, False)
    nodes.until("waiting: 0 of 2 nodes")
    return nodes.pods(job)


def test_a_job_that_its_queue_takes_back_waits_anew(nodes: Nodes, capsys: pytest.CaptureFixture[str]) -> None:
    def script(nodes: Nodes) -> None:
        job = nodes.job()
        pods = take_back(nodes, job)
        for pod in pods:
            nodes.change(pod, lambda status: status.update(phase="Running", startTime=now()))
        nodes.until("running on 2 nodes")
        for pod in pods:
            nodes.end(pod, 0)
        nodes.finish(job)

    settings = JobSettings(max_wait_hours=100, max_runtime_hours=1)
    run_launcher(nodes, script, settings=settings, pace=replace(PACE, hour=4.0))
    said = [line.partition(": ")[2] for line in capsys.readouterr().out.splitlines()]
    states = [line.partition(":")[0].partition(" on ")[0] for line in said if line.startswith(("run", "que", "wai"))]
    assert [state for state, _ in groupby(states)][-4:] == ["running", "queued", "waiting", "running"]
    assert creations(nodes) == 1


def test_a_failure_is_none_of_a_start_that_its_queue_took_back(nodes: Nodes) -> None:
    def script(nodes: Nodes) -> None:
        job = nodes.job()
        pods = take_back(nodes, job)
        for pod in pods:
            nodes.change(pod, lambda status: status.update(phase="Running", startTime=now()))
        nodes.end(pods[1], 1, message="rank 9: CUDA error")
        nodes.finish(job, "Failed", "FailedJobs")

    assert fails(nodes, script).endswith("failed: node 1 failed with exit code 1: rank 9: CUDA error")
    assert creations(nodes) == 1


def test_a_job_that_runs_too_long_is_deleted(nodes: Nodes) -> None:
    message = fails(
        nodes,
        lambda nodes: nodes.start(nodes.job()),
        settings=JobSettings(max_runtime_hours=1),
        pace=replace(PACE, hour=1.5),
    )
    assert "ran for more than 1 h (max_runtime_hours) and is deleted" in message
    assert jobs(nodes) == {}


# --- the launcher's own end ---


def stop_this_process() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def test_a_terminated_run_deletes_its_job_within_seconds(nodes: Nodes) -> None:
    stopped: list[float] = []

    def script(nodes: Nodes) -> None:
        nodes.start(nodes.job())
        time.sleep(0.1)
        stopped.append(time.monotonic())
        stop_this_process()

    assert "the run was terminated; TrainJob" in fails(nodes, script)
    assert time.monotonic() - stopped[0] < 2
    assert jobs(nodes) == {}


def test_a_run_that_is_terminated_while_its_job_is_made_leaves_none(nodes: Nodes) -> None:
    nodes.server.state.faults = [Fault(verb="create", resource="trainjobs", status=503, after=True, retry_after=200)]

    def script(nodes: Nodes) -> None:
        nodes.job()
        stop_this_process()

    assert "the run was terminated" in fails(nodes, script)
    assert jobs(nodes) == {}


def test_a_run_that_is_terminated_before_its_job_is_adopted_deletes_it(nodes: Nodes) -> None:
    existing(nodes)

    def prepare() -> Build:
        stop_this_process()
        time.sleep(5)
        raise AssertionError("the signal was not taken")

    with pytest.raises(ClusterError, match="the run was terminated"):
        run_job(Cluster(configuration(nodes.server), NAMESPACE, pace=PACE), RUN, prepare, JobSettings(), OWN_POD)
    assert jobs(nodes) == {}


def test_a_launcher_that_fails_leaves_no_job_behind(nodes: Nodes) -> None:
    def script(nodes: Nodes) -> None:
        nodes.start(nodes.job())
        nodes.server.state.faults = [Fault(verb="list", resource="events", status=403)]
        nodes.server.break_streams()

    assert "lacks a right" in fails(nodes, script)
    assert jobs(nodes) == {}


def test_a_terminated_run_deletes_its_job_through_an_api_that_fails(nodes: Nodes) -> None:
    def script(nodes: Nodes) -> None:
        nodes.start(nodes.job())
        nodes.server.state.faults = [
            Fault(verb="delete", resource="trainjobs", status=503),
            Fault(verb="delete", resource="trainjobs"),
        ]
        stop_this_process()

    assert "the run was terminated" in fails(nodes, script, pace=replace(PACE, cleanup=20))  # a slow machine's
    assert jobs(nodes) == {}


def test_an_evicted_launcher_leaves_the_job_to_its_successor(nodes: Nodes) -> None:
    def script(nodes: Nodes) -> None:
        nodes.start(nodes.job())
        time.sleep(0.1)
        nodes.disrupt(OWN_POD, reason="EvictionByEvictionAPI")
        time.sleep(0.1)
        stop_this_process()

    assert "this launcher is evicted; TrainJob" in fails(nodes, script)
    assert len(jobs(nodes)) == 1

    def go_on(nodes: Nodes) -> None:
        job = nodes.job()
        for pod in [name for name in nodes.server.state.objects["pods"] if "-node-" in name]:
            nodes.end(pod, 0)
        nodes.finish(job)

    run_launcher(nodes, go_on)
    assert creations(nodes) == 1


def test_no_thread_outlives_its_launcher(nodes: Nodes) -> None:
    before = set(threading.enumerate())
    run_launcher(nodes, succeed)
    nodes.server.close()
    left = [thread for thread in threading.enumerate() if thread not in before and "_follow" in thread.name]
    for thread in left:
        thread.join(10)
    assert [thread for thread in left if thread.is_alive()] == []
