"""Runs a launcher against the test's API while a script plays the cluster behind it."""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import replace
from typing import Any, TextIO, cast

from kubernetes import client

from components.train.jobs import run_job
from components.train.kubernetes import Cluster
from components.train.retry import Pace
from components.train.trainjob import JobSettings, Run, Training, train_job
from tests.cluster.nodes import OWN_POD, Nodes
from tests.cluster.server import NAMESPACE, Server

OWNER = {"apiVersion": "argoproj.io/v1alpha1", "kind": "Workflow", "name": "private-llm-x7k2p", "uid": "uid-1"}
RUN = Run(namespace=NAMESPACE, run_id="run-1", owner=OWNER)
TRAINING = Training(
    image="train:1",
    command=("true",),
    nodes=2,
    processes=0,
    env={},
    key="0123456789abcdef0123456789abcdef",
    dataset_digest="d",
    pipeline="private-llm",
    task_config={"resources": {"limits": {"cpu": "4", "memory": "8Gi", "nvidia.com/gpu": "8"}}},
)
# Two hundred times as fast as a cluster: ten minutes are three seconds. What only a stalled machine needs is not.
SPEED = 0.005
PACE = replace(Pace().scaled(SPEED), drain=5.0, request=10.0)
Script = Callable[[Nodes], Any]


def configuration(server: Server) -> client.Configuration:
    """How to reach the test's API."""
    known = client.Configuration(host=server.url)
    known.api_key["authorization"] = f"Bearer {server.state.token}"
    return known


class _Overheard:
    """What is printed, for the script to wait for too."""

    def __init__(self, to: TextIO, nodes: Nodes) -> None:
        self._to, self._nodes = to, nodes

    def write(self, text: str) -> int:
        self._nodes.hear(text)
        return self._to.write(text)

    def flush(self) -> None:
        self._to.flush()


@contextmanager
def playing(nodes: Nodes, script: Script, seconds: float = 60) -> Iterator[None]:
    """Plays the cluster in the background, and fails where the script does."""
    failed: list[BaseException] = []

    def play() -> None:
        try:
            script(nodes)
        except BaseException as error:  # raised below, where pytest sees it
            failed.append(error)
            if signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:  # a launcher that would wait for hours
                os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=play, daemon=True)
    thread.start()
    try:
        with redirect_stdout(cast(TextIO, _Overheard(sys.stdout, nodes))):
            yield
    finally:
        thread.join(seconds)
        if failed:
            raise failed[0]


def run_launcher(
    nodes: Nodes, script: Script, training: Training = TRAINING, settings: JobSettings | None = None, **cluster: Any
) -> None:
    """Runs a launcher to its end, and the script to its own."""
    known = settings or JobSettings()
    api = Cluster(configuration(nodes.server), NAMESPACE, **{"pace": PACE, **cluster})
    with playing(nodes, script):
        run_job(api, RUN, lambda: lambda attempt: train_job(RUN, training, known, attempt), known, OWN_POD)
