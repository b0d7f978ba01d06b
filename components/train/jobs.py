"""Runs a training as a TrainJob: makes it or adopts it, follows it to its end, and cleans up after a terminated run."""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, cast

from components.errors import ClusterError
from components.train.kubernetes import Cluster
from components.train.observe import FirstNodesLog, Watched
from components.train.outcome import (
    Outcome,
    condition,
    evicted,
    outcome,
    seconds,
    started,
    waiting_for,
    waits_since,
)
from components.train.trainjob import NODE, JobSettings, Run, attempt_of, differences

LAST_LINES = 50
OF_A_QUEUE = ("Pending", "QuotaReserved", "Admitted", "Evicted", "Preempted")  # Kueue's, which are no warnings
START_ANEW = "it would end the same way; start a new run with other parameters or resources"

Build = Callable[[int], dict[str, Any]]


class Terminated(BaseException):
    """SIGTERM: this pod is to end. Not an Exception, so that no handler on the way takes it for a failure."""


def run_job(cluster: Cluster, run: Run, prepare: Callable[[], Build], settings: JobSettings, pod_name: str) -> None:
    """Runs the TrainJob of a run's training to its successful end.

    A job that is there already, from a launcher before this one, is adopted. A job that was preempted, or asked to go
    on later, is started again. When the run is terminated the job is deleted; when this launcher is evicted it is not.

    Args:
        prepare: brings the job's input in place, and returns what makes the job's object for the number of a start.
        pod_name: of the pod that this launcher runs in.

    Raises:
        ClusterError: the job failed, was deleted, waited or ran too long, or belongs to something else.
    """
    with _terminable():
        launcher = Launcher(cluster, run, settings, pod_name)
        try:
            launcher.run(prepare())
        except Terminated:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            launcher.leave()
        except Exception:
            launcher.give_up()
            raise
        finally:
            launcher.stop()


