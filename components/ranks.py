"""Several processes that torchrun starts and that share one evaluation: each scores every so-manyth batch.

A batch is the same whoever scores it, and a row stands in one batch, so sums over ranks are the rows' own values: the
number of ranks changes no bit of the result. On a CPU this holds while each process has as many threads: torch's vector
kernels round the end of a thread's share otherwise than the rest.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import distributed


def rank() -> int:
    """This process's number; 0 where there is only one."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def ranks() -> int:
    """How many processes share the evaluation."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


@contextmanager
def met() -> Iterator[None]:
    """Inside, the processes that torchrun started know of each other; without torchrun nothing happens."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield
        return
    distributed.init_process_group("gloo")  # only sums travel, once
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    try:
        yield
    finally:
        distributed.destroy_process_group()


def total(values: np.ndarray) -> np.ndarray:
    """The sum of an array over all ranks, on each of them."""
    if ranks() > 1:
        tensor = torch.from_numpy(values)  # shares the memory
        distributed.all_reduce(tensor)
    return values
