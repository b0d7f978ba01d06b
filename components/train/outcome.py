"""What has become of a TrainJob, from the objects that the API shows: pure functions over their JSON."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from components.errors import ResumableError, UserError
from components.train.trainjob import NODE

Kind = Literal["succeeded", "failed", "interrupted", "deadline"]
RESUME, REFUSED = ResumableError.exit_code, UserError.exit_code
OUT_OF_MEMORY = "OOMKilled"  # in kubelet's words
# Ends of a pod that are the cluster's doing, in the words of kubelet and controllers without a DisruptionTarget.
TAKEN_AWAY = ("Evicted", "Preempting", "NodeLost", "NodeShutdown", "Shutdown", "Terminated", "UnexpectedAdmissionError")
STUCK = ("ImagePullBackOff", "ErrImagePull", "InvalidImageName", "CreateContainerConfigError", "CreateContainerError")


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a job ended.

    Args:
        kind: which of the ends that a launcher tells apart.
        reason: one line for the user.
        pod: whose log explains it.
        repeats: whether the same job would end the same way again: it ran out of memory, or refused its input.
    """

    kind: Kind
    reason: str
    pod: str = ""
    repeats: bool = False


@dataclass(frozen=True, kw_only=True)
class _End:
    time: str  # as Kubernetes writes it, so that text sorts as time does
    interrupted: bool
    reason: str
    pod: str
    repeats: bool = False


def outcome(job: dict[str, Any], pods: Iterable[dict[str, Any]]) -> Outcome | None:
    """How the job ended; None while it has not.

    What happened first decides: when one node goes, the others fail after it, and what ends last explains nothing.
    """
    if condition(job, "Complete"):
        return Outcome(kind="succeeded", reason="complete")
    failed = condition(job, "Failed")
    if not failed:
        return None
    if failed.get("reason") == "DeadlineExceeded":
        return Outcome(kind="deadline", reason=str(failed.get("message") or "it ran past its deadline"))
    ends = sorted(
        (end for pod in last_attempt(pods) for end in _ends(pod)), key=lambda end: (end.time, not end.interrupted)
    )
    if not ends:
        return Outcome(kind="failed", reason=f"{failed.get('reason')}: {failed.get('message')}")
    first = ends[0]
    kind: Kind = "interrupted" if first.interrupted else "failed"
    return Outcome(kind=kind, reason=first.reason, pod=first.pod, repeats=first.repeats)


def condition(thing: dict[str, Any], kind: str) -> dict[str, Any] | None:
    """A condition of an object, where it is true."""
    conditions = (thing.get("status") or {}).get("conditions") or []
    return next((entry for entry in conditions if entry["type"] == kind and entry["status"] == "True"), None)


