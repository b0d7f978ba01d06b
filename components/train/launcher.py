"""Where a training runs. Here: on this machine, with torchrun.

Asked to stop (SIGTERM, SIGINT), it lets the ranks write a checkpoint at their next step and ends with
RESUME_EXIT_CODE, which says: start me again, and I go on.
"""

import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from components.errors import ResumableError, TrainingError

RESUME_EXIT_CODE = ResumableError.exit_code
STOP_FILE = "PRIVATE_LLM_STOP_FILE"  # its appearance asks the ranks to stop
STOPPED_FILE = "PRIVATE_LLM_STOPPED_FILE"  # there a rank says where it has stopped
POLL_SECONDS = 0.1
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
        ResumableError: it was asked to stop.
    """
    files = {name: scratch / name.lower() for name in (STOP_FILE, STOPPED_FILE, "TORCHELASTIC_ERROR_FILE")}
    command = [sys.executable, "-m", "torch.distributed.run", f"--nproc_per_node={processes}"]
    command += [] if "PET_NNODES" in os.environ else ["--standalone"]
    command += ["-m", "components.train", *module_arguments]
    # In a session of its own, so that a terminal's Ctrl-C reaches this process alone.
    with subprocess.Popen(
        command,
        env=_environment(processes) | {name: str(path) for name, path in files.items()},
        start_new_session=True,
        preexec_fn=die_with_parent,  # noqa: PLW1509  # nothing but a system call
    ) as process:
        asked = _wait(process, files[STOP_FILE], grace_seconds)
    if asked:
        where = files[STOPPED_FILE].read_text(encoding="utf-8") if files[STOPPED_FILE].exists() else "stopped"
        raise ResumableError(f"{where} on request")
    if process.returncode != 0:
        raise TrainingError(
            f"training failed: {reason(files['TORCHELASTIC_ERROR_FILE'])}"
            if files["TORCHELASTIC_ERROR_FILE"].exists()
            else f"training failed: torchrun exited with code {process.returncode}"
        )
    if files[STOPPED_FILE].exists():  # another node was asked
        raise ResumableError(files[STOPPED_FILE].read_text(encoding="utf-8"))


def _wait(process: "subprocess.Popen[bytes]", stop_file: Path, grace_seconds: float) -> bool:
    """Waits for torchrun's end; says whether it was asked for."""

    def ask(*_: Any) -> None:
        stop_file.touch()

    previous = {number: signal.signal(number, ask) for number in (signal.SIGTERM, signal.SIGINT)}
    deadline: float | None = None
    try:
        while process.poll() is None:
            if deadline is None and stop_file.exists():
                deadline = time.monotonic() + grace_seconds
                print(f"train: asked to stop; a checkpoint is written within {grace_seconds:g} s", flush=True)
            if deadline is not None and time.monotonic() > deadline:
                print(f"train: no rank has stopped within {grace_seconds:g} s; they are killed", file=sys.stderr)
                process.kill()  # the ranks die with it
                break
            time.sleep(POLL_SECONDS)
        process.wait()
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    return stop_file.exists()


def _environment(processes: int) -> dict[str, str]:
    tools = str(Path(sys.executable).parent)  # DeepSpeed calls ninja, which is installed beside Python
    return os.environ | {
        "PATH": os.pathsep.join([tools, os.environ.get("PATH", "")]),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS") or str(max(1, usable_cores() // processes)),
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONWARNINGS": "ignore",  # of the libraries; what concerns the user is an error
    }


def die_with_parent() -> None:
    """Has the kernel kill this process when the one that started it ends, so that nothing trains on unseen (Linux)."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "prctl"):
        libc.prctl(SET_PARENT_DEATH_SIGNAL, signal.SIGKILL)


def usable_cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0))


def reason(error_file: Path) -> str:
    """The first failing rank's number and own message, from torchrun's error file."""
    content = json.loads(error_file.read_text())
    message = content["message"]
    text = message if isinstance(message, str) else message["message"]
    return str(text).strip().splitlines()[-1]
