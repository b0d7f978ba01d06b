"""What controllers and kubelets do with a TrainJob, one move at a time: tests say which."""

from collections.abc import Callable
from typing import Any

from tests.cluster.server import Server, Thing, now

OWN_POD = "private-llm-x7k2p-train-1"


class Nodes:
    """Plays the rest of the cluster behind the API."""

    def __init__(self, server: Server) -> None:
        self.server, self._unread = server, ""
        own = {"name": OWN_POD, "labels": {"pipeline/runid": "run-1"}}
        server.put("pods", {"metadata": own, "spec": {}, "status": {"phase": "Running"}})

    def job(self, attempt: int = 1) -> Thing:
        """The TrainJob of a start, once it exists."""
        jobs = self.server.state.objects["trainjobs"]

        def found() -> Any:
            ours = [
                job for job in jobs.values() if job["metadata"]["annotations"]["private-llm/attempt"] == str(attempt)
            ]
            return next((job for job in ours if "deletionTimestamp" not in job["metadata"]), None)

        job: Thing = self.server.wait(found)
        return job

    def hear(self, text: str) -> None:
        """The launcher prints."""
        with self.server.changed:
            self._unread += text
            self.server.changed.notify_all()

    def until(self, words: str) -> None:
        """Waits until the launcher prints these words, after those that were waited for before."""
        self.server.wait(lambda: words in self._unread)
        with self.server.changed:
            _, _, self._unread = self._unread.partition(words)

    def pods(self, job: Thing, restart: int = 0) -> list[str]:
        """Makes the job's pods; returns their names."""
        name, count = job["metadata"]["name"], job["spec"]["trainer"]["numNodes"]
        names = [f"{name}-node-0-{index}-a{job['metadata']['uid'][:2]}{restart}" for index in range(count)]
        for index, pod in enumerate(names):
            labels = {
                "jobset.sigs.k8s.io/jobset-name": name,
                "jobset.sigs.k8s.io/restart-attempt": str(restart),
                "batch.kubernetes.io/job-completion-index": str(index),
            }
            limits = job["spec"]["trainer"]["resourcesPerNode"]["limits"]
            spec = {"containers": [{"name": "node", "resources": {"limits": limits}}]}
            self.server.put(
                "pods", {"metadata": {"name": pod, "labels": labels}, "spec": spec, "status": {"phase": "Pending"}}
            )
        return names

    def start(self, job: Thing, restart: int = 0) -> list[str]:
        """Makes the job's pods and starts them."""
        names = self.pods(job, restart)
        for pod in names:
            self.change(pod, lambda status: status.update(phase="Running", startTime=now()))
        return names

    def change(self, pod: str, how: Callable[[Thing], Any]) -> None:
        """Changes a pod's status."""
        thing = self.server.get("pods", pod)
        assert thing
        how(thing["status"])
        self.server.put("pods", thing)

    def end(self, pod: str, code: int, reason: str = "Error", message: str = "", at: str = "") -> None:
        """A container ends."""
        ended = {"exitCode": code, "reason": reason, "message": message, "finishedAt": at or now()}
        status: Thing = {"phase": "Failed" if code else "Succeeded"}
        status |= {"containerStatuses": [{"name": "node", "state": {"terminated": ended}}]}
        self.change(pod, lambda known: known.update(status))

    def disrupt(self, pod: str, reason: str = "DeletionByTaintManager", at: str = "") -> None:
        """A pod is taken away with its node."""
        taken = {"type": "DisruptionTarget", "status": "True", "reason": reason, "message": "spot node reclaimed"}
        self.change(
            pod, lambda status: status.setdefault("conditions", []).append(taken | {"lastTransitionTime": at or now()})
        )

    def finish(self, job: Thing, kind: str = "Complete", reason: str = "AllJobsCompleted", message: str = "") -> None:
        """The job gets its final condition."""
        thing = self.server.get("trainjobs", job["metadata"]["name"])
        assert thing
        ended = {"type": kind, "status": "True", "reason": reason, "message": message, "lastTransitionTime": now()}
        thing["status"] = {"conditions": [ended]}
        self.server.put("trainjobs", thing)

    def succeed(self, job: Thing) -> None:
        """Everything ends well."""
        for pod in self.start(job):
            self.server.write(pod, "step 1", "step 2")
            self.end(pod, 0, "Completed")
        self.finish(job)

    def event(self, about: str, kind: str, reason: str, message: str) -> None:
        """Something is reported."""
        number = len(self.server.state.objects["events"])
        self.server.put(
            "events",
            {
                "metadata": {"name": f"event-{number}"},
                "involvedObject": {"kind": kind, "name": about},
                "type": "Warning",
                "reason": reason,
                "message": message,
                "lastTimestamp": now(),
            },
        )
