"""Which rows each rank takes at each optimizer step: every row once an epoch, on any number of ranks.

A step's global batch depends on the seed, the epoch and the global batch size alone. The last one of an epoch is
filled up with nothing rather than with repeated rows, so a loss over the global batch's targets stays exact.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from heapq import heapreplace
from typing import Any

import numpy as np
import torch

from components.packing import flatten
from components.train.rows import Numbers, Rows


@dataclass(frozen=True, kw_only=True)
class GlobalBatches:
    """How global batches are cut into micro-batches, and which of them a rank takes."""

    lengths: Numbers
    micro_batch: int
    accumulation: int
    rank: int
    world_size: int
    seed: int | None  # None: in the order of the file, for evaluation

    @property
    def size(self) -> int:
        """Rows an optimizer step."""
        return self.micro_batch * self.accumulation * self.world_size

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps in which every row is taken once."""
        return -(-len(self.lengths) // self.size)

    def rows(self, step: int) -> list[int]:
        """The rows of a global batch; step counts from 0 over all epochs."""
        epoch, index = divmod(step, self.steps_per_epoch)
        return [int(row) for row in self._order(epoch)[index * self.size : (index + 1) * self.size]]

    def micro_batches(self, step: int) -> list[list[int]]:
        """This rank's micro-batches of a step, as row numbers; one can be empty in the last global batch.

        Rows go, longest first, where the fewest tokens are, and micro-batches of about one size are computed at the
        same time. So no rank waits long for another, and none needs much more memory than the rest; each takes
        micro_batch rows on average.
        """
        cells: list[list[int]] = [[] for _ in range(self.accumulation * self.world_size)]
        filled = [(0, cell) for cell in range(len(cells))]  # a heap of tokens
        for row in sorted(self.rows(step), key=lambda row: (-self.lengths[row], row)):
            tokens, cell = filled[0]
            cells[cell].append(row)
            heapreplace(filled, (tokens + int(self.lengths[row]), cell))
        largest_first = sorted(filled, key=lambda item: (-item[0], item[1]))
        return [cells[cell] for _, cell in largest_first[self.rank :: self.world_size]]

    def _order(self, epoch: int) -> Numbers:
        if self.seed is None:
            return np.arange(len(self.lengths))
        return _permutation(len(self.lengths), self.seed + epoch)


def flattened(rows: Rows, batches: list[list[int]], device: torch.device) -> Iterator[dict[str, Any]]:
    """Micro-batches on the device; on a GPU the next one is made while this one is computed on."""

    def make(numbers: list[int]) -> dict[str, Any]:
        batch = flatten(rows.take(numbers))
        return {name: _pinned(value, device) for name, value in batch.items()}

    with ThreadPoolExecutor(1) as pool:
        upcoming = [pool.submit(make, numbers) for numbers in batches]
        for future in upcoming:
            yield {name: _moved(value, device) for name, value in future.result().items()}


def _pinned(value: Any, device: torch.device) -> Any:
    return value.pin_memory() if isinstance(value, torch.Tensor) and device.type == "cuda" else value


def _moved(value: Any, device: torch.device) -> Any:
    return value.to(device, non_blocking=True) if isinstance(value, torch.Tensor) else value


_orders: dict[tuple[int, int], Numbers] = {}


def _permutation(rows: int, seed: int) -> Numbers:
    """A random order; the last one is kept, because every step of an epoch asks for it."""
    if (rows, seed) not in _orders:
        _orders.clear()
        order = torch.randperm(rows, generator=torch.Generator().manual_seed(seed))
        _orders[rows, seed] = order.numpy()
    return _orders[rows, seed]
