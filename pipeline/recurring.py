"""Recurring runs on a KFP server, against a file of schedules: what is there, what is wanted, what separates them."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from components.errors import ParameterError
from pipeline import arguments as values
from pipeline.kfp_api import Api
from pipeline.packages import find_experiment, find_pipeline, find_version, latest_version, spec_of
from pipeline.schedule_file import LATEST, Entry, Schedules
from pipeline.zones import Part, parts, zone_of

MARK = re.compile(r"managed by pipeline\.schedule: owner=(\S+) name=(\S+) part=(\S*) made=(\w+)")


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """A recurring run as the file wants it: what is compared, by name."""

    name: str
    part: Part
    entry: Entry
    facts: dict[str, Any]
    ids: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class Present:
    """A recurring run of the owner's as the server has it."""

    id: str
    name: str
    entry: str
    part: str
    made: str
    enabled: bool
    facts: dict[str, Any]
    created: datetime


@dataclass
class Change:
    """What is to be done about one schedule.

    Args:
        kind: create, replace, pause, delete or keep.
        differences: by fact, what it is and what it is to be.
    """

    kind: str
    name: str
    make: list[Wanted] = field(default_factory=list)
    drop: list[Present] = field(default_factory=list)
    pause: list[Present] = field(default_factory=list)
    differences: list[tuple[str, str, str]] = field(default_factory=list)


def plan(api: Api, file: Schedules) -> list[Change]:
    """What separates the server from the file.

    Raises:
        ParameterError: what the file says cannot be done on this server; with its line.
    """
    present = list(owned(api, file.owner))
    made = []
    for entry in file.schedules:
        wanted = _wanted(api, file, entry)
        made.append(_change(entry.name, wanted, [one for one in present if one.entry == entry.name]))
    names = {entry.name for entry in file.schedules}
    gone = sorted({one.entry for one in present} - names)
    made += [Change("delete", name, drop=[one for one in present if one.entry == name]) for name in gone]
    return made


def owned(api: Api, owner: str) -> Iterator[Present]:
    """The owner's recurring runs."""
    for run in listed(api):
        match = MARK.search(run.description or "")
        if match and match[1] == owner:
            yield _present(run, match, api.clock.now())


def listed(api: Api) -> Iterator[Any]:
    """All recurring runs that the user sees."""
    where: dict[str, Any] = {"namespace": api.endpoint.namespace} if api.endpoint.namespace else {}
    return api.pages(api.recurring.recurring_run_service_list_recurring_runs, "recurring_runs", **where)


def _change(name: str, wanted: list[Wanted], present: list[Present]) -> Change:
    left, make, pause = sorted(present, key=lambda one: one.created), [], []
    for one in wanted:
        same = [other for other in left if other.part == one.part.key and not _differences(one, other)]
        fits = next((other for other in same if other.enabled == one.entry.enabled), None)
        if fits is None and not one.entry.enabled and same:
            fits = same[0]
            pause.append(fits)
        if fits is None:
            make.append(one)
        else:
            left.remove(fits)
    kind = ("replace" if left else "create") if make else "delete" if left else "pause" if pause else "keep"
    if kind == "delete":
        kind = "replace"  # a period that is over, or a second one left by an apply that was stopped
    told = [("enabled", "true", "false")] if pause else []
    return Change(kind, name, make=make, drop=left, pause=pause, differences=told + _told(make, left))


def _told(make: list[Wanted], drop: list[Present]) -> list[tuple[str, str, str]]:
    """The differences of what is replaced, or the facts of what is new."""
    rows: list[tuple[str, str, str]] = []
    for one in make:
        names = {"pipeline": one.entry.pipeline, "version": one.entry.version, "experiment": one.entry.experiment}
        before = next((other for other in drop if other.part == one.part.key), drop[0] if drop else None)
        if before is None:
            shown = _flat(one.facts) | names | {"enabled": one.entry.enabled}
            facts = [(fact, "", _plain(value)) for fact, value in shown.items() if value not in ("", None, {})]
        else:
            facts = [(fact, _plain(is_), names.get(fact) or _plain(to)) for fact, is_, to in _differences(one, before)]
            if one.entry.enabled != before.enabled:
                facts.append(("enabled", _plain(before.enabled), _plain(one.entry.enabled)))
        said = {fact: (fact, is_, to) for fact, is_, to in rows}
        rows += [fact for fact in facts if said.get(fact[0]) != fact]  # a schedule's periods have most in common
    return rows


