"""Cron, and its move from one time zone to another."""

from datetime import UTC, datetime, timedelta
from itertools import takewhile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.errors import ParameterError
from pipeline.cron import Cron
from pipeline.zones import Part, parts, zone_of

NOW = datetime(2026, 11, 28, 12, tzinfo=UTC)
ZONES = (
    "UTC",
    "Europe/Berlin",
    "America/New_York",
    "Asia/Kolkata",
    "Asia/Tokyo",
    "Australia/Lord_Howe",
    "Pacific/Apia",
)

READ = {
    "0 3 * * *": "0 0 3 * * *",
    "30 0 3 * * *": "30 0 3 * * *",
    "0 3 * * 7": "0 0 3 * * 0",
    "0 3 * * 5-7": "0 0 3 * * 0,5,6",
    "0 3 * * MON-FRI": "0 0 3 * * MON-FRI",
    "0 3 1 jan,jul ?": "0 0 3 1 jan,jul ?",
    "*/15 8-18/2 * * *": "0 */15 8-18/2 * * *",
    "@daily": "0 0 0 * * *",
    "@weekly": "0 0 0 * * 0",
}


@pytest.mark.parametrize(("text", "sent"), READ.items())
def test_five_fields_are_read_as_crontab_reads_them_and_sent_with_seconds(text: str, sent: str) -> None:
    assert str(Cron.parse(text)) == sent


@pytest.mark.parametrize(
    "text",
    [
        *("", "3", "0 3 * *", "0 24 * * *", "0 3 32 * *", "0 3 0 * *", "0 3 * 13 *", "0 3 * * 8", "0 3 * * mo"),
        *("a 3 * * *", "5-1 3 * * *", "0 3 */0 * *", "0 3 30 2 *", "*/4 * * * *", "*/10 * * * * *", "@every 1h"),
        *("0 3 L * *", "0 3 *-5 * *", "0 4 * * 7/x", "0 4 * * 7/0", "*/00 4 * * *", "\u00b2 4 * * *"),
    ],
)
def test_what_is_no_cron_for_a_training_is_refused(text: str) -> None:
    with pytest.raises(ParameterError, match="cron="):
        Cron.parse(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0 3 * * 1-5", ["2026-11-30", "2026-12-01", "2026-12-02"]),
        ("0 3 29 2 *", ["2028-02-29"]),
        ("0 3 13 * 5", ["2026-12-04", "2026-12-11", "2026-12-13"]),  # both said: either
        ("0 3 */10 * 2", ["2026-12-01", "2027-05-11", "2027-06-01"]),  # a star with a step: both, as KFP has it
    ],
)
def test_the_days_on_which_it_fires(text: str, expected: list[str]) -> None:
    instants = Cron.parse(text).instants(NOW, zone_of("UTC"))
    assert [f"{next(instants):%Y-%m-%d}" for _ in expected] == expected


def fired(part: Part, zone: str, until: datetime) -> list[datetime]:
    """When KFP's scheduler fires for a part: after its start or creation, up to its end."""
    last = min(part.end or until, until)
    instants = part.cron.instants(part.start or NOW, zone_of(zone))
    return list(takewhile(lambda at: at.astimezone(UTC) <= last, instants))


@given(
    minutes=st.sets(st.sampled_from([0, 15, 30, 45]), min_size=1, max_size=2),
    hours=st.sets(st.integers(0, 23), min_size=1, max_size=2),
    weekdays=st.sets(st.integers(0, 6), min_size=1, max_size=7),
    zone=st.sampled_from(ZONES),
    server=st.sampled_from(ZONES[:4]),
)
def test_a_moved_cron_fires_when_the_written_one_would_or_is_refused(
    minutes: set[int], hours: set[int], weekdays: set[int], zone: str, server: str
) -> None:
    fields = [",".join(map(str, sorted(values))) for values in (minutes, hours, weekdays)]
    cron = Cron.parse(f"{fields[0]} {fields[1]} * * {fields[2] if len(weekdays) < 7 else '*'}")
    try:
        made = parts(cron, zone_of(zone), zone_of(server), NOW)
    except ParameterError:
        return
    until = NOW + timedelta(days=360)
    meant = list(takewhile(lambda at: at <= until, cron.instants(NOW, zone_of(zone))))
    got = sorted(at for part in made for at in fired(part, server, until))
    assert [at.astimezone(UTC) for at in got] == [at.astimezone(UTC) for at in meant]


def test_the_servers_own_change_of_clocks_is_no_trouble() -> None:
    """06:30 UTC is 01:30 in New York for half the year, and that is there twice on a day of it."""
    cron = Cron.parse("30 6 * * *")
    made = parts(cron, zone_of("UTC"), zone_of("America/New_York"), NOW)
    until = NOW + timedelta(days=360)
    got = sorted(at.astimezone(UTC) for part in made for at in fired(part, "America/New_York", until))
    assert got == list(takewhile(lambda at: at <= until, cron.instants(NOW, zone_of("UTC"))))


@pytest.mark.parametrize(
    ("text", "zone"),
    [
        ("30 2 * * *", "Europe/Berlin"),  # skipped in March
        ("30 1 * * *", "America/New_York"),  # twice in November
        ("0 22 1 * *", "America/New_York"),  # the second, in UTC
        ("0 3,23 * * 1", "Asia/Tokyo"),  # Sunday and Monday, in UTC
        ("0 3 * * 1", "Mars/Olympus"),
    ],
)
def test_what_one_cron_in_the_servers_zone_cannot_say_is_refused(text: str, zone: str) -> None:
    with pytest.raises(ParameterError):
        parts(Cron.parse(text), zone_of(zone), zone_of("UTC"), NOW)


def test_a_weekly_time_that_the_clocks_never_touch_is_taken() -> None:
    """They change on Sundays."""
    assert len(parts(Cron.parse("30 2 * * 3"), zone_of("Europe/Berlin"), zone_of("UTC"), NOW)) == 3
