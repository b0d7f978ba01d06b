"""Prepares blocks in their order: alone while there are few, then with one process a core."""

import multiprocessing
import os
import threading
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import chain
from typing import Any, NamedTuple

import orjson
import pyarrow as pa

from components.errors import PipelineError
from components.ingest.kept import Kept
from components.ingest.preparation import Preparation, Rules
from components.ingest.rows import Block
from components.ingest.shapes import Shape
from components.limits import cores

ALONE = 0.5  # seconds of processor time, before other processes are started, which takes as long
MOST = 16  # processes that are started unasked: more than one reader can give work to
AHEAD = 2  # blocks that stand in line for each process
COUNTS = "counts"


class Task(NamedTuple):
    """A block to prepare, its number among all blocks, and that of its file."""

    number: int
    file: int
    block: Block
    shape: Shape


class Done(NamedTuple):
    """A block's prepared rows, and what was counted on the way."""

    number: int
    file: int
    start: int
    rows: pa.RecordBatch
    counts: dict[str, Any]
    was_kept: bool  # from an earlier run


class Preparer:
    """Prepares blocks, or takes them from those that are kept. Each process has one."""

    def __init__(self, rules: Rules, kept: str) -> None:
        self.arguments = rules, kept
        self._prepare = Preparation(rules)
        self._kept = Kept(kept, rules) if kept else None

    def __call__(self, block: Block, shape: Shape) -> tuple[bytes, bool]:
        """A block's prepared rows, packed, and whether they were kept."""
        key = self._kept.key(block, shape) if self._kept else ""
        packed = self._kept.get(key) if self._kept else None
        if packed:
            return packed, True
        packed = pack(*self._prepare(block, shape))
        if self._kept:
            self._kept.put(key, packed)
        return packed, False


def prepared(tasks: Iterator[Task], prepare: Preparer, workers: int = 0) -> Iterator[Done]:
    """Blocks as they are when they are prepared, in their order.

    Args:
        prepare: does it in this process; others have one like it.
        workers: the number of processes; 0: one a core, when there is work for more than one.

    Raises:
        PipelineError: a process was killed.
    """
    wanted = workers or min(MOST, cores())
    spent = 0.0
    while (wanted == 1 or (not workers and spent < ALONE)) and (task := next(tasks, None)):
        started = time.process_time()
        done = _done(task, prepare(task.block, task.shape))
        spent += time.process_time() - started
        yield done
    first = next(tasks, None)
    if first is None:
        return
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(wanted, context, initializer=_begin, initargs=prepare.arguments)
    waiting: deque[tuple[Task, Future[tuple[bytes, bool]]]] = deque()
    try:
        for task in chain([first], tasks):
            waiting.append((task, pool.submit(_work, task.block, task.shape)))
            if len(waiting) > AHEAD * wanted:
                yield _done(*_next(waiting))
        while waiting:
            yield _done(*_next(waiting))
    except BrokenProcessPool:
        raise PipelineError(
            "a process that prepared rows ended before its time, most likely for want of memory; "
            "give ingest more memory or fewer cores"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def pack(rows: pa.RecordBatch, counts: dict[str, Any]) -> bytes:
    """Prepared rows and their counts as bytes."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, rows.schema) as writer:
        writer.write_batch(rows, custom_metadata={COUNTS: orjson.dumps(counts, option=orjson.OPT_SORT_KEYS)})
    return sink.getvalue().to_pybytes()  # type: ignore[no-any-return]


def unpack(packed: bytes) -> tuple[pa.RecordBatch, dict[str, Any]]:
    """What was packed."""
    with pa.ipc.open_stream(packed) as reader:
        rows, told = reader.read_next_batch_with_custom_metadata()
        return rows, orjson.loads(told[COUNTS])


def _next(waiting: "deque[tuple[Task, Future[tuple[bytes, bool]]]]") -> tuple[Task, tuple[bytes, bool]]:
    task, future = waiting.popleft()
    return task, future.result()


def _done(task: Task, made: tuple[bytes, bool]) -> Done:
    return Done(task.number, task.file, task.block.start, *unpack(made[0]), made[1])


_preparer: list[Preparer] = []  # of a worker process


def _begin(rules: Rules, kept: str) -> None:
    """What a worker process does first."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _preparer.append(Preparer(rules, kept))


def _work(block: Block, shape: Shape) -> tuple[bytes, bool]:
    return _preparer[0](block, shape)


def _end_with_parent() -> None:
    """A worker waits for work for ever, also when who gave it was killed."""
    if parent := multiprocessing.parent_process():
        parent.join()
        os._exit(1)
