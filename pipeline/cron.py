"""Cron as KFP's scheduler reads it: six fields with seconds first, by github.com/robfig/cron 1.2.

KFP reads five fields as seconds to month, which is never what was meant. Here five fields are what crontab has, and
are sent with a 0 for the seconds before them.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import cached_property
from typing import Any
from zoneinfo import ZoneInfo

from components.errors import ParameterError

FIELDS = ("second", "minute", "hour", "day", "month", "weekday")
BOUNDS = ((0, 59), (0, 59), (0, 23), (1, 31), (1, 12), (0, 6))
MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
WEEKDAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
NAMED = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}
LEAST_APART = 300  # seconds between two instants: what an update of a schedule needs to find a quiet moment
MOST_DAYS = 5 * 366  # in which an instant must lie; KFP's scheduler gives up then too
DAY = 24 * 3600


@dataclass(frozen=True)
class Cron:
    """A cron expression.

    Args:
        fields: seconds, minutes, hours, days, months, weekdays, each as KFP's scheduler reads it.
    """

    fields: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> "Cron":
        """An expression of five or six fields, or @daily and its like.

        Raises:
            ParameterError: what it cannot be; or it fires more often than schedules may.
        """
        parts = NAMED.get(text.strip(), text).split()
        if len(parts) == 5:
            parts = ["0", *parts]
        if len(parts) != 6:
            raise ParameterError(
                f"cron={text!r} has {len(parts)} fields; give five (minute hour day month weekday), or six with the "
                f"seconds first, or one of {', '.join(NAMED)}"
            )
        try:
            cron = cls(tuple(_sundays(part) if place == 5 else part for place, part in enumerate(parts)))
            cron._check()
        except ParameterError as error:
            raise ParameterError(f"cron={text!r}: {error}") from None
        return cron

    def _check(self) -> None:
        apart = [
            after - before for before, after in zip(self.times, [*self.times[1:], self.times[0] + DAY], strict=True)
        ]
        if min(apart) < LEAST_APART:
            raise ParameterError(f"fires every {min(apart)} s; leave at least {LEAST_APART // 60} minutes in between")
        if next(self._days(date(2028, 1, 1)), None) is None:
            raise ParameterError("no such day exists, so it would never fire")

    def __str__(self) -> str:
        return " ".join(self.fields)

    @cached_property
    def sets(self) -> tuple[frozenset[int], ...]:
        """The values of each field."""
        return tuple(frozenset(_values(text, place)) for place, text in enumerate(self.fields))

    @cached_property
    def times(self) -> list[int]:
        """The times of a day at which it fires, in seconds since midnight."""
        seconds, minutes, hours = self.sets[:3]
        return sorted(h * 3600 + m * 60 + s for h in hours for m in minutes for s in seconds)

    def every(self, place: int) -> bool:
        """Whether a field leaves everything open, as robfig/cron has it: a star, also with a step."""
        return any(part[0] in "*?" for part in self.fields[place].split(","))

    def on(self, day: date) -> bool:
        """Whether it fires on a day. A day of the month and a weekday that both say something are either-or."""
        if day.month not in self.sets[4]:
            return False
        fits = (day.day in self.sets[3], day.isoweekday() % 7 in self.sets[5])
        return all(fits) if self.every(3) or self.every(5) else any(fits)

    def instants(self, after: datetime, zone: ZoneInfo) -> Iterator[datetime]:
        """When it fires after a time, day by day: not at a time that a zone's clocks skip, twice at one they repeat."""
        for day in self._days(after.astimezone(zone).date() - timedelta(days=1)):
            for time in self.times:
                wall = datetime(day.year, day.month, day.day) + timedelta(seconds=time)  # a wall's
                shown = (0, 1) if twice(wall, zone) else (0,) if exists(wall, zone) else ()
                for instant in (wall.replace(tzinfo=zone, fold=fold) for fold in shown):
                    if instant.astimezone(UTC) > after:  # two of one zone are compared without their folds
                        yield instant

    def _days(self, first: date) -> Iterator[date]:
        return (day for day in (first + timedelta(days=n) for n in range(MOST_DAYS)) if self.on(day))


def exists(wall: datetime, zone: ZoneInfo) -> bool:
    """Whether clocks in a zone ever show this time."""
    return wall.replace(tzinfo=zone).astimezone(UTC).astimezone(zone).replace(tzinfo=None) == wall


def twice(wall: datetime, zone: ZoneInfo) -> bool:
    """Whether clocks in a zone show this time twice."""
    early, late = (wall.replace(tzinfo=zone, fold=fold).utcoffset() for fold in (0, 1))
    return early != late and exists(wall, zone)


def _values(text: str, place: int) -> set[int]:
    low, high = BOUNDS[place]
    found: set[int] = set()
    for part in text.split(","):
        match = re.fullmatch(r"(\*|\?|\w+)(?:-(\w+))?(?:/(\d+))?", part, re.ASCII)
        if not match:
            raise ParameterError(f"{FIELDS[place]} {text!r} is not of numbers, ranges, lists, steps and *")
        first, last, step = match.groups()
        if first in "*?":
            if last:
                raise ParameterError(f"{FIELDS[place]} {text!r} must not have a range of *")
            begin, end = low, high
        else:
            begin = _number(first, place)
            end = _number(last, place) if last else high if step else begin
        for value in (begin, end):
            if not low <= value <= high:
                raise ParameterError(f"{FIELDS[place]} {value} is not from {low} to {high}")
        if begin > end or int(step or 1) == 0:
            raise ParameterError(f"{FIELDS[place]} {part!r} must rise")
        found |= set(range(begin, end + 1, int(step or 1)))
    return found


def _number(text: str, place: int) -> int:
    names: Any = {4: MONTHS, 5: WEEKDAYS}.get(place, ())
    if text.lower() in names:
        return int(names.index(text.lower())) + (place == 4)
    if not (text.isascii() and text.isdigit()):
        raise ParameterError(
            f"{FIELDS[place]} {text!r} is no number" + (f" and none of {', '.join(names)}" if names else "")
        )
    return int(text)


def _sundays(text: str) -> str:
    """A weekday field with the 7 that crontab takes for Sunday, and KFP does not, as 0."""
    if not re.search(r"\b7\b", re.sub(r"/\d+", "", text)):
        return text
    days: set[int] = set()
    for part in text.split(","):
        span, _, step = part.partition("/")
        first, _, last = span.partition("-")
        begin = _number(first, 5) if first not in ("*", "?") else 0
        end = _number(last, 5) if last else begin
        apart = _number(step, 5) if step else 1
        if not 0 <= begin <= end <= 7 or apart == 0:
            raise ParameterError(f"weekday {part!r} is not from 0 to 7, and rising")
        days |= {day % 7 for day in range(begin, end + 1, apart)}
    return listed(days, 5)


def listed(values: set[int] | frozenset[int], place: int) -> str:
    """A field of these values."""
    low, high = BOUNDS[place]
    return "*" if len(values) == high - low + 1 else ",".join(map(str, sorted(values)))
