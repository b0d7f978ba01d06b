"""The command line of pipeline.submit."""

import argparse
from pathlib import Path

from pipeline.compile import COMMITTED
from pipeline.connect import seconds, server_flags

LATEST = "latest"
MOST_LISTED = 20


def parser() -> argparse.ArgumentParser:
    """The commands of pipeline.submit and their flags."""
    whole = argparse.ArgumentParser(
        prog="python -m pipeline.submit",
        description="Runs on a KFP server. Without a command: run; its flags: python -m pipeline.submit run --help.",
    )
    server = server_flags()
    source = argparse.ArgumentParser(add_help=False)
    source.add_argument(
        "--pipeline-file", type=Path, metavar="FILE", help=f"a compiled pipeline (default: {COMMITTED.name})"
    )
    source.add_argument("--pipeline", metavar="NAME", help="the pipeline's name on the server (default: the file's)")
    source.add_argument("--dry-run", action="store_true", help="send nothing; print what would be sent")
    waiting = argparse.ArgumentParser(add_help=False)
    waiting.add_argument("--poll", type=seconds, default=5.0, metavar="S", help="seconds between looks (%(default)s)")
    waiting.add_argument("--wait-timeout", type=seconds, default=0.0, metavar="S", help="end waiting then; 0: never")
    commands = whole.add_subparsers(dest="command", required=True, metavar="COMMAND")

    run = commands.add_parser("run", parents=[server, source, waiting], help="submit a run")
    run.add_argument(
        "--version",
        metavar="NAME",
        help=f"a version that the server has, or {LATEST}; none: the file's, uploaded if it is new",
    )
    run.add_argument("--experiment", default="Default", metavar="NAME", help="made if there is none (%(default)s)")
    run.add_argument("--name", help="the run's name (default: the pipeline's and the time)")
    run.add_argument("--description", help="what the UI shows of it")
    run.add_argument("--param", nargs="+", action="extend", default=[], metavar="NAME=VALUE", help="parameters")
    run.add_argument(
        "--params", type=Path, metavar="FILE", help="parameters from a YAML file; --param goes before them"
    )
    run.add_argument("--pipeline-root", metavar="URI", help="where artifacts go, if not where the server puts them")
    run.add_argument("--service-account", metavar="NAME", help="the pods' service account, if not the profile's")
    run.add_argument(
        "--once",
        metavar="KEY",
        help="make no second run of this key in the experiment unless the first failed; a CI job's id",
    )
    run.add_argument("--wait", action="store_true", help="show the steps until the end; its outcome is the exit code")

    commands.add_parser("upload", parents=[server, source], help="upload the version if its content is new")
    listing = commands.add_parser("list", parents=[server], help="list runs, the youngest first")
    listing.add_argument("--experiment", metavar="NAME", help="of one experiment")
    listing.add_argument("--limit", type=int, default=MOST_LISTED, metavar="N", help="at most so many (%(default)s)")
    logs = commands.add_parser("logs", parents=[server], help="what a step printed; without a step: the steps")
    terminate = commands.add_parser("terminate", parents=[server], help="end a run and what it started")
    wait = commands.add_parser("wait", parents=[server, waiting], help="wait for a run's end")
    retry = commands.add_parser("retry", parents=[server, waiting], help="run a failed run's failed steps again")
    retry.add_argument("--wait", action="store_true", help="show the steps until the end")
    comparing = commands.add_parser("compare", parents=[server], help="two runs' parameters and metrics side by side")
    for command in (logs, terminate, wait, retry, comparing):
        command.add_argument("run", metavar="RUN", help="the run's id")
    logs.add_argument("step", nargs="?", metavar="STEP")
    logs.add_argument("--follow", action="store_true", help="until the step ends")
    comparing.add_argument("other", metavar="OTHER", help="another run's id")
    comparing.add_argument("--all", action="store_true", help="also the parameters that are the same")
    return whole
