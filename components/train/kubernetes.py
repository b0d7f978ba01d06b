"""The few calls to the Kubernetes API that a launcher makes. Each outlives an API that is slow, overloaded or away."""

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from kubernetes import client, config, watch
from kubernetes.client import ApiException
from urllib3.exceptions import HTTPError, ReadTimeoutError

from components.errors import ClusterError
from components.train.outcome import condition
from components.train.retry import Backoff, Pace, reason
from components.train.trainjob import GROUP, PLURAL, TRAINING, VERSION

# (API group, resource): verbs. Everything that a launcher calls, in its own namespace; its Role grants no more.
PERMISSIONS = {
    (GROUP, PLURAL): ("create", "delete", "get", "list", "watch"),
    ("", "pods"): ("get", "list", "watch"),
    ("", "pods/log"): ("get",),
    ("", "events"): ("list", "watch"),
}
TYPE: dict[str, Any] = {"group": GROUP, "version": VERSION, "plural": PLURAL}
PASSING = (
    0,
    401,
    408,
    429,
    500,
    502,
    503,
    504,
)  # answers that another try may change; 0: TLS broke, 401: the token was renewed
# Answers of 403 that no Role decides: a quota, a webhook or policy, a namespace that goes away.
OF_ADMISSION = ("exceeded quota", "denied the request", "denied request", "being terminated")
# What comes where a list or an event should: a proxy's or a restarting server's own words.
MALFORMED = (ValueError, KeyError, TypeError, AttributeError)
SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")


class Cluster:
    """A namespace of a Kubernetes cluster.

    Args:
        configuration: Where the API is, and how to be let in.
        reload: Reads the credentials again, when the API no longer knows them.
    """

    def __init__(
        self,
        configuration: client.Configuration,
        namespace: str,
        pace: Pace | None = None,
        reload: Callable[[client.Configuration], None] = lambda _: None,
    ) -> None:
        configuration.retries = False  # retried here, where a create is known not to be repeated blindly
        self.namespace, self.pace = namespace, pace or Pace()
        self._configuration, self._reload = configuration, reload
        api = client.ApiClient(configuration)
        self._core, self._custom = client.CoreV1Api(api), client.CustomObjectsApi(api)

    @classmethod
    def of_this_pod(cls) -> "Cluster":
        """The namespace that this pod runs in, with its service account.

        Raises:
            ClusterError: this is no pod, or it has no service account's token.
        """
        configuration = client.Configuration()
        try:
            config.load_incluster_config(configuration)
            namespace = (SERVICE_ACCOUNT / "namespace").read_text(encoding="utf-8").strip()
        except (config.ConfigException, OSError) as error:
            raise ClusterError(f"launcher: trainjob works in a pod of a cluster only: {error}") from None
        return cls(configuration, namespace, reload=config.load_incluster_config)

    def create_job(self, job: dict[str, Any]) -> dict[str, Any] | None:
        """The created TrainJob; None where one of that name exists, perhaps from a try whose answer was lost."""
        try:
            return dict(
                self.call("create the TrainJob", self._custom.create_namespaced_custom_object, body=job, **TYPE)
            )
        except ApiException as error:
            if error.status == 409:
                return None
            raise ClusterError(f"the cluster refuses the TrainJob: {reason(error)}") from None

    def job(self, name: str, patience: float | None = None) -> dict[str, Any] | None:
        """The TrainJob of a name, or None."""
        return self._found("read the TrainJob", self._custom.get_namespaced_custom_object, patience, name=name, **TYPE)

    def delete_job(self, name: str, uid: str, wait: bool, patience: float | None = None) -> None:
        """Deletes the TrainJob that has this uid, and no other of its name; its pods end with it.

        Args:
            wait: whether the object stays, marked, until the last of its pods has gone.
            patience: how long to try, in seconds.
        """
        options = {
            "propagationPolicy": "Foreground" if wait else "Background",
            "preconditions": {"uid": uid},
        }
        delete = self._custom.delete_namespaced_custom_object
        try:
            self.call("delete the TrainJob", delete, patience, name=name, body=options, **TYPE)
        except ApiException as error:
            if error.status not in (404, 409):  # gone already, or another one by now
                raise ClusterError(f"the TrainJob {name} cannot be deleted: {reason(error)}") from None

    def pod(self, name: str) -> dict[str, Any] | None:
        """The pod of a name, or None."""
        return self._found("read the pod", self._core.read_namespaced_pod, name=name)

    def last_lines(self, pod: str, container: str, lines: int) -> list[str]:
        """The end of a container's log; nothing where it cannot be had any more."""
        arguments = {"namespace": self.namespace, "container": container, "tail_lines": lines}
        try:
            response = self._core.read_namespaced_pod_log(
                pod, **arguments, _preload_content=False, _request_timeout=self.pace.request
            )
            return str(response.data.decode("utf-8", "replace")).splitlines()
        except (ApiException, HTTPError, OSError):
            return []

    def log(self, pod: str, container: str, since_seconds: int | None) -> Iterator[str]:
        """A container's log as it is written, each line after its time.

        Ends when the container does, or when nothing was written for as long as a watch is kept open.

        Raises:
            ApiException, HTTPError, OSError: the stream could not be opened, or broke.
        """
        response = self._core.read_namespaced_pod_log(
            pod,
            self.namespace,
            container=container,
            follow=True,
            timestamps=True,
            _preload_content=False,
            _request_timeout=(self.pace.request, self.pace.watch),
            **({"since_seconds": since_seconds} if since_seconds else {}),
        )

        def lines() -> Iterator[str]:
            try:
                yield from watch.watch.iter_resp_lines(response)
            except ReadTimeoutError:
                return
            finally:
                response.close()
                response.release_conn()

        return lines()

    def jobs_named(self, name: str) -> "Listing":
        """To be watched: the TrainJob of a name."""
        return Listing(self, self._custom.list_namespaced_custom_object, field_selector=f"metadata.name={name}", **TYPE)

    def unfinished_jobs(self) -> dict[str, str]:
        """The names of TrainJobs that queue or run, each with its training's digest; empty where it is none of ours."""
        jobs = Listing(self, self._custom.list_namespaced_custom_object, **TYPE).once()
        return {
            job["metadata"]["name"]: (job["metadata"].get("labels") or {}).get(TRAINING, "")
            for job in jobs
            if not (condition(job, "Complete") or condition(job, "Failed"))
        }

    def pods_of(self, job: str) -> "Listing":
        """To be watched: the pods of a TrainJob."""
        return Listing(self, self._core.list_namespaced_pod, label_selector=f"jobset.sigs.k8s.io/jobset-name={job}")

    def pods_named(self, name: str) -> "Listing":
        """To be watched: the pod of a name."""
        return Listing(self, self._core.list_namespaced_pod, field_selector=f"metadata.name={name}")

    def events(self) -> "Listing":
        """To be watched: what is reported in the namespace."""
        return Listing(self, self._core.list_namespaced_event)

    def ask(self, function: Callable[..., Any], **arguments: Any) -> Any:
        """One answer as the API's own JSON, from one try."""
        response = function(**arguments, _preload_content=False, _request_timeout=self.pace.request)
        return json.loads(response.data)

    def _found(
        self, what: str, function: Callable[..., Any], patience: float | None = None, **arguments: Any
    ) -> dict[str, Any] | None:
        try:
            return dict(self.call(what, function, patience, **arguments))
        except ApiException as error:
            if error.status == 404:
                return None
            raise ClusterError(f"cannot {what}: {reason(error)}") from None

    def call(self, what: str, function: Callable[..., Any], patience: float | None = None, **arguments: Any) -> Any:
        """An answer, tried for again while the API is away.

        Raises:
            ApiException: the API refuses.
            ClusterError: it may not be asked, or was away for longer than patience.
        """
        backoff = Backoff(self.pace, patience)
        while True:
            try:
                return self.ask(function, **{"namespace": self.namespace, **arguments})
            except (ApiException, HTTPError, OSError, json.JSONDecodeError) as error:
                if not self.passes(error):
                    raise
                backoff.wait(what, error)

    def passes(self, error: Exception) -> bool:
        """Whether trying again may help; renews the credentials where these are the reason.

        Raises:
            ClusterError: the launcher lacks a right.
        """
        if not isinstance(error, ApiException):
            return True
        if error.status == 403 and not any(words in str(error.body) for words in OF_ADMISSION):
            raise ClusterError(f"the launcher lacks a right that its Role must grant: {reason(error)}") from None
        if error.status == 401:
            self._reload(self._configuration)
        return error.status in PASSING


