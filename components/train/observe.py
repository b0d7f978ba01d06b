"""What a launcher sees of a cluster, kept up to date in the background: objects, and the log of the first node."""

import threading
import time
from collections.abc import Callable
from typing import Any

from kubernetes.client import ApiException
from urllib3.exceptions import HTTPError

from components.errors import ClusterError
from components.train.kubernetes import Cluster, Listing
from components.train.outcome import node_rank, phase, restart_of
from components.train.retry import Backoff
from components.train.trainjob import NODE

SLACK_SECONDS = 5  # log lines are asked for again from a little before the last one; what was shown is left out


class Watched:
    """The objects of a listing, as last reported.

    Args:
        changed: notified whenever something was reported.
        seen: called with each object, and again when it has changed.
        remembers: whether ever() is asked for; what has gone is kept for it.
    """

    def __init__(
        self,
        listing: Listing,
        changed: threading.Condition,
        seen: Callable[[dict[str, Any]], None] = lambda _: None,
        remembers: bool = True,
    ) -> None:
        self._listing, self._changed, self._seen, self._remembers = listing, changed, seen, remembers
        self._stop = threading.Event()
        self._objects: dict[str, dict[str, Any]] = {}
        self._gone: dict[str, dict[str, Any]] = {}
        self._error: ClusterError | None = None
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()

    def now(self) -> list[dict[str, Any]]:
        """What exists.

        Raises:
            ClusterError: the listing cannot be had.
        """
        with self._changed:
            if self._error:
                raise self._error
            return list(self._objects.values())

    def ever(self) -> list[dict[str, Any]]:
        """What exists and what has existed, as it was last seen."""
        with self._changed:
            return [*self._gone.values(), *self._objects.values()]

    def refresh(self) -> None:
        """Lists everything at once, for a moment at which nothing may be missed."""
        content = self._listing.once()
        with self._changed:
            self._take("LISTED", content)

    def stop(self) -> None:
        """Follows no longer."""
        self._stop.set()

    def _follow(self) -> None:
        try:
            for kind, content in self._listing.follow(self._stop):
                with self._changed:
                    news = self._news(kind, content)
                    self._take(kind, content)
                    self._changed.notify_all()
                for entry in news:
                    self._seen(entry)
        except Exception as error:  # raised by now(); a watch that ended unnoticed would leave its launcher blind
            told = error if isinstance(error, ClusterError) else ClusterError(f"cannot follow the cluster: {error!r}")
            with self._changed:
                self._error = told
                self._changed.notify_all()

    def _news(self, kind: str, content: Any) -> list[dict[str, Any]]:
        """Of what was listed or reported that which was not known; what goes away, as events do in time, is none."""
        entries = {"LISTED": content, "DELETED": []}.get(kind, [content])
        return [entry for entry in entries if _version(entry) != _version(self._objects.get(entry["metadata"]["uid"]))]

    def _take(self, kind: str, content: Any) -> None:
        gone = {}
        if kind == "LISTED":
            listed = {entry["metadata"]["uid"]: entry for entry in content}
            gone = {uid: entry for uid, entry in self._objects.items() if uid not in listed}
            self._objects = listed
        elif kind == "DELETED":
            self._objects.pop(content["metadata"]["uid"], None)
            gone = {content["metadata"]["uid"]: content}
        else:
            self._objects[content["metadata"]["uid"]] = content
        if self._remembers:
            self._gone |= gone


class FirstNodesLog:
    """Shows the log of the first node's pods, each line once, whatever becomes of the connection.

    Args:
        pods: the pods of the job.
        former: uids of pods whose log was shown before.
        show: called with each line.
    """

    def __init__(self, cluster: Cluster, pods: Watched, former: set[str], show: Callable[[str], None]) -> None:
        self._cluster, self._pods, self._show = cluster, pods, show
        self._stop = threading.Event()
        self._done = set(former)
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()

    def drain(self) -> None:
        """Waits a little, until what has been printed is shown."""
        end = time.monotonic() + self._cluster.pace.drain
        while self._waiting() and time.monotonic() < end and self._thread.is_alive():
            time.sleep(self._cluster.pace.first_delay / 10)

    def stop(self) -> None:
        """Follows no longer."""
        self._stop.set()

    def _waiting(self) -> list[dict[str, Any]]:
        started = [pod for pod in self._pods.ever() if node_rank(pod) == 0 and phase(pod) != "Pending"]
        return sorted(
            (pod for pod in started if pod["metadata"]["uid"] not in self._done),
            key=lambda pod: (pod["metadata"]["creationTimestamp"], restart_of(pod)),
        )

    def _follow(self) -> None:
        while not self._stop.is_set():
            for pod in self._waiting()[:1]:
                _PodLog(self._cluster, pod, self._pods, self._show, self._stop).follow()
                self._done.add(pod["metadata"]["uid"])
            self._stop.wait(self._cluster.pace.first_delay)


class _PodLog:
    """One pod's log, from its first line to its last."""

    def __init__(
        self, cluster: Cluster, pod: dict[str, Any], pods: Watched, show: Callable[[str], None], stop: threading.Event
    ) -> None:
        self._cluster, self._pods, self._show, self._stop = cluster, pods, show, stop
        self._name, self._uid = pod["metadata"]["name"], pod["metadata"]["uid"]
        self._last, self._repeats = "", 0  # the time of the last line shown, and how many lines had it
        self._received = time.monotonic()

    def follow(self) -> None:
        backoff = Backoff(self._cluster.pace)
        while not self._stop.is_set():
            ended = self._ended()
            try:
                self._read(backoff)
                if ended:
                    return  # it had ended before it was read to its end
                self._stop.wait(self._cluster.pace.first_delay)
            except (ApiException, HTTPError, OSError) as error:
                if isinstance(error, ApiException) and error.status == 404:
                    return  # the pod has gone, and its log with it
                try:
                    backoff.wait("follow the log", error, self._stop)
                except ClusterError:
                    return  # a log that cannot be had is no failure of the training

    def _ended(self) -> bool:
        current = {pod["metadata"]["uid"]: pod for pod in self._pods.ever()}
        return phase(current[self._uid]) in ("Succeeded", "Failed") if self._uid in current else True

    def _read(self, backoff: Backoff) -> None:
        # in the launcher's own time: the node's clock may be another
        since = round(time.monotonic() - self._received) + SLACK_SECONDS if self._last else None
        shown_then, seen_now = self._repeats, 0
        start = self._last
        lines = self._cluster.log(self._name, NODE, since)
        backoff.reset()
        for line in lines:
            stamp, _, text = line.partition(" ")
            moment = _sortable(stamp)
            if moment == start:
                seen_now += 1
            if moment < start or (moment == start and seen_now <= shown_then):
                continue
            self._repeats = self._repeats + 1 if moment == self._last else 1
            self._last, self._received = moment, time.monotonic()
            self._show(text)


def _version(entry: dict[str, Any] | None) -> Any:
    """What changes with an object: one that is listed lacks the fields kind and apiVersion of one that is reported."""
    return entry and entry["metadata"].get("resourceVersion")


def _sortable(stamp: str) -> str:
    """A time with its trailing zeros cut off, as one that sorts as text."""
    whole, _, fraction = stamp.removesuffix("Z").partition(".")
    return f"{whole}.{fraction:0<9}"
