"""The curves as TensorBoard's files, written while the training goes on."""

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

GROUPS = {"loss": "train", "eval_loss": "eval"}  # TensorBoard puts what has one prefix together
NAMES = {"eval_loss": "loss"}
PREFIX = "events"


class Board:
    """One attempt's file of events in a folder; TensorBoard reads those of all attempts as one curve.

    A file that cannot be written is told once and costs the training nothing.

    Args:
        folder: where the files are.
        history: what the curve holds already, when the training resumes.
        step: from which step on this attempt's values replace those of earlier ones.
    """

    def __init__(self, folder: Path, history: Sequence[Mapping[str, float]], step: int) -> None:
        self._folder = folder
        self._writer: Any = None
        there = any(folder.glob(f"{PREFIX}.*"))  # else an attempt elsewhere has written what came before
        self._try(lambda: self._open(step))
        for point in history:
            if not there or point["step"] >= step:
                self.add(point)

    def add(self, point: Mapping[str, float]) -> None:
        """Writes a point of the curve: its step, and what was measured there."""
        if self._writer is not None:
            self._try(lambda: self._write(point))

    def close(self) -> None:
        """Closes the file."""
        if self._writer is not None:
            self._try(self._writer.close)

    def _open(self, step: int) -> None:
        # the parts of tensorboardX that write at once: its SummaryWriter hands over to a thread, where errors are lost
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import Event, SessionLog

        self._folder.mkdir(parents=True, exist_ok=True)
        self._writer = EventsWriter(str(self._folder / PREFIX), f".{time.time_ns()}")
        start = SessionLog(status=SessionLog.START)
        self._writer.write_event(Event(wall_time=time.time(), step=step, session_log=start))
        self._writer.flush()

    def _write(self, point: Mapping[str, float]) -> None:
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.proto.summary_pb2 import Summary

        values = [
            Summary.Value(tag=f"{GROUPS.get(name, 'train')}/{NAMES.get(name, name)}", simple_value=value)
            for name, value in point.items()
            if name != "step"
        ]
        self._writer.write_event(Event(wall_time=time.time(), step=int(point["step"]), summary=Summary(value=values)))
        self._writer.flush()

    def _try(self, write: Callable[[], object]) -> None:
        try:
            write()
        except OSError as error:
            self._writer = None
            lost = f"{self._folder} cannot be written ({error.strerror})"
            print(f"train: {lost}; training goes on without TensorBoard's files", file=sys.stderr, flush=True)
