"""Checkpoints in an object store, for nodes that share no folder: each rank brings what it wrote, rank 0 the marker.

A node writes to a folder of its own and uploads from there; to resume it downloads the whole checkpoint, because a
rank may need what the ranks of other nodes wrote. The store's marker is the only one that counts.
"""

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

from components.errors import StorageError
from components.store import MARKER, Store
from components.train.checkpoints import STATE, Checkpoints, damaged, in_order, reason, write_synced


class StoredCheckpoints(Checkpoints):
    """The checkpoints of one training in an object store.

    Args:
        folder: of this node; emptied when a checkpoint has been uploaded or loaded.
        store: where they stay.
        keep, group: as of Checkpoints.
    """

    def __init__(self, folder: Path, store: Store, keep: int, group: Any = None) -> None:
        super().__init__(folder, keep, group)
        self.store = store
        self._local_rank = int(os.environ["LOCAL_RANK"])

    def newest_sound(self) -> Path | None:
        """The newest checkpoint whose files are what its marker says, downloaded to each node.

        Raises:
            StorageError: the store cannot be read, which does not mean that there is no checkpoint.
        """
        names: list[str] = self._gathered(self.names() if self._rank() == 0 else [])[0]
        return next(filter(None, map(self._brought, names)), None)

    def of_step(self, step: int) -> Path | None:
        """The checkpoint of a step, downloaded to each node; None when it is not what its marker says, which is told.

        Raises:
            StorageError: the store cannot be read.
        """
        return self._brought(f"checkpoint-{step}")

    def shown(self, checkpoint: Path) -> str:
        """Where a checkpoint is kept, for a message."""
        return f"{self.store.uri}/{checkpoint.name}"

    def loaded(self) -> None:
        """Makes room on this node's disk when all ranks have loaded."""
        self._gathered(None)
        if self.acts():
            shutil.rmtree(self.folder, ignore_errors=True)

    def names(self) -> list[str]:
        """The complete checkpoints in the store, newest first."""
        marked = (Path(name) for name in self.store.list() if name.endswith(f"/{MARKER}"))
        return in_order(str(path.parent) for path in marked)

    def acts(self) -> bool:
        """The first rank of each node."""
        return self._local_rank == 0

    def of_the_acting(self, value: Any) -> Any:
        """What the first rank of this node says."""
        return self._gathered(value)[self._rank() - self._local_rank]

    def _begin(self, partial: Path, final: Path) -> None:
        super()._begin(partial, final)
        if self._rank() == 0:
            try:
                self.store.remove(final.name)  # half of one, or a damaged one
            except StorageError as error:  # told when this one cannot be written either
                print(f"train: {error}", file=sys.stderr, flush=True)

    def _keep(self, partial: Path, final: Path, written: dict[str, list[Any]]) -> str | None:
        try:
            self.store.at(final.name).put(partial, written)
        except (StorageError, OSError) as error:
            return reason(error)
        return None

    def _complete(self, partial: Path, final: Path, state: dict[str, Any], files: dict[str, list[Any]]) -> str | None:
        try:
            text = json.dumps(state).encode()
            files[STATE] = write_synced(partial / STATE, lambda file: file.write(text))
            self.store.at(final.name).put(partial, [STATE])
            self.store.write(f"{final.name}/{MARKER}", json.dumps({"files": files}).encode())
        except (StorageError, OSError) as error:
            return f"rank 0: {reason(error)}"
        return None

    def save(self, engine: Any, state: dict[str, Any], frozen: bool) -> bool:
        """Writes checkpoint-STEP on all ranks together and uploads it; see Checkpoints.save."""
        written = super().save(engine, state, frozen)
        self.loaded()
        return written

    def _prune(self, kept_step: int | None) -> None:
        try:
            super()._prune(kept_step)
        except StorageError as error:
            print(f"train: old checkpoints are not removed: {error}", file=sys.stderr, flush=True)

    def _remove(self, name: str) -> None:
        self.store.remove(name)

    def last(self) -> str:
        """The newest complete checkpoint, or none, for a message."""
        try:
            return super().last()
        except StorageError:
            return "unknown, because the store cannot be read"

    def _brought(self, name: str) -> Path | None:
        """A checkpoint that has been downloaded to each node; None when it is damaged, which is told."""
        damage = self._download(name)
        if damage and self._rank() == 0:
            print(f"train: {self.shown(Path(name))} is damaged ({damage}) and is passed over", file=sys.stderr)
        return None if damage else self.folder / name

    def _download(self, name: str) -> str | None:
        """Brings a checkpoint to each node; gives what is wrong with it, the same on all ranks."""
        answers = self._gathered(self._download_here(name) if self.acts() else ("", ""))
        if unreadable := next((error for _, error in answers if error), None):
            raise StorageError(unreadable)
        return next((damage for damage, _ in answers if damage), None)

    def _download_here(self, name: str) -> tuple[str, str]:
        """What is wrong with the checkpoint, and why it could not be read."""
        target = self.folder / name
        shutil.rmtree(target, ignore_errors=True)
        try:
            marker = self.store.read(f"{name}/{MARKER}") or b""
            self.store.at(name).get(target, json.loads(marker)["files"])
            (target / MARKER).write_bytes(marker)
        except FileNotFoundError as error:
            return f"{Path(error.filename or str(error)).name} is missing", ""
        except (ValueError, KeyError):
            return f"{MARKER} cannot be read", ""
        except (StorageError, OSError) as error:
            return "", reason(error)
        return damaged(target) or "", ""
