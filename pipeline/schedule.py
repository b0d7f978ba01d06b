"""python -m pipeline.schedule: recurring runs on a KFP server, as a file declares them."""

import argparse
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from components.errors import ParameterError, PipelineError, UserError
from pipeline.compile import COMMITTED
from pipeline.connect import connect, server_flags
from pipeline.cron import Cron
from pipeline.kfp_api import Api
from pipeline.packages import read_package
from pipeline.recurring import MARK, Change, checked, listed, plan
from pipeline.replacement import carry_out
from pipeline.schedule_file import read_schedules
from pipeline.zones import parts, zone_of

SIGNS = {"create": "+", "replace": "~", "pause": "|", "delete": "-", "keep": "="}
DONE = {"create": "created", "replace": "replaced", "pause": "paused", "delete": "deleted", "keep": "unchanged"}
DIFFERENT, FAILED = 1, 3


def main(argv: list[str] | None = None) -> int:
    """Returns the exit code: 0; 1 for a failure; 2 for bad input. diff: 1 where something differs, 3 for a failure."""
    arguments = _parser().parse_args(argv)
    try:
        return COMMANDS[arguments.command](arguments)
    except PipelineError as error:
        print(f"schedule: {error}", file=sys.stderr)
        return FAILED if arguments.command == "diff" and not isinstance(error, UserError) else error.exit_code
    except KeyboardInterrupt:
        print("schedule: interrupted; apply again to finish", file=sys.stderr)
        return 130


def _apply(arguments: argparse.Namespace) -> int:
    file = read_schedules(arguments.file)
    api = _connect(arguments)
    changes = plan(api, file)
    for change in changes:
        carry_out(api, file, change)
        print(_line(change), flush=True)
    print(_sum(changes, DONE))
    return 0


def _diff(arguments: argparse.Namespace) -> int:
    file = read_schedules(arguments.file)
    changes = plan(_connect(arguments), file)
    for change in changes:
        if change.kind == "keep":
            continue
        print(_line(change))
        width = max((len(fact) for fact, _, _ in change.differences), default=0)
        for fact, is_, to in change.differences:
            print(f"    {fact:<{width}}  {f'{is_} -> {to}' if is_ else to}")
    print(_sum(changes, {kind: f"to {kind}" if kind != "keep" else "unchanged" for kind in DONE}))
    return DIFFERENT if any(change.kind != "keep" for change in changes) else 0


def _line(change: Change) -> str:
    note = ""
    if change.kind == "replace" and not change.make:
        note = "  what is over, or was left by an apply that was stopped, is deleted"
    return f"{SIGNS[change.kind]} {change.name}{note}"


def _sum(changes: list[Change], words: dict[str, str]) -> str:
    counts = {kind: sum(1 for change in changes if change.kind == kind) for kind in DONE}
    if not any(count for kind, count in counts.items() if kind != "keep"):
        return f"nothing to do: {len(changes)} schedule{'s' if len(changes) != 1 else ''} as in the file"
    return ", ".join(f"{count} {words[kind]}" for kind, count in counts.items() if count)


def _check(arguments: argparse.Namespace) -> int:
    """The file against the compiled pipeline that is here; no server is asked."""
    file, spec = read_schedules(arguments.file), read_package(arguments.pipeline_file).spec
    server, now = zone_of(arguments.server_time_zone), datetime.now(UTC)
    for entry in file.schedules:
        checked(file, entry, spec)
        try:
            parts(entry.parsed, entry.zone, server, now)
        except ParameterError as error:
            raise ParameterError(f"{file.at(entry.name, 'cron')}: {error}") from None
        first = next(entry.parsed.instants(now, entry.zone))
        print(f"{entry.name}  {entry.cron} {entry.time_zone}  next {first:%a %Y-%m-%d %H:%M %Z}")
    return 0


def _list(arguments: argparse.Namespace) -> int:
    api = _connect(arguments)
    rows = [("schedule", "owner", "state", "cron", "next (UTC)", "version")]
    for run in listed(api):
        match = MARK.search(run.description or "")
        owner = match[1] if match else ""
        if arguments.owner and owner != arguments.owner:
            continue
        reference = run.pipeline_version_reference
        version = (reference.pipeline_version_id or "latest") if reference else "-"
        rows.append((run.display_name, owner or "-", str(run.status).lower(), *_when(api, run), version))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    return 0


def _when(api: Api, run: Any) -> tuple[str, str]:
    cron = run.trigger.cron_schedule if run.trigger else None
    if not cron:
        periodic = run.trigger.periodic_schedule if run.trigger else None
        return f"every {periodic.interval_second} s" if periodic else "-", "-"
    try:
        begin = max(api.clock.now(), cron.start_time) if cron.start_time else api.clock.now()
        first = next(Cron.parse(cron.cron).instants(begin, zone_of(api.endpoint.time_zone)), None)
    except ParameterError:  # somebody else's, by other rules than ours
        return cron.cron, "?"
    over = first is None or (cron.end_time and first > cron.end_time) or not str(run.mode).startswith("ENABLE")
    return cron.cron, "-" if over or first is None else f"{first.astimezone(UTC):%Y-%m-%d %H:%M}"


_ZONE = (
    "the zone in which the server's scheduler reads cron: its CRON_SCHEDULE_TIMEZONE (default: the profile's, or UTC)"
)
COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {
    "apply": _apply,
    "diff": _diff,
    "list": _list,
    "check": _check,
}


def _connect(arguments: argparse.Namespace) -> Api:
    api = connect(arguments, "schedule")
    if arguments.server_time_zone:
        zone_of(arguments.server_time_zone)
        api.endpoint = replace(api.endpoint, time_zone=arguments.server_time_zone)
    return api


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m pipeline.schedule",
        description="Recurring runs on a KFP server, as a file declares them.",
    )
    server = server_flags()
    server.add_argument("--server-time-zone", metavar="ZONE", help=_ZONE)
    file = argparse.ArgumentParser(add_help=False)
    file.add_argument("file", type=Path, metavar="FILE", help="the schedules")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("apply", parents=[server, file], help="make the server's schedules those of the file")
    commands.add_parser("diff", parents=[server, file], help="print what apply would do; exit code 1 if anything")
    listing = commands.add_parser("list", parents=[server], help="list the server's schedules, whoever owns them")
    listing.add_argument("--owner", metavar="NAME", help="only of one owner")
    checking = commands.add_parser("check", parents=[file], help="check the file without a server")
    checking.add_argument("--server-time-zone", default="UTC", metavar="ZONE", help=_ZONE)
    checking.add_argument("--pipeline-file", type=Path, default=COMMITTED, metavar="FILE", help="a compiled pipeline")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
