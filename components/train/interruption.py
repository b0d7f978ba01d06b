"""Stopping on request, at one step boundary on all ranks together.

Whoever started the ranks asks by creating a file that every rank of its node looks for. Each rank puts what it has
seen into an all-reduce whose answer is read one step later, so no step waits for it and all ranks get the same one.
"""

import os
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from components.train.launcher import STOP_FILE


class Interruption:
    """Whether the training has been asked to stop."""

    def __init__(self, group: Any = None) -> None:
        self._file = Path(os.environ[STOP_FILE]) if STOP_FILE in os.environ else None
        self._group = group
        self._flag = torch.zeros(1, dtype=torch.int32)
        self._pending: Any = None

    def agreed(self) -> bool:
        """Whether any rank had been asked at its previous call; every rank must call this equally often."""
        if self._group is None:
            return self._asked()
        if self._pending is not None:
            self._pending.wait()
        answer = bool(self._flag.item())
        self._flag.fill_(int(self._asked()))
        self._pending = dist.all_reduce(self._flag, group=self._group, async_op=True)
        return answer

    def _asked(self) -> bool:
        return self._file is not None and self._file.exists()
