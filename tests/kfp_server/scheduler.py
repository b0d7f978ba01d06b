"""What KFP's ScheduledWorkflow controller does with the recurring runs of a server for tests.

After backend/src/crd/controller/scheduledworkflow: it counts from the last run, else from the start time, else from
the creation; a disabled one makes no run, and makes the missed ones when it is enabled; without catch-up only the last
of them; the start itself never fires, the end does. Cron is read minute by minute here, by no code of the product.
"""

from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from tests.kfp_server.server import Server

MINUTE = timedelta(minutes=1)


class Scheduler:
    """Makes the runs that are due."""

    def __init__(self, server: Server, zone: str = "UTC") -> None:
        self._server, self._zone = server, ZoneInfo(zone)
        self._checked: dict[str, datetime] = {}  # by recurring run: up to when its instants are known
        self._missed: dict[str, list[datetime]] = {}
        self.fired: list[tuple[datetime, str]] = []  # the instant, and the schedule's name

    def look(self, now: datetime) -> None:
        """One pass over all recurring runs."""
        with self._server.lock:
            for key, one in self._server.state.recurring.items():
                due = self._missed.setdefault(key, [])
                due += self._instants(key, one["trigger"]["cron_schedule"], _time(one["created_at"]), now)
                if not due or one["mode"] != "ENABLE":
                    continue
                for instant in due[-1:] if one["no_catchup"] else due:
                    self._run(key, one, instant)
                due.clear()

    def _run(self, key: str, one: dict[str, Any], instant: datetime) -> None:
        self.fired.append((instant, one["display_name"]))
        body = {"display_name": one["display_name"], "experiment_id": one["experiment_id"], "recurring_run_id": key}
        self._server.make_run(body, self._server.version_of(one["pipeline_version_reference"]))

    def at(self, instant: datetime) -> int:
        """How many runs an instant has had."""
        return sum(1 for fired, _ in self.fired if fired == instant)

    def _instants(self, key: str, cron: dict[str, Any], created: datetime, now: datetime) -> list[datetime]:
        start = _time(cron["start_time"]) if cron.get("start_time") else created
        end = _time(cron["end_time"]) if cron.get("end_time") else datetime.max.replace(tzinfo=UTC)
        after = self._checked.get(key, start)
        self._checked[key] = max(now, after)
        at, found = after.replace(second=0, microsecond=0), []
        while at <= min(now, end):
            if at > after and self._fits(cron["cron"], at.astimezone(self._zone)):
                found.append(at)
            at += MINUTE
        return found

    @staticmethod
    def _fits(cron: str, at: datetime) -> bool:
        second, *fields = cron.split()
        assert second == "0", "the tests' schedules fire on the minute"
        values = (at.minute, at.hour, at.day, at.month, at.isoweekday() % 7)
        return all(_holds(text, value) for text, value in zip(fields, values, strict=True))


def _holds(text: str, value: int) -> bool:
    for part in text.split(","):
        low, _, high = part.partition("-")
        if part == "*" or int(low) <= value <= int(high or low):
            return True
    return False


def _time(text: str) -> datetime:
    return datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
