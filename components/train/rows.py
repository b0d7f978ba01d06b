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


class Rows(Sequence[dict[str, Any]]):
    """Token rows held in Arrow, read by number."""

    def __init__(self, path: Path) -> None:
        self.table = pq.read_table(path)

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def __getitem__(self, index: Any) -> Any:
        return self.take([index])[0]

    def take(self, numbers: Sequence[int]) -> list[dict[str, Any]]:
        """Rows by their numbers, in that order."""
        return list(self.table.take(pa.array(numbers, pa.int64())).to_pylist())

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
        starts = np.maximum(1, self.table["loss_start"].to_numpy())
        return np.asarray(np.maximum(0, self.lengths - starts), dtype=np.int64)
