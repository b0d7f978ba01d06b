"""Checkpoints that are whole or not there: written aside, synced, listed with digests, renamed, checked on loading.

A checkpoint is the folder checkpoint-STEP with DeepSpeed's files (each rank writes its part), state.json, and the
marker COMPLETE, which holds the size and SHA-256 of every other file and is written last. Here they lie in a folder
that all ranks share; stored.py keeps them in an object store.
"""

import contextlib
import hashlib
import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO

import torch
import torch.distributed as dist
from deepspeed.runtime.checkpoint_engine.torch_checkpoint_engine import TorchCheckpointEngine

from components.errors import TrainingError
from components.store import MARKER

STATE = "state.json"
PARTIAL = ".partial-"
NAME = re.compile(r"checkpoint-\d+")


class SyncedWriter(TorchCheckpointEngine):
    """Writes DeepSpeed's files to disk for certain, and keeps an error for later.

    An error raised while one rank writes would leave the others waiting for it in a collective.
    """

    def __init__(self) -> None:
        super().__init__()
        self.written: dict[str, list[Any]] = {}
        self.error: str | None = None

    def makedirs(self, path: str, exist_ok: bool = False) -> None:
        with self._remembered():
            super().makedirs(path, exist_ok)

    def save(self, state_dict: Any, path: str) -> None:
        with self._remembered():
            self.written[Path(path).name] = write_synced(Path(path), lambda file: torch.save(state_dict, file))

    @contextlib.contextmanager
    def _remembered(self) -> Iterator[None]:
        try:
            yield
        except (OSError, RuntimeError) as error:
            self.error = self.error or reason(error)


class Checkpoints:
    """The checkpoints of one training.

    Args:
        folder: where they are; shared by all ranks.
        keep: how many of the newest stay; the best one stays besides.
        group: a process group on CPU, for what ranks tell each other; None for one rank.
    """

    def __init__(self, folder: Path, keep: int, group: Any = None) -> None:
        self.folder, self.keep, self.group = folder, keep, group
        self.failures = 0

    def save(self, engine: Any, state: dict[str, Any], frozen: bool) -> bool:
        """Writes checkpoint-STEP on all ranks together; where that fails, says so and leaves the earlier ones alone.

        Args:
            state: what the loop needs to go on, as JSON; step among it.
            frozen: whether some weights are not trained; those are left out.

        Returns:
            Whether it is there, the same on all ranks.
        """
        final = self.folder / f"checkpoint-{state['step']}"
        partial = self.folder / f"{PARTIAL}{final.name}"
        self._begin(partial, final)
        writer = engine.checkpoint_engine = SyncedWriter()
        engine.save_checkpoint(str(self.folder), tag=partial.name, save_latest=False, exclude_frozen_parameters=frozen)
        parts = self._gathered((writer.written, writer.error or self._keep(partial, final, writer.written)))
        failed = next((f"rank {rank}: {error}" for rank, (_, error) in enumerate(parts) if error), None)
        if failed is None and self._rank() == 0:
            files = {name: item for part, _ in parts for name, item in part.items()}
            failed = self._complete(partial, final, state, files)
        failed = self._gathered(failed)[0]
        if failed is not None:
            self.failures += 1
            self._give_up(partial, state["step"], failed)
        elif self._rank() == 0:
            self._prune(state.get("kept_step"))
        return failed is None

    def newest_sound(self) -> Path | None:
        """The newest checkpoint whose files are what its marker says; others are named and passed over."""
        chosen = next(filter(self._sound, newest_first(self.folder)), None) if self._rank() == 0 else None
        newest: Path | None = self._gathered(chosen)[0]
        return newest

    def of_step(self, step: int) -> Path | None:
        """The checkpoint of a step; None when it is not what its marker says, which is told."""
        path = self.folder / f"checkpoint-{step}"
        sound: bool = self._gathered(self._rank() == 0 and self._sound(path))[0]
        return path if sound else None

    def shown(self, checkpoint: Path) -> str:
        """Where a checkpoint is kept, for a message."""
        return str(checkpoint)

    def loaded(self) -> None:
        """Called on all ranks when the checkpoint that was found is in the engine."""

    def last(self) -> str:
        """The newest complete checkpoint, or none, for a message."""
        return next(iter(self.names()), "none")

    def names(self) -> list[str]:
        """The complete checkpoints, newest first."""
        return [checkpoint.name for checkpoint in newest_first(self.folder)]

    def acts(self) -> bool:
        """Whether this rank does what is done once for all that share its folder."""
        return self._rank() == 0

    def of_the_acting(self, value: Any) -> Any:
        """What the acting rank of this folder says; all ranks must ask."""
        return self._gathered(value)[0]

    def _begin(self, partial: Path, final: Path) -> None:
        """Before ranks write; DeepSpeed lets them wait for each other after this."""
        if self.acts():
            shutil.rmtree(partial, ignore_errors=True)

    def _keep(self, partial: Path, final: Path, written: dict[str, list[Any]]) -> str | None:
        """Brings what this rank has written to where it stays; gives the reason where it cannot."""
        return None

    def _sound(self, checkpoint: Path) -> bool:
        damage = damaged(checkpoint)
        if damage:
            print(f"train: {checkpoint} is damaged ({damage}) and is passed over", file=sys.stderr, flush=True)
        return damage is None

    def _give_up(self, partial: Path, step: int, failed: str) -> None:
        if self.acts():
            shutil.rmtree(partial, ignore_errors=True)
        if self._rank() != 0:
            return
        print(
            f"train: the checkpoint at step {step} could not be written ({failed}); training goes on; "
            f"the last good one is {self.last()}",
            file=sys.stderr,
            flush=True,
        )

    def _prune(self, kept_step: int | None) -> None:
        for left in self.folder.glob(f"{PARTIAL}*"):  # by attempts that were killed, or converted and loaded since
            shutil.rmtree(left, ignore_errors=True)
        for name in self.names()[self.keep :]:
            if step_of(name) != kept_step:
                self._remove(name)

    def _remove(self, name: str) -> None:
        # without its marker first, so that half of a folder never counts
        (self.folder / name / MARKER).unlink(missing_ok=True)
        shutil.rmtree(self.folder / name, ignore_errors=True)

    def _complete(self, partial: Path, final: Path, state: dict[str, Any], files: dict[str, list[Any]]) -> str | None:
        """Marks and renames what all ranks have written; gives the reason where it cannot."""
        try:
            text = json.dumps(state).encode()
            files[STATE] = write_synced(partial / STATE, lambda file: file.write(text))
            marker = json.dumps({"files": files}).encode()
            write_synced(partial / MARKER, lambda file: file.write(marker))
            _sync_folder(partial)
            shutil.rmtree(final, ignore_errors=True)  # a damaged one of the same step
            partial.rename(final)
            _sync_folder(final.parent)
        except OSError as error:
            return f"rank 0: {reason(error)}"
        return None

    def _rank(self) -> int:
        return dist.get_rank() if self.group is not None else 0

    def _gathered(self, value: Any) -> list[Any]:
        if self.group is None:
            return [value]
        values: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(values, value, group=self.group)
        return values


