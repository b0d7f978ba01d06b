"""What a process may take, by its machine and by its container."""

import os
from pathlib import Path

import psutil
import pytest

from components import limits

CORES = len(os.sched_getaffinity(0))


@pytest.fixture
def container(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a container finds its own limits; none at first, as on a machine without any."""
    monkeypatch.setattr(limits, "CONTAINER", tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("limit", "expected"),
    [("max 100000", CORES), ("50000 100000", 1), ("100000 100000", 1), (f"{CORES + 1}00000 100000", CORES)],
)
def test_cores_are_those_that_the_container_is_given_time_on(container: Path, limit: str, expected: int) -> None:
    assert limits.cores() == CORES
    (container / "cpu.max").write_text(f"{limit}\n", encoding="ascii")
    assert limits.cores() == expected


def test_a_core_in_part_counts_whole(container: Path) -> None:
    (container / "cpu.max").write_text("150000 100000\n", encoding="ascii")
    assert limits.cores() == min(CORES, 2)


def test_memory_is_no_more_than_the_containers(container: Path) -> None:
    total = psutil.virtual_memory().total
    assert 2**20 < limits.memory() <= total
    (container / "memory.max").write_text("max\n", encoding="ascii")
    assert 2**20 < limits.memory() <= total
    (container / "memory.max").write_text(f"{2**20}\n", encoding="ascii")
    assert limits.memory() == 2**20