class Launcher:
    """One launcher's view of one job. See run_job."""

    def __init__(self, cluster: Cluster, run: Run, settings: JobSettings, pod_name: str) -> None:
        self._cluster, self._settings, self._name = cluster, settings, run.job_name
        self._changed = threading.Condition()
        self._job: dict[str, Any] | None = None
        self._former: set[str] = set()  # pods of starts before this one
        self._said: set[str] = set()
        self._state = self._reason = ""
        self._own = Watched(cluster.pods_named(pod_name), self._changed)
        self._watched = [self._own]

    def run(self, build: Build) -> None:
        """Starts or adopts the job, and starts it again while it is interrupted."""
        self._build = build
        self._job = self._adopt() or self._create(1)
        self._watch()
        while True:
            ended = self._follow()
            attempt = attempt_of(self._job)
            if ended.kind == "succeeded":
                self._say(f"TrainJob {self._name} is complete")
                return
            if ended.kind != "interrupted" or attempt > self._settings.max_restarts:
                raise ClusterError(self._explain(ended, attempt))
            self._say(f"{ended.reason}; starting again, {attempt} of at most {self._settings.max_restarts} times")
            self._delete(self._job)
            self._former = {pod["metadata"]["uid"] for pod in self._pods.ever()}
            self._job = self._create(attempt + 1)

    def leave(self) -> None:
        """What SIGTERM asks for.

        Raises:
            ClusterError: always, to end the step.
        """
        if any(evicted(pod) for pod in self._own.ever()):
            raise ClusterError(f"this launcher is evicted; TrainJob {self._name} goes on, and the next one adopts it")
        self._delete_now()
        raise ClusterError(f"the run was terminated; TrainJob {self._name} is deleted")

    def give_up(self) -> None:
        """After an error: a job that nobody follows must not go on holding its GPUs."""
        if self._job and not (condition(self._job, "Failed") or condition(self._job, "Complete")):
            with suppress(ClusterError):
                self._delete_now()

    def stop(self) -> None:
        """Lets go of the cluster."""
        for watched in self._watched:
            watched.stop()

    def _delete_now(self) -> None:
        """Deletes the job, first of all without asking anything: this process may have milliseconds."""
        deleted, patience = self._job["metadata"]["uid"] if self._job else None, self._cluster.pace.cleanup
        if deleted:
            self._cluster.delete_job(self._name, deleted, wait=False, patience=patience)
        found = self._cluster.job(self._name, patience=patience)
        if found and found["metadata"]["uid"] != deleted:  # made just before, or by an earlier launcher
            self._cluster.delete_job(self._name, found["metadata"]["uid"], wait=False, patience=patience)

    def _adopt(self) -> dict[str, Any] | None:
        """The job of an earlier launcher; None where there is none to go on with.

        Raises:
            ClusterError: a job of that name is not the one that is asked for.
        """
        found = self._cluster.job(self._name)
        if found is None:
            return None
        if found["metadata"].get("deletionTimestamp"):
            self._delete(found)
            return None
        if other := differences(self._build(attempt_of(found)), found):
            raise ClusterError(
                f"a TrainJob {self._name} exists with another spec ({'; '.join(other[:5])}); "
                "delete it, or start a new run"
            )
        if condition(found, "Failed"):  # told by the launcher that saw it; the step is tried again, and so is the job
            ended = cast(Outcome, outcome(found, self._cluster.pods_of(self._name).once()))
            if ended.repeats:
                raise ClusterError(f"{self._explain(ended, attempt_of(found))}; it is not tried again: {START_ANEW}")
            self._say(f"TrainJob {self._name} of an earlier try has failed; starting it again")
            self._delete(found)
            return self._create(attempt_of(found) + 1)
        self._say(f"adopted TrainJob {self._name}, which exists")
        return found

    def _create(self, attempt: int) -> dict[str, Any]:
        created = self._cluster.create_job(self._build(attempt))
        if created:
            self._said.clear()
            self._say(f"created TrainJob {self._name}, start {attempt}")
            return created
        return self._adopt() or self._create(attempt)

    def _delete(self, job: dict[str, Any]) -> None:
        """Deletes a job and waits until it and its pods have gone, so that two never run at once.

        Raises:
            ClusterError: they do not go, as on a node that is lost and still in the cluster's books.
        """
        uid, hours, pace = job["metadata"]["uid"], self._settings.max_wait_hours, self._cluster.pace
        if not job["metadata"].get("deletionTimestamp"):
            self._cluster.delete_job(self._name, uid, wait=True)
        end = time.monotonic() + hours * pace.hour
        while (found := self._cluster.job(self._name)) and found["metadata"]["uid"] == uid:
            self._say("waiting for the pods of the last start to end")
            if time.monotonic() > end:
                raise ClusterError(
                    f"TrainJob {self._name} is deleted and has not gone for {hours} h (max_wait_hours); "
                    "delete pods of lost nodes by force, and the step goes on when it is tried again"
                )
            time.sleep(pace.first_delay)

    def _watch(self) -> None:
        cluster = self._cluster
        self._jobs = Watched(cluster.jobs_named(self._name), self._changed)
        self._pods = Watched(cluster.pods_of(self._name), self._changed)
        self._events = Watched(cluster.events(), self._changed, self._tell, remembers=False)
        self._watched += [self._jobs, self._pods, self._events]

    def _follow(self) -> Outcome:
        """Follows one start of the job to its end, with its log."""
        log = FirstNodesLog(self._cluster, self._pods, self._former, lambda line: print(line, flush=True))
        try:
            return self._until_its_end(log)
        finally:
            log.stop()

    def _until_its_end(self, log: FirstNodesLog) -> Outcome:
        self._pods.refresh()  # before their watch has begun, a job that runs would seem to have waited all its life
        since, was_running = waits_since(self._current(), self._its_pods(self._pods.now())), False
        while True:
            self._job = job = self._current()
            if outcome(job, []):
                self._pods.refresh()  # the job's end may be known before its pods are
                log.drain()
                return cast(Outcome, outcome(job, self._its_pods(self._pods.ever())))
            pods = self._its_pods(self._pods.now())  # those that a queue took back no longer count
            count, suspended = len(started(pods)), bool(job["spec"].get("suspend"))
            is_running = count >= job["spec"]["trainer"]["numNodes"] and not suspended
            if is_running != was_running:
                since, was_running = _start(pods) if is_running else time.time(), is_running
            self._report(job, pods, count, is_running)
            self._limit(time.time() - since, is_running)
            with self._changed:
                self._changed.wait(self._cluster.pace.tick)

    @property
    def _metadata(self) -> dict[str, Any]:
        assert self._job is not None
        metadata: dict[str, Any] = self._job["metadata"]
        return metadata

    def _current(self) -> dict[str, Any]:
        """The job as it is now.

        Raises:
            ClusterError: somebody deleted it.
        """
        known = [job for job in self._jobs.now() if job["metadata"]["uid"] == self._metadata["uid"]]
        job = known[0] if known else self._cluster.job(self._name)  # asked, because a watch may be behind
        if job is None or job["metadata"]["uid"] != self._metadata["uid"] or job["metadata"].get("deletionTimestamp"):
            raise ClusterError(
                f"TrainJob {self._name} was deleted by someone else while it ran; "
                "its checkpoints are kept, and the step goes on from them when it is tried again"
            )
        return job

    def _its_pods(self, pods: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Of pods of the job's name those of its present start."""
        for watched in self._watched:
            watched.now()  # raises what a watch has met
        return [pod for pod in pods if pod["metadata"]["uid"] not in self._former]

    def _report(self, job: dict[str, Any], pods: list[dict[str, Any]], count: int, is_running: bool) -> None:
        trainer = job["spec"]["trainer"]
        if is_running:
            self._change(f"running on {trainer['numNodes']} nodes with {trainer['numProcPerNode']} processes each")
            progress = (job.get("status") or {}).get("trainerStatus") or {}
            if "progressPercentage" in progress:
                self._say(f"{progress['progressPercentage']} % done")
        elif job["spec"].get("suspend"):
            self._change("queued: the job is suspended until its queue admits it")
        else:
            self._change(f"waiting: {count} of {trainer['numNodes']} nodes have started")
            for line in waiting_for(pods):
                self._wait_for(line)

    def _tell(self, event: dict[str, Any]) -> None:
        """Shows an event that explains why the job waits: of the job, its pods, or its workload in a queue."""
        about = event.get("involvedObject") or {}
        when = event.get("lastTimestamp") or event.get("eventTime") or event["metadata"].get("creationTimestamp")
        if not self._job or self._name not in str(about.get("name")):
            return
        if when and seconds(when) < seconds(self._metadata["creationTimestamp"]):
            return
        if event.get("type") == "Warning" or str(event.get("reason")).startswith(OF_A_QUEUE):
            self._wait_for(f"{about.get('kind')} {event.get('reason')}: {event.get('message')}")

    def _wait_for(self, line: str) -> None:
        self._reason = " ".join(line.split())[:500]
        self._say(self._reason)

    def _limit(self, lasted: float, is_running: bool) -> None:
        hours = self._settings.max_runtime_hours if is_running else self._settings.max_wait_hours
        if lasted <= hours * self._cluster.pace.hour:
            return
        why = f"; last heard: {self._reason}" if self._reason else ""
        self._cluster.delete_job(self._name, self._metadata["uid"], wait=False)
        if is_running:
            raise ClusterError(f"TrainJob {self._name} ran for more than {hours} h (max_runtime_hours) and is deleted")
        raise ClusterError(f"TrainJob {self._name} waited for more than {hours} h (max_wait_hours) and is deleted{why}")

    def _explain(self, ended: Outcome, attempt: int) -> str:
        """The reason of a failure; the log's last lines are printed before it."""
        if ended.pod:
            for line in self._cluster.last_lines(ended.pod, NODE, LAST_LINES):
                print(f"{ended.pod}: {line}", flush=True)
        match ended.kind:
            case "deadline":
                return f"TrainJob {self._name} ran out of time: {ended.reason}"
            case "interrupted":
                return f"TrainJob {self._name} was interrupted {attempt} times, the last time because {ended.reason}"
            case _:
                return f"TrainJob {self._name} failed: {ended.reason}"

    def _change(self, state: str) -> None:
        """What the job does now, each time that it changes."""
        if state != self._state:
            self._state = state
            self._said.discard(state)
            self._say(state)

    def _say(self, line: str) -> None:
        """A line of progress, once."""
        if line not in self._said:
            self._said.add(line)
            print(f"train: {line}", flush=True)


def _start(pods: list[dict[str, Any]]) -> float:
    """When the last node started, in seconds since 1970."""
    times = [pod["status"]["startTime"] for pod in started(pods) if "startTime" in pod["status"]]
    return max(map(seconds, times), default=time.time())


@contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM becomes Terminated."""

    def terminate(_number: int, _frame: FrameType | None) -> None:
        raise Terminated

    previous = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
