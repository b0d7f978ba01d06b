"""Where a training runs. Here: on this machine, with torchrun.

Asked to stop (SIGTERM, SIGINT), it lets the ranks write a checkpoint at their next step and ends with
RESUME_EXIT_CODE, which says: start me again, and I go on.
"""

import ctypes
import logging
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from typing import Any

from components import errors
from components.errors import PipelineError, ResumableError, TrainingError, UserError
from components.limits import cores

RESUME_EXIT_CODE = ResumableError.exit_code
STOP_FILE = "PRIVATE_LLM_STOP_FILE"  # its appearance asks the ranks to stop
STOPPED_FILE = "PRIVATE_LLM_STOPPED_FILE"  # there a rank says where it has stopped
POLL_SECONDS = 0.1
TYPED = re.compile(r"[\w.]+:( |$)")
SET_PARENT_DEATH_SIGNAL = 1  # prctl(2)


def torchrun(module_arguments: list[str], processes: int, scratch: Path, grace_seconds: float) -> None:
    """Runs `python -m components.train` on every rank of this node and waits for them.

    Where Kubeflow Trainer has started this node (PET_NNODES), torchrun reads from the environment where the others are.

    Args:
        processes: ranks on this node.
        scratch: a folder for what ranks and launcher tell each other.
        grace_seconds: how long the ranks may go on when they were asked to stop, before they are killed.

    Raises:
        TrainingError: a rank failed; with its number and own message.
        UserError: a rank refused its input.
        ResumableError: it was asked to stop.
    """
    stop, stopped_file = stop_file(scratch), scratch / "stopped"
    options = [f"--nproc_per_node={processes}", *([] if "PET_NNODES" in os.environ else ["--standalone"])]
    command = [*options, "-m", "components.train", *module_arguments]
    with _environment(processes, {STOP_FILE: str(stop), STOPPED_FILE: str(stopped_file)}):
        agent = Agent(command)
        with _handling(lambda *_: stop.touch()):
            agent.start()
            _wait(agent, stop, grace_seconds)
    if stopped_file.exists():  # asked here, or on another node
        raise ResumableError(f"{stopped_file.read_text(encoding='utf-8')}, on request; start it again to go on")
    if agent.failure is not None and stop.exists():
        raise ResumableError("stopped on request, without a new checkpoint; start it again to go on")
    if agent.failure is not None:
        raise cause(agent.failure)  # and where it had finished before it could stop, it has finished


def stop_file(scratch: Path) -> Path:
    """The file whose appearance asks this node's ranks to stop."""
    return scratch / "stop"


@contextmanager
def preparing(scratch: Path) -> Iterator[None]:
    """Inside, before any rank has started, a signal to stop ends the work at once; there is nothing to save yet."""
    stopped = ResumableError("stopped on request, before the training had begun; start it again")

    def stop(*_: Any) -> None:
        stop_file(scratch).touch()  # for the ranks, should a library pass over the error
        raise stopped

    with _handling(stop):
        try:
            yield
        except Exception:
            if stop_file(scratch).exists():  # whatever a library has made of it
                raise stopped from None
            raise


@contextmanager
def _handling(handler: Callable[..., None]) -> Iterator[None]:
    """Inside, SIGTERM and SIGINT are handled so."""
    previous = {number: signal.signal(number, handler) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, before in previous.items():
            signal.signal(number, before)


class Agent(Thread):
    """torchrun's agent, in a thread, because it would take the process's signals for its own."""

    def __init__(self, command: list[str]) -> None:
        super().__init__(daemon=True)
        self.command = command
        self.failure: BaseException | None = None

    def run(self) -> None:
        """Starts the ranks and waits for them."""
        from torch.distributed import run

        logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # failures are told once, by cause()
        try:
            run.run(run.parse_args(self.command))  # type: ignore[no-untyped-call]
        except BaseException as failure:  # the launcher raises what it means
            self.failure = failure


def _wait(agent: Agent, stop: Path, grace_seconds: float) -> None:
    """Waits for the ranks' end; once the file is there that asks them to stop, not longer than their grace."""
    deadline: float | None = None
    while agent.is_alive():
        if deadline is None and stop.exists():
            deadline = time.monotonic() + grace_seconds
            print(f"train: asked to stop; a checkpoint is due within {grace_seconds:g} s", flush=True)
        if deadline is not None and time.monotonic() > deadline:
            print(f"train: the ranks have not stopped within {grace_seconds:g} s and are killed", file=sys.stderr)
            kill_ranks()
        agent.join(POLL_SECONDS)


def kill_ranks() -> None:
    """Ends every process that this one has started."""
    import psutil

    for child in psutil.Process().children(recursive=True):
        child.kill()


def cause(failure: BaseException) -> PipelineError:
    """The error to raise for what torchrun has raised: the failure that came first, in its own words."""
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    if not isinstance(failure, ChildFailedError):
        return TrainingError(f"training failed: {type(failure).__name__}: {failure}")
    # torchrun ends the other ranks with SIGTERM
    rank, first = min(
        failure.failures.items(), key=lambda item: (item[1].exitcode == -signal.SIGTERM, item[1].timestamp, item[0])
    )
    if first.exitcode < 0:
        name = signal.Signals(-first.exitcode).name
        hint = "; the node may have run out of memory" if name == "SIGKILL" else ""
        return TrainingError(f"training failed: rank {rank} was killed by {name}{hint}")
    written = first.error_file_data["message"]  # by the rank; a text where it could not write any
    message = written["message"] if isinstance(written, dict) else written
    kind, _, text = _first_line(str(message)).partition(": ")
    known = getattr(errors, kind, None)
    if isinstance(known, type) and issubclass(known, UserError):
        return known(text)
    told = text if isinstance(known, type) else f"{kind}: {text}"
    return TrainingError(f"training failed: rank {rank}: {told}")


def _first_line(message: str) -> str:
    """The line with the error's type, after which CUDA and torch explain and advise; with the next, if it says none."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    begin = next((number for number, line in enumerate(lines) if TYPED.match(line)), 0)
    return " ".join(lines[begin : begin + (2 if lines[begin].endswith(":") else 1)])


@contextmanager
def _environment(processes: int, more: dict[str, str]) -> Iterator[None]:
    """What the ranks need in theirs, which is a copy of this process's."""
    before = dict(os.environ)
    tools = str(Path(sys.executable).parent)  # DeepSpeed calls ninja, which is installed beside Python
    os.environ.update(
        more,
        PATH=os.pathsep.join([tools, os.environ.get("PATH", "")]),
        OMP_NUM_THREADS=os.environ.get("OMP_NUM_THREADS") or str(max(1, cores() // processes)),
        # threads that wait sleep: where other work shares the cores, spinning ones take these from who is waited for
        OMP_WAIT_POLICY=os.environ.get("OMP_WAIT_POLICY") or "PASSIVE",
        TOKENIZERS_PARALLELISM="false",
        PYTHONWARNINGS="ignore",  # of the libraries; what concerns the user is an error
    )
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def die_with_parent() -> None:
    """Has the kernel kill this process when the one that started it ends, so that nothing trains on unseen (Linux)."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "prctl"):
        libc.prctl(SET_PARENT_DEATH_SIGNAL, signal.SIGKILL)
