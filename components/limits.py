"""What this process may take of the machine: as much as there is, and no more than its container is given."""

import os
from math import ceil
from pathlib import Path

CONTAINER = Path("/sys/fs/cgroup")  # as a process in a container sees its own (cgroup v2)


def cores() -> int:
    """Processor cores, by affinity and by the container's limit on their time, rounded up."""
    allowed = len(os.sched_getaffinity(0))
    try:
        quota, period = (CONTAINER / "cpu.max").read_text(encoding="ascii").split()
        return max(1, min(allowed, ceil(int(quota) / int(period))))
    except (OSError, ValueError):  # no cgroup, or no limit in it
        return allowed


def memory() -> int:
    """Bytes of memory: what is free, or the container's limit where that is less."""
    import psutil

    free = int(psutil.virtual_memory().available)
    try:
        return min(free, int((CONTAINER / "memory.max").read_text(encoding="ascii")))
    except (OSError, ValueError):
        return free
