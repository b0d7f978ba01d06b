"""Two clusters for the same tests: the test's own API with a script behind it, and a real one, by its kubeconfig."""

import sys
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from kubernetes import client, config

from components.train.kubernetes import Cluster
from components.train.trainjob import Run, Training
from tests.cluster.nodes import Nodes
from tests.cluster.play import PACE, TRAINING, configuration
from tests.cluster.server import NAMESPACE, Server, ServerClosedError

# What a node does, in Python. The test's own cluster plays the same.
PROGRAMS = {
    "succeed": "print('step 1'); print('step 2')",
    "fail": "import sys; print('rank 3: no luck'); sys.exit(3)",
    "resume": "import sys; sys.exit(75)",
    "sleep": "import time; time.sleep(600)",
}


class World(Protocol):
    """A cluster with Kubeflow Trainer."""

    cluster: Cluster
    run: Run

    def training(self, program: str) -> Training:
        """A TrainJob's content that does what a program does."""


class PlayedWorld:
    """The test's own API; whatever job appears there is played by its program's name."""

    def __init__(self, server: Server) -> None:
        self.nodes, self.run = Nodes(server), Run(namespace=NAMESPACE, run_id=str(uuid.uuid4()))
        self.cluster = Cluster(configuration(server), NAMESPACE, pace=PACE)
        threading.Thread(target=self._play_to_the_end, daemon=True).start()

    def training(self, program: str) -> Training:
        return replace(TRAINING, command=("play", program))

    def _play_to_the_end(self) -> None:
        with suppress(ServerClosedError):
            self._play()

    def _play(self) -> None:
        for attempt in range(1, 5):
            job = self.nodes.job(attempt)
            pods = self.nodes.start(job)
            match job["spec"]["trainer"]["command"][-1]:
                case "succeed":
                    self.nodes.server.write(pods[0], "step 1", "step 2")
                    code = 0
                case "fail":
                    self.nodes.server.write(pods[0], "rank 3: no luck")
                    code = 3
                case "resume":
                    code = 75
                case _:
                    return
            for pod in pods:
                self.nodes.end(pod, code, message="rank 3: no luck" if code == 3 else "")
            self.nodes.finish(job, "Failed" if code else "Complete")


class RealWorld:
    """A real cluster, in the namespace of the kubeconfig's context, with the TrainingRuntime of manifests/."""

    def __init__(self, kubeconfig: Path, image: str) -> None:
        known = client.Configuration()
        config.load_kube_config(str(kubeconfig), client_configuration=known)
        _, active = config.list_kube_config_contexts(str(kubeconfig))
        namespace = active["context"].get("namespace", "default")
        self.cluster = Cluster(known, namespace)
        self.run = Run(namespace=namespace, run_id=str(uuid.uuid4()))
        self._image = image

    def training(self, program: str) -> Training:
        command = ("python", "-c", PROGRAMS[program])
        return replace(TRAINING, image=self._image, command=command, processes=1, task_config={})


@contextmanager
def played() -> Iterator[World]:
    """The test's own cluster."""
    server = Server()
    try:
        yield PlayedWorld(server)
    finally:
        server.close()


@contextmanager
def real(kubeconfig: Path, image: str) -> Iterator[World]:
    """A real cluster; the test's job is deleted afterwards."""
    world = RealWorld(kubeconfig, image)
    try:
        yield world
    finally:
        if left := world.cluster.job(world.run.job_name):
            world.cluster.delete_job(world.run.job_name, left["metadata"]["uid"], wait=False)
            print(f"deleted {world.run.job_name}", file=sys.stderr)
