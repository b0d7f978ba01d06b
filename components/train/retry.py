"""How long calls to the Kubernetes API wait for one another, and what their errors say."""

import json
import random
import threading
import time
from dataclasses import dataclass, fields

from kubernetes.client import ApiException

from components.errors import ClusterError


@dataclass(frozen=True, kw_only=True)
class Pace:
    """How fast a launcher looks and retries, in seconds. Tests run the same code faster, by scaling all of it.

    Args:
        first_delay: Wait after the first failed call; doubled after each further one.
        longest_delay: Where doubling ends.
        patience: How long the API may be away before the launcher gives up, and leaves the job running.
        request: Time for one answer.
        watch: How long one watch is kept open before everything is listed anew.
        tick: How often the launcher looks at what it knows, though nothing was reported.
        cleanup: How long a launcher that ends tries to delete its job.
        drain: How long the last log lines may take.
        hour: What an hour of the settings is.
    """

    first_delay: float = 1.0
    longest_delay: float = 30.0
    patience: float = 7200.0
    request: float = 30.0
    watch: float = 240.0
    tick: float = 15.0
    cleanup: float = 20.0
    drain: float = 30.0
    hour: float = 3600.0

    def scaled(self, factor: float) -> "Pace":
        """Every duration times a factor; an answer still gets a second at least."""
        durations = {entry.name: getattr(self, entry.name) * factor for entry in fields(self)}
        return Pace(**durations | {"request": max(1.0, durations["request"])})


class Backoff:
    """Waits longer after each failure, or as long as the API asks."""

    def __init__(self, pace: Pace, patience: float | None = None) -> None:
        self._pace, self._delay = pace, pace.first_delay
        self._patience = pace.patience if patience is None else patience
        self._end: float | None = None

    def reset(self) -> None:
        """After a success."""
        self._delay, self._end = self._pace.first_delay, None

    def wait(self, what: str, error: Exception, stop: threading.Event | None = None) -> None:
        """Sleeps.

        Raises:
            ClusterError: the API has been away for too long.
        """
        now = time.monotonic()
        self._end = self._end or now + self._patience
        if now > self._end:
            raise ClusterError(
                f"the Kubernetes API did not answer for {self._patience:.0f} s: cannot {what}: {reason(error)}"
            )
        delay = max(self._delay * random.uniform(0.75, 1.25), _asked_delay(error) * self._pace.first_delay)  # noqa: S311
        (stop.wait if stop else time.sleep)(delay)
        self._delay = min(2 * self._delay, self._pace.longest_delay)


def reason(error: Exception) -> str:
    """An API error in one line, without headers or tokens."""
    if not isinstance(error, ApiException):
        return f"{type(error).__name__}"
    try:
        message = json.loads(error.body)["message"]
    except (ValueError, KeyError, TypeError):
        message = error.reason
    return f"{error.status} {' '.join(str(message).split())[:500]}"


def _asked_delay(error: Exception) -> float:
    """Seconds that the API asks for in Retry-After, or 0."""
    headers = getattr(error, "headers", None) or {}
    try:
        return float(headers.get("Retry-After", 0))
    except ValueError:
        return 0.0
