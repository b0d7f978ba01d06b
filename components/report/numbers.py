"""Numbers as people read them."""

from collections.abc import Sequence
from typing import Any

NOTHING = "–"
LONGEST = 1e12  # a larger number is told by its power of ten


def figure(value: float | None, digits: int = 3) -> str:
    """A number with its thousands apart; a dash where there is none."""
    if value is None:
        return NOTHING
    return f"{value:,.{digits}f}" if abs(value) < LONGEST else f"{value:.3e}"


def span(interval: Sequence[float] | None, digits: int = 3) -> str:
    """Both ends of an interval."""
    return NOTHING if interval is None else f"{figure(interval[0], digits)} to {figure(interval[1], digits)}"


def percent(share: float, interval: Sequence[float] | None = None) -> str:
    """A change as a share, and its interval where there is one."""
    around = f" ({interval[0]:+.1%} to {interval[1]:+.1%})" if interval else ""
    return f"{share:+.1%}{around}"


def change(over: dict[str, Any]) -> str:
    """How far bits per byte are above another model's, from the ratio that evaluate gives."""
    ratio, ends = over["bits_per_byte_ratio"], over["interval"]
    return NOTHING if ratio is None else percent(ratio - 1, ends and [end - 1 for end in ends])
