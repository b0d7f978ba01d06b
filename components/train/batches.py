"""Which rows each rank takes at each micro-batch: every row once an epoch, on any number of ranks.

The global batches of an epoch depend on the seed, the epoch and the global batch size alone. The last one is
filled up with nothing rather than with repeated rows, so a loss over the global batch's targets stays exact.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import torch
from torch.utils.data import DataLoader, Sampler

from components.packing import flatten


@dataclass(kw_only=True)
class GlobalBatches(Sampler[list[int]]):
    """The row numbers of one rank's micro-batches, one list each; a list can be empty in the last global batch."""

    rows: int
    micro_batch: int
    accumulation: int
    rank: int
    world_size: int
    seed: int
    epoch: int = 0

    @property
    def global_batch(self) -> int:
        """Rows an optimizer step."""
        return self.micro_batch * self.accumulation * self.world_size

    def __len__(self) -> int:
        return -(-self.rows // self.global_batch) * self.accumulation

    def __iter__(self) -> Iterator[list[int]]:
        order = torch.randperm(self.rows, generator=torch.Generator().manual_seed(self.seed + self.epoch)).tolist()
        for index in range(len(self)):
            # micro-batch by micro-batch, then rank by rank: a global batch is one run of the order
            step, micro = divmod(index, self.accumulation)
            start = step * self.global_batch + (micro * self.world_size + self.rank) * self.micro_batch
            yield order[start : start + self.micro_batch]


class Rows(Sequence[dict[str, Any]]):
    """Token rows held in Arrow, read by number."""

    def __init__(self, table: Any) -> None:
        self.table = table

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def __getitem__(self, index: Any) -> Any:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: list[int]) -> list[dict[str, Any]]:
        """What DataLoader asks for: all rows of a batch at once."""
        return list(self.table.take(pa.array(indices, pa.int64())).to_pylist())


class EpochLoader(DataLoader[dict[str, torch.Tensor]]):
    """A loader of flattened micro-batches whose order follows the epoch that it is told."""

    def __init__(self, rows: Rows, batches: GlobalBatches, pin_memory: bool) -> None:
        super().__init__(rows, batch_sampler=batches, collate_fn=flatten, pin_memory=pin_memory)  # type: ignore[arg-type]
        self.batches = batches

    def set_epoch(self, epoch: int) -> None:
        """Called by transformers' Trainer at the start of each epoch."""
        self.batches.epoch = epoch
