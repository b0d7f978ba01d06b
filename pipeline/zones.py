"""A cron of one time zone put into that of KFP's scheduler, which has a single one and no field for another.

Where the difference of the two zones changes with the clocks, a schedule becomes several recurring runs, one a period,
each with its start and its end.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

from components.errors import ParameterError
from pipeline.cron import DAY, Cron, exists, listed, twice

AHEAD = timedelta(days=366)  # for which periods are made; apply makes later ones when it comes to it


@dataclass(frozen=True, kw_only=True)
class Part:
    """One recurring run of a schedule.

    Args:
        key: the start of its period, which stays the same for good; empty where a schedule has only one.
        cron: in the scheduler's zone.
        start: the first instant that may fire; none where the period has begun.
        end: the last instant that may fire; none for the last period.
    """

    key: str
    cron: Cron
    start: datetime | None = None
    end: datetime | None = None


def zone_of(name: str) -> ZoneInfo:
    """A zone by its IANA name.

    Raises:
        ParameterError: there is none of this name.
    """
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        known = available_timezones()
        if not known:
            raise ParameterError("this machine has no time zones; install tzdata") from None
        like = sorted(zone for zone in known if zone.rpartition("/")[2].lower() == name.rpartition("/")[2].lower())
        hint = f"; did you mean {like[0]}?" if like else "; give an IANA name such as Europe/Berlin"
        raise ParameterError(f"time_zone={name!r} is unknown{hint}") from None


def parts(cron: Cron, zone: ZoneInfo, server: ZoneInfo, now: datetime) -> list[Part]:
    """The recurring runs that make up a schedule.

    Raises:
        ParameterError: it fires at a time that a change of clocks skips or repeats, or no cron in the scheduler's zone
            says the same.
    """
    _refuse_doubtful(cron, zone, now)
    if zone.key == server.key:
        return [Part(key="", cron=cron)]
    changes = _changes(zone, server, now - AHEAD, now + AHEAD)
    past = [change for change in changes if change <= now]
    bounds = [*past[-1:], *(change for change in changes if change > now)]
    if not past and bounds:
        raise ParameterError(f"the clocks of {zone.key} changed for the first time in a year; give the times in UTC")
    made = []
    for begin, end in zip(bounds or [now], [*bounds[1:], None], strict=True):
        made.append(
            Part(
                key=begin.strftime("%Y-%m-%d") if bounds else "",
                cron=_moved(cron, _difference(zone, server, begin if bounds else now), server),
                start=begin - timedelta(seconds=1) if begin > now else None,  # KFP fires after it, not at it
                end=end - timedelta(seconds=1) if end else None,
            )
        )
    return made


def _difference(zone: ZoneInfo, server: ZoneInfo, at: datetime) -> timedelta:
    return (at.astimezone(server).utcoffset() or timedelta()) - (at.astimezone(zone).utcoffset() or timedelta())


def _changes(zone: ZoneInfo, server: ZoneInfo, begin: datetime, end: datetime) -> list[datetime]:
    """When the two zones' difference changes."""
    found, at = [], begin
    while at < end:
        after = at + timedelta(days=1)
        if _difference(zone, server, at) != _difference(zone, server, after):
            low, high = int(at.timestamp()), int(after.timestamp())
            before = _difference(zone, server, at)
            while high - low > 1:
                middle = (low + high) // 2
                same = _difference(zone, server, datetime.fromtimestamp(middle, UTC)) == before
                low, high = (middle, high) if same else (low, middle)
            found.append(datetime.fromtimestamp(high, UTC))
        at = after
    return found


def _refuse_doubtful(cron: Cron, zone: ZoneInfo, now: datetime) -> None:
    """Such a time would be skipped once a year, or fire twice."""
    for change in _changes(zone, ZoneInfo("UTC"), now, now + AHEAD):
        for day in {(change.astimezone(zone) + timedelta(days=n)).date() for n in (-1, 0, 1)}:
            for time in cron.times if cron.on(day) else []:
                wall = datetime(day.year, day.month, day.day) + timedelta(seconds=time)  # a wall's
                if not exists(wall, zone) or twice(wall, zone):
                    how = "there twice" if exists(wall, zone) else "not there"
                    raise ParameterError(
                        f"{wall:%H:%M} in {zone.key} is {how} on {wall:%Y-%m-%d}, when the clocks change; "
                        "take another time"
                    )


def _moved(cron: Cron, by: timedelta, server: ZoneInfo) -> Cron:
    """The cron whose clock is ahead of this one's."""
    shift = int(by.total_seconds())
    if not shift:
        return cron
    moved = {divmod(time + shift, DAY) for time in cron.times}
    days = {day for day, _ in moved}
    times = {time for _, time in moved}
    hours, minutes = {time // 3600 for time in times}, {time // 60 % 60 for time in times}
    seconds = {time % 60 for time in times}
    whole = len(hours) * len(minutes) * len(seconds) == len(times)
    by_weekday = cron.every(3) and cron.every(4)
    simple = by_weekday and "/" not in cron.fields[3] + cron.fields[4]
    free = simple and cron.every(5) and "/" not in cron.fields[5]
    if not whole or (len(days) > 1 and not free) or (days != {0} and not simple):
        raise ParameterError(
            f"its times fall on other days or hours in {server.key}, where KFP's scheduler counts, and no one cron "
            f"says the same; make several schedules of it, or give it in {server.key}"
        )
    weekdays = cron.fields[5]
    if days != {0} and not free:
        weekdays = listed({(weekday + next(iter(days))) % 7 for weekday in cron.sets[5]}, 5)
    return Cron((listed(seconds, 0), listed(minutes, 1), listed(hours, 2), cron.fields[3], cron.fields[4], weekdays))