def _differences(wanted: Wanted, present: Present) -> list[tuple[str, Any, Any]]:
    is_, to = _flat(present.facts), _flat(wanted.facts)
    return [
        (fact, is_.get(fact), to.get(fact))
        for fact in dict.fromkeys([*to, *is_])
        if is_.get(fact) != to.get(fact) and not (fact in _UNSAID and to[fact] == "")
    ]


def _flat(facts: dict[str, Any]) -> dict[str, Any]:
    """The facts with each parameter as one of its own."""
    parameters = {f"parameters.{name}": value for name, value in facts["parameters"].items()}
    return {fact: value for fact, value in facts.items() if fact != "parameters"} | parameters


_UNSAID = ("service_account", "pipeline_root")  # the server fills these in where the file does not say them


def _wanted(api: Api, file: Schedules, entry: Entry) -> list[Wanted]:
    try:
        made = parts(entry.parsed, entry.zone, zone_of(api.endpoint.time_zone), api.clock.now())
    except ParameterError as error:
        raise ParameterError(f"{file.at(entry.name, 'cron')}: {error}") from None
    pipeline = find_pipeline(api, entry.pipeline)
    if not pipeline:
        raise ParameterError(
            f"{file.at(entry.name, 'pipeline')}: no pipeline {entry.pipeline!r} on {api.endpoint.address}; "
            "python -m pipeline.submit upload"
        )
    latest = entry.version == LATEST
    version = latest_version(api, pipeline) if latest else find_version(api, pipeline, entry.version)
    if not version:
        raise ParameterError(
            f"{file.at(entry.name, 'version')}: pipeline {entry.pipeline!r} has no version {entry.version!r}"
        )
    parameters = checked(file, entry, spec_of(version))
    where = find_experiment(api, entry.experiment)
    account = entry.service_account or api.endpoint.service_account
    ids = {"pipeline": pipeline, "version": "" if latest else version.pipeline_version_id, "experiment": where}
    return [
        Wanted(
            name=entry.name if len(made) == 1 else f"{entry.name} from {part.key}",
            part=part,
            entry=entry,
            facts=_facts(entry, part, ids, parameters) | {"service_account": account},
            ids=ids,
        )
        for part in made
    ]


def checked(file: Schedules, entry: Entry, spec: dict[str, Any]) -> dict[str, Any]:
    """An entry's parameters as KFP takes them.

    Raises:
        ParameterError: one that the pipeline does not take; with its line.
    """
    taken: dict[str, Any] = {}
    for name, value in entry.parameters.items():
        try:
            taken |= values.check({name: value}, spec)
        except ParameterError as error:
            raise ParameterError(f"{file.at(entry.name, name)}: {error}") from None
    try:
        values.check_whole(taken, spec)
    except ParameterError as error:
        named = next((name for name in taken if str(error).startswith(f"{name}=")), "parameters")
        raise ParameterError(f"{file.at(entry.name, named)}: {error}") from None
    return taken


def _facts(entry: Entry, part: Part, ids: dict[str, str], parameters: dict[str, Any]) -> dict[str, Any]:
    return {
        "cron": str(part.cron),
        "start": part.start,
        "end": part.end,
        "description": entry.description.strip(),  # as it is read back: a block of YAML ends with a line break
        "pipeline": ids["pipeline"],
        "version": ids["version"],
        "experiment": ids["experiment"],
        "catch_up": entry.catch_up,
        "max_concurrency": entry.max_concurrency,
        "pipeline_root": entry.pipeline_root,
        "parameters": parameters,
    }


def _present(run: Any, mark: re.Match[str], now: datetime) -> Present:
    reference, config, trigger = run.pipeline_version_reference, run.runtime_config, run.trigger
    cron = trigger.cron_schedule if trigger else None
    begun = cron.start_time if cron and cron.start_time and cron.start_time > now else None
    facts = {
        "cron": cron.cron if cron else "",
        "start": begun,
        "end": cron.end_time if cron else None,
        "description": (run.description or "")[: mark.start()].strip(),
        "pipeline": (reference.pipeline_id if reference else "") or "",
        "version": (reference.pipeline_version_id if reference else "") or "",
        "experiment": run.experiment_id,
        "catch_up": not run.no_catchup,
        "max_concurrency": int(run.max_concurrency or 0),
        "service_account": run.service_account or "",
        "pipeline_root": (config.pipeline_root if config else "") or "",
        "parameters": (config.parameters if config else None) or {},
    }
    return Present(
        id=run.recurring_run_id,
        name=run.display_name,
        entry=mark[2],
        part=mark[3],
        made=mark[4],
        enabled=str(run.mode or run.status).startswith("ENABLE"),
        facts=facts,
        created=run.created_at,
    )


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M:%S} UTC"
    return "none" if value in ("", None) else f"{value:g}" if isinstance(value, float) else str(value)