class Listing:
    """One list call that can be watched."""

    def __init__(self, cluster: Cluster, function: Callable[..., Any], **arguments: Any) -> None:
        self._cluster, self._function = cluster, function
        self._arguments = arguments | {"namespace": cluster.namespace}

    def follow(self, stop: threading.Event) -> Iterator[tuple[str, Any]]:
        """("LISTED", all objects), then ("ADDED" | "MODIFIED" | "DELETED", one), and listed again when a watch ends.

        Raises:
            ClusterError: the API may not be asked, or was away for too long.
        """
        backoff = Backoff(self._cluster.pace)
        while not stop.is_set():
            try:
                listed = self._cluster.ask(self._function, **self._arguments)
                backoff.reset()
                yield "LISTED", listed["items"] or []
                yield from self._watch(listed["metadata"]["resourceVersion"])
                stop.wait(self._cluster.pace.first_delay)  # a watch that ends at once must not become a storm
            except (ApiException, HTTPError, OSError, *MALFORMED) as error:
                if isinstance(error, ApiException) and error.status == 410:
                    stop.wait(self._cluster.pace.first_delay)  # what was listed is too old to be watched from
                    continue
                if isinstance(error, ApiException) and not self._cluster.passes(error):
                    raise ClusterError(f"cannot watch the cluster: {reason(error)}") from None
                backoff.wait("watch the cluster", error, stop)

    def once(self) -> list[dict[str, Any]]:
        """All objects as they are now."""
        return list(self._cluster.call("list what is watched", self._function, **self._arguments)["items"])

    def _watch(self, version: str) -> Iterator[tuple[str, Any]]:
        pace = self._cluster.pace
        events = watch.Watch(return_type=object).stream(  # plain JSON
            self._function,
            **self._arguments,
            resource_version=version,
            timeout_seconds=max(1, round(pace.watch)),
            _request_timeout=(pace.request, pace.watch + pace.request),
        )
        for event in events:
            yield event["type"], event["raw_object"]
