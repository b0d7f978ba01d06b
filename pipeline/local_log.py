"""What kfp.local prints, divided by step: all of it into a log a step, the steps' own lines on the terminal."""

import io
import logging
import re
import sys
import time
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from components.errors import PipelineError

COLOUR = re.compile(r"\x1b\[\d+m")
STARTED = re.compile(r"- INFO - Executing task '([\w-]+)'")
HIT = re.compile(r"- INFO - Task '?([\w-]+)'? cache hit \(key=(\w+)\)")
ENDED = re.compile(r"- (?:INFO|ERROR) - Task '([\w-]+)' finished with status (\w+)")
EXCEPTION = re.compile(r"^(?:\w+\.)*\w*(?:Error|Exception|Interrupt|Exit)\w*: (.+)$")
PROGRESS = re.compile(r"\d+%\||\d+\w+ \[")


class StepFailedError(PipelineError):
    """A step of a local run failed."""

    def __init__(self, step: str, reason: str, log: Path) -> None:
        super().__init__(f"step {step} failed: {reason}")
        self.step, self.reason, self.log = step, reason, log


class StepLog(io.TextIOBase):
    """Stands in for stdout while kfp.local runs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.steps: dict[str, dict[str, Any]] = {}
        self.cache_keys: dict[str, str] = {}  # the first digits of the keys of cached steps
        self._terminal = sys.stdout
        self._redirection = redirect_stdout(self)
        self._step: str | None = None
        self._file: Any = None
        self._line = ""
        self._reasons: dict[str, str] = {}
        self._failed: list[str] = []
        self._started = 0.0

    def __enter__(self) -> "StepLog":
        self.folder.mkdir(parents=True, exist_ok=True)
        self._redirection.__enter__()
        # kfp.local reports a cache hit to whatever handlers the root logger has
        self._handler = logging.StreamHandler(self)
        self._handler.setFormatter(logging.Formatter("%(asctime)s - %(levelname)s - %(message)s"))
        self._level = logging.root.level
        logging.root.addHandler(self._handler)
        logging.root.setLevel(logging.INFO)
        return self

    def __exit__(self, *error: Any) -> None:
        logging.root.removeHandler(self._handler)
        logging.root.setLevel(self._level)
        self._redirection.__exit__(*error)
        self._end_step()

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        """Takes text as it comes and handles it line by line."""
        self._line += text
        *lines, self._line = self._line.split("\n")
        for line in lines:
            self._take(COLOUR.sub("", line))
        return len(text)

    def failure(self, step: str | None = None) -> StepFailedError:
        """A step, the first that failed unless another is named, with the last exception in its log."""
        step = step or next(iter(self._failed), self._step) or "unknown"
        reason = self._reasons.get(step, "no reason was printed")
        return StepFailedError(step, reason, self.folder / f"{step}.log")

    def _take(self, line: str) -> None:
        if started := STARTED.search(line):
            self._begin_step(started[1], cached=False)
        elif hit := HIT.search(line):
            self._begin_step(hit[1], cached=True)
            self.cache_keys[hit[1]] = hit[2]
        elif ended := ENDED.search(line):
            self._failed = [step for step in self._failed if step != ended[1]]  # it may have been tried again
            self._failed += [ended[1]] if ended[2] == "FAILURE" else []
        if self._file is not None:
            self._file.write(line + "\n")
            self._file.flush()
        stripped = line.strip()
        if self._step and (exception := EXCEPTION.match(stripped)):
            self._reasons[self._step] = exception[1]
        if self._step and stripped.startswith((f"{self._step}: ", f"{self._step} ")):
            self._show(stripped)

    def _show(self, line: str) -> None:
        """Bars are redrawn in place on a terminal."""
        bar = self._terminal.isatty() and PROGRESS.search(line) is not None
        before = "\r\x1b[K" if self._terminal.isatty() else ""
        self._terminal.write(before + line + ("" if bar else "\n"))
        self._terminal.flush()

    def _begin_step(self, step: str, *, cached: bool) -> None:
        self._end_step()
        self._step, self._started = step, time.perf_counter()
        self._reasons.pop(step, None)
        self.steps[step] = {"seconds": 0.0, "cached": cached}
        if cached:
            self._show(f"{step}: unchanged, taken from the cache")
        else:
            self._file = (self.folder / f"{step}.log").open("w", encoding="utf-8")

    def _end_step(self) -> None:
        if self._step and not self.steps[self._step]["cached"]:
            self.steps[self._step]["seconds"] = round(time.perf_counter() - self._started, 3)
        if self._file is not None:
            self._file.close()
            self._file = None
