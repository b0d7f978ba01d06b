"""One progress bar for every long piece of work: redrawn on a terminal, a line now and then in a log."""

import sys
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

from tqdm import tqdm

T = TypeVar("T")
LOG_INTERVAL_SECONDS = 5.0


def bar(description: str, total: int | None, unit: str) -> Any:
    """An open bar; call update() and close() on it."""
    terminal = sys.stdout.isatty()
    return tqdm(
        desc=description,
        total=total,
        unit=unit,
        file=sys.stdout,
        ascii=" #",
        mininterval=0.2 if terminal else LOG_INTERVAL_SECONDS,
        maxinterval=LOG_INTERVAL_SECONDS,
        miniters=1,
        ncols=None if terminal else 100,
        dynamic_ncols=terminal,
    )


def track(items: Iterable[T], description: str, total: int | None, unit: str) -> Iterator[T]:
    """The items, with a bar that counts them."""
    with bar(description, total, unit) as progress:
        for item in items:
            yield item
            progress.update()
