"""The token rows that a training reads. Without torch, which the image that launches TrainJobs does not hold."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

Numbers = npt.NDArray[np.int64]
COLUMNS = ("id", "input_ids", "loss_start")


class Rows(Sequence[dict[str, Any]]):
    """Token rows held in Arrow, read by number."""

    def __init__(self, path: Path) -> None:
        self.table = pq.read_table(path, columns=list(COLUMNS))
        # one part a row group; Arrow's own take would first lay all of them together, anew for each batch
        self._parts = self.table["input_ids"].chunks
        self._ends = np.cumsum([len(part) for part in self._parts])

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def __getitem__(self, index: Any) -> Any:
        part = int(np.searchsorted(self._ends, index, side="right"))
        tokens = self._parts[part][index - int(self._ends[part])].values
        return {"input_ids": tokens.to_numpy().tolist(), "loss_start": int(self._starts[index])}

    def take(self, numbers: Sequence[int]) -> list[dict[str, Any]]:
        """Rows by their numbers, in that order."""
        return [self[number] for number in numbers]

    def ids(self, numbers: Sequence[int]) -> list[str]:
        """The record ids of rows."""
        return list(self.table["id"].take(pa.array(numbers, pa.int64())).to_pylist())

    @cached_property
    def lengths(self) -> Numbers:
        """Tokens of each row; shape (rows,)."""
        import pyarrow.compute as pc

        return np.asarray(pc.list_value_length(self.table["input_ids"]).to_numpy(), dtype=np.int64)

    @cached_property
    def targets(self) -> Numbers:
        """Target tokens of each row; shape (rows,). Nothing predicts a first token."""
        starts = np.maximum(1, self._starts)
        return np.asarray(np.maximum(0, self.lengths - starts), dtype=np.int64)

    @cached_property
    def _starts(self) -> Numbers:
        return np.asarray(self.table["loss_start"].to_numpy(), dtype=np.int64)