def last_attempt(pods: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The pods of the latest start: a JobSet numbers its restarts, and what a queue took back comes with new pods."""
    listed = sorted(pods, key=lambda pod: str(pod["metadata"].get("creationTimestamp")))
    latest = max((restart_of(pod) for pod in listed), default=0)
    return list({node_of(pod): pod for pod in listed if restart_of(pod) == latest}.values())


def restart_of(pod: dict[str, Any]) -> int:
    """Which restart of its JobSet a pod belongs to, from 0."""
    return int((pod["metadata"].get("labels") or {}).get("jobset.sigs.k8s.io/restart-attempt", 0))


def node_of(pod: dict[str, Any]) -> tuple[str, int]:
    """Whose place a pod takes: the JobSet's part, and the rank in it."""
    labels = pod["metadata"].get("labels") or {}
    return str(labels.get("jobset.sigs.k8s.io/replicatedjob-name")), node_rank(pod)


def node_rank(pod: dict[str, Any]) -> int:
    """The pod's rank among the nodes, from 0."""
    return int((pod["metadata"].get("labels") or {}).get("batch.kubernetes.io/job-completion-index", 0))


def started(pods: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The pods of the latest start that have started."""
    return [pod for pod in last_attempt(pods) if phase(pod) != "Pending"]


def evicted(pod: dict[str, Any] | None) -> bool:
    """Whether a pod is being taken away by the cluster, rather than ended by its run."""
    return pod is not None and condition(pod, "DisruptionTarget") is not None


def phase(pod: dict[str, Any]) -> str:
    """Pending, Running, Succeeded or Failed."""
    return str((pod.get("status") or {}).get("phase", "Pending"))


def waiting_for(pods: Iterable[dict[str, Any]]) -> list[str]:
    """Why pods have not started, as their status says it; a line each."""
    lines = []
    for pod in last_attempt(pods):
        lines += [
            f"{entry.get('reason')}: {entry['message']}"
            for entry in (pod.get("status") or {}).get("conditions") or []
            if entry["type"] == "PodScheduled" and entry["status"] == "False" and entry.get("message")
        ]
        waiting = ((_container(pod) or {}).get("state") or {}).get("waiting") or {}
        if waiting.get("reason") in STUCK:
            lines.append(f"{waiting['reason']}: {waiting.get('message', '')}".rstrip(": "))
    return list(dict.fromkeys(lines))


def waits_since(job: dict[str, Any], pods: Iterable[dict[str, Any]]) -> float:
    """When a job that does not run began to wait, in seconds since 1970: it may have run before, and wait anew."""
    conditions = (job.get("status") or {}).get("conditions") or []
    times = [
        *(thing["metadata"].get("creationTimestamp") for thing in (job, *pods)),
        *(entry.get("lastTransitionTime") for entry in conditions if entry["type"] == "Suspended"),
    ]
    return max(seconds(time) for time in times if time)


def seconds(time: str) -> float:
    """Seconds since 1970 of a time as Kubernetes writes it."""
    return datetime.fromisoformat(time).timestamp()


def _ends(pod: dict[str, Any]) -> list[_End]:
    name, status = pod["metadata"]["name"], pod.get("status") or {}
    where = f"node {node_rank(pod)}"
    ends = []
    if taken := condition(pod, "DisruptionTarget"):
        text = f"{where} was taken away ({taken.get('reason')}: {taken.get('message', '')})"
        ends.append(_End(time=taken.get("lastTransitionTime") or "", interrupted=True, reason=text, pod=name))
    elif status.get("reason") in TAKEN_AWAY:
        text = f"{where} was taken away ({status['reason']}: {status.get('message', '')})"
        ends.append(_End(time="", interrupted=True, reason=text, pod=name))
    ended = ((_container(pod) or {}).get("state") or {}).get("terminated")
    if ended and ended["exitCode"] != 0:
        asked = ended["exitCode"] == RESUME
        repeats = ended["exitCode"] == REFUSED or ended.get("reason") == OUT_OF_MEMORY
        when, why = ended.get("finishedAt") or "", _explain(pod, ended)
        ends.append(_End(time=when, interrupted=asked, reason=why, pod=name, repeats=repeats))
    return ends


def _explain(pod: dict[str, Any], ended: dict[str, Any]) -> str:
    where = f"node {node_rank(pod)}"
    if ended.get("reason") == OUT_OF_MEMORY:
        limits = (pod["spec"]["containers"][0].get("resources") or {}).get("limits") or {}
        return f"{where} ran out of memory (OOMKilled, limit {limits.get('memory', 'unknown')})"
    if ended["exitCode"] == RESUME:
        return f"{where} stopped to be resumed (exit code {RESUME})"
    said = str(ended.get("message") or "").strip().splitlines()  # the end of its log, where the runtime asks for that
    return f"{where} failed with exit code {ended['exitCode']}" + (f": {said[-1].strip()[:500]}" if said else "")


def _container(pod: dict[str, Any]) -> dict[str, Any] | None:
    statuses = (pod.get("status") or {}).get("containerStatuses") or []
    return next((entry for entry in statuses if entry["name"] == NODE), None)
