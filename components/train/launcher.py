"""Where a training runs. Here: on this machine, with torchrun."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from components.errors import TrainingError


def torchrun(module_arguments: list[str], processes: int, error_file: Path) -> None:
    """Runs `python -m components.train` on every rank of this node and waits for them.

    SIGTERM and SIGINT are passed on, so that no rank outlives the step.

    Args:
        processes: Ranks on this node.
        error_file: Where torchrun writes the first failing rank's reason.

    Raises:
        TrainingError: a rank failed; with its number, exit code and own message.
    """
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    command += ["-m", "components.train", *module_arguments]
    tools = str(Path(sys.executable).parent)  # DeepSpeed calls ninja, which is installed beside Python
    environment = os.environ | {
        "PATH": os.pathsep.join([tools, os.environ.get("PATH", "")]),
        "TORCHELASTIC_ERROR_FILE": str(error_file),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS") or str(max(1, usable_cores() // processes)),
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONWARNINGS": "ignore",  # of the libraries; what concerns the user is an error
    }
    with subprocess.Popen(command, env=environment) as process:
        previous = {
            number: signal.signal(number, lambda code, _: process.send_signal(code))
            for number in (signal.SIGTERM, signal.SIGINT)
        }
        try:
            code = process.wait()
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
    if code != 0:
        raise TrainingError(f"training failed: {reason(error_file) or f'torchrun exited with code {code}'}")


def usable_cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0))


def reason(error_file: Path) -> str | None:
    """The first failing rank's own message, from torchrun's error file."""
    if not error_file.exists():
        return None
    message = json.loads(error_file.read_text())["message"]
    text = message if isinstance(message, str) else message["message"]
    return str(text).strip().splitlines()[-1]