def newest_first(folder: Path) -> Iterator[Path]:
    """The complete checkpoints of a folder."""
    complete = (marker.parent.name for marker in folder.glob(f"checkpoint-*/{MARKER}"))
    yield from (folder / name for name in in_order(complete))


def in_order(names: Iterable[str]) -> list[str]:
    """Checkpoints' names, newest first; what is named otherwise is left out."""
    return sorted((name for name in names if NAME.fullmatch(name)), key=step_of, reverse=True)


def step_of(name: str) -> int:
    """The optimizer steps that a checkpoint has behind it."""
    return int(name.rpartition("-")[2])


def damaged(checkpoint: Path) -> str | None:
    """What is wrong with a checkpoint's files, or None."""
    try:
        files = json.loads((checkpoint / MARKER).read_text(encoding="utf-8"))["files"]
    except FileNotFoundError:
        return f"{MARKER} is missing"
    except (OSError, ValueError, KeyError):
        return f"{MARKER} cannot be read"
    with ThreadPoolExecutor() as pool:  # hashing lets go of the interpreter's lock
        problems = pool.map(lambda item: _problem(checkpoint / item[0], *item[1]), sorted(files.items()))
        return next(filter(None, problems), None)


class HashingFile:
    """A file being written, with the SHA-256 of what has been; it keeps an error that a caller covers up."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.sha256, self.size = file, hashlib.sha256(), 0
        self.error: OSError | None = None

    def write(self, data: bytes) -> int:
        """Writes all of it."""
        try:
            written = self.file.write(data)
        except OSError as error:
            self.error = error
            raise
        self.sha256.update(data)
        self.size += len(data)
        return written

    def flush(self) -> None:
        """Hands over to the system what Python has kept back."""
        self.file.flush()


def write_synced(path: Path, write: Callable[[Any], Any]) -> list[Any]:
    """Writes a file and waits until it is on disk; gives its size and SHA-256.

    Raises:
        OSError: it could not be written.
    """
    with path.open("wb") as raw:
        file = HashingFile(raw)
        try:
            write(file)
        except RuntimeError as error:  # torch covers up why a file could not be written
            raise file.error or error from error
        raw.flush()
        os.fsync(raw.fileno())
    return [file.size, file.sha256.hexdigest()]


def _problem(path: Path, size: int, sha256: str) -> str | None:
    if not path.is_file():
        return f"{path.name} is missing"
    if path.stat().st_size != size:
        return f"{path.name} has {path.stat().st_size} bytes instead of {size}"
    return None if _sha256(path) == sha256 else f"{path.name} has other content than was written"


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def reason(error: Exception) -> str:
    """An error in one line."""
    said = (getattr(error, "strerror", None) or str(error)).strip().splitlines()
    return said[0] if said else type(error).__name__


def universal(checkpoint: Path) -> Path:
    """The checkpoint in DeepSpeed's universal form, which any number of ranks can load.

    Raises:
        TrainingError: it cannot be converted.
    """
    from argparse import Namespace

    from deepspeed.checkpoint import ds_to_universal

    converted = checkpoint.with_name(f"{PARTIAL}universal-{checkpoint.name}")
    shutil.rmtree(converted, ignore_errors=True)
    options = Namespace(
        input_folder=str(checkpoint),
        output_folder=str(converted),
        num_extract_workers=1,
        num_merge_workers=1,
        keep_temp_folder=False,
        strict=True,
        inject_missing_state=True,
    )
    try:
        with contextlib.redirect_stdout(None):
            ds_to_universal.main(options)
    except Exception as error:
        raise TrainingError(
            f"{checkpoint} was written by another number of ranks and cannot be converted: {reason(error)}"
        ) from error
    return converted
