"""What apply does to the recurring runs of a server.

KFP has no update of a recurring run. One that differs is replaced in a quiet moment, in which neither the old nor the
new one is due: the new is made disabled, the old is deleted, the new is enabled, and then counts from when it was made.
A stop in between leaves the old one alone at work, or a disabled one, which the next apply replaces.
"""

import uuid
from contextlib import suppress
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

import kfp_server_api as kfp

from components.errors import ParameterError
from pipeline.cron import Cron
from pipeline.kfp_api import Api, equals
from pipeline.kfp_faults import LostAnswerError, NotFoundError
from pipeline.packages import experiment
from pipeline.recurring import Change, Present, Wanted, owned
from pipeline.schedule_file import Schedules
from pipeline.zones import zone_of

# Seconds around an instant in which nothing is replaced. Before it for clocks that differ; after it because the
# scheduler looks every 30 s and is to have made the old one's run.
LEAD, SETTLED = 60, 90
MOST_WAITS = 5
PAUSES = (2, 4, 8, 16, 30)  # seconds before a recurring run whose answer was lost is looked for


def carry_out(api: Api, file: Schedules, change: Change) -> None:
    """Does what a change says. Whatever stops it, doing the next plan's changes mends it."""
    for paused in change.pause:
        api.call(api.recurring.recurring_run_service_disable_recurring_run, paused.id)
    if change.make and change.drop:
        _replace(api, file, change)
        return
    for new in change.make:
        _create(api, file, new, enabled=new.entry.enabled)
    for old in change.drop:
        _delete(api, old.id)


def _replace(api: Api, file: Schedules, change: Change) -> None:
    _wait_for_quiet(api, change)
    begun = api.clock.now()
    staged = [_create(api, file, new, enabled=False) for new in change.make]
    for old in change.drop:
        _delete(api, old.id)
    if _fired_meanwhile(api, change, begun):
        # A server that was away for a while: the old one has made a run that the new one would make as well.
        for recurring_run in staged:
            _delete(api, recurring_run)
        staged = [_create(api, file, new, enabled=False) for new in change.make]
    for recurring_run, new in zip(staged, change.make, strict=True):
        if new.entry.enabled:
            api.call(api.recurring.recurring_run_service_enable_recurring_run, recurring_run)


def _fired_meanwhile(api: Api, change: Change, begun: datetime) -> bool:
    """Whether one of the old recurring runs was due since, and has made its run."""
    zone = zone_of(api.endpoint.time_zone)
    for old in change.drop:
        cron = _readable(old)
        due = next(cron.instants(begun, zone), None) if cron else None
        if due is None or due > api.clock.now():
            continue
        made = api.call(
            api.runs.run_service_list_runs,
            experiment_id=old.facts["experiment"],
            filter=equals(recurring_run_id=old.id),
            sort_by="created_at desc",
            page_size=1,
        ).runs
        if made and made[0].created_at >= begun.replace(microsecond=0):
            return True
    return False


def _create(api: Api, file: Schedules, wanted: Wanted, enabled: bool) -> str:
    made = uuid.uuid4().hex[:12]
    mark = (
        f"managed by pipeline.schedule: owner={file.owner} name={wanted.entry.name} part={wanted.part.key} made={made}"
    )
    facts = wanted.facts
    body = kfp.V2beta1RecurringRun(
        display_name=wanted.name,
        description=f"{facts['description']}\n{mark}".strip(),
        experiment_id=facts["experiment"] or experiment(api, wanted.entry.experiment),
        pipeline_version_reference=kfp.V2beta1PipelineVersionReference(
            pipeline_id=facts["pipeline"], pipeline_version_id=facts["version"] or None
        ),
        runtime_config=kfp.V2beta1RuntimeConfig(
            parameters=facts["parameters"], pipeline_root=facts["pipeline_root"] or None
        ),
        service_account=facts["service_account"] or None,
        max_concurrency=str(facts["max_concurrency"]),
        no_catchup=not facts["catch_up"],
        mode="ENABLE" if enabled else "DISABLE",
        trigger=kfp.V2beta1Trigger(
            cron_schedule=kfp.V2beta1CronSchedule(cron=facts["cron"], start_time=facts["start"], end_time=facts["end"])
        ),
    )
    for pause in PAUSES:
        try:
            answer = api.call(api.recurring.recurring_run_service_create_recurring_run, body, repeatable=False)
            return str(answer.recurring_run_id)
        except LostAnswerError as error:
            api.say(f"{error}; looking for {wanted.name} before making it again")
            api.clock.sleep(pause)
            found = [one.id for one in owned(api, file.owner) if one.made == made]
            if found:
                return found[0]
    raise LostAnswerError(f"{wanted.name} could not be made: the answers were lost; apply again")


def _delete(api: Api, recurring_run: str) -> None:
    """Deletes a recurring run and lets its runs go on, which KFP would otherwise delete with it."""
    with suppress(NotFoundError):
        api.call(api.recurring.recurring_run_service_delete_recurring_run, recurring_run, propagation_policy="ORPHAN")


def _wait_for_quiet(api: Api, change: Change) -> None:
    """Waits until none of a change's recurring runs, old or new, is due."""
    zone = zone_of(api.endpoint.time_zone)
    crons = [new.part.cron for new in change.make] + [cron for old in change.drop if (cron := _readable(old))]
    for _ in range(MOST_WAITS):
        due = [at for cron in crons if (at := _due(cron, api.clock.now(), zone))]
        if not due:
            return
        pause = (max(due) + timedelta(seconds=SETTLED) - api.clock.now()).total_seconds() + 1
        api.say(f"{change.name} is due at {max(due):%H:%M:%S %Z}; replacing it in {pause:.0f} s")
        api.clock.sleep(pause)


def _readable(one: Present) -> Cron | None:
    try:
        return Cron.parse(one.facts["cron"])
    except ParameterError:
        return None


def _due(cron: Cron, now: datetime, zone: ZoneInfo) -> datetime | None:
    at = next(cron.instants(now - timedelta(seconds=SETTLED), zone), None)
    return at if at and at <= now + timedelta(seconds=LEAD) else None
