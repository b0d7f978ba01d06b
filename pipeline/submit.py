"""python -m pipeline.submit: runs on a KFP server: submit, list, wait, logs, terminate, retry, compare."""

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import kfp_server_api as kfp
import yaml

from components.errors import ParameterError, PipelineError
from pipeline import arguments as values
from pipeline.compile import COMMITTED, compile_profile
from pipeline.connect import connect
from pipeline.kfp_api import Api
from pipeline.kfp_faults import RefusedError
from pipeline.packages import (
    Package,
    experiment,
    find_experiment,
    find_pipeline,
    find_version,
    latest_version,
    read_package,
    spec_of,
    upload,
)
from pipeline.run import parse_pairs
from pipeline.runs import (
    CANCELED,
    ENDED,
    FAILED,
    KEY,
    SKIPPED,
    SUCCEEDED,
    as_lines,
    create_once,
    duration,
    failed_steps,
    follow,
    get_run,
    log_of,
    rows,
    spec_of_run,
)
from pipeline.settings import load
from pipeline.submit_flags import LATEST, parser


def main(argv: list[str] | None = None) -> int:
    """Returns the exit code: 0; 1 for a failure, of the run too where it is waited for; 2 for bad input."""
    words = sys.argv[1:] if argv is None else argv
    named = bool(words) and (words[0] in COMMANDS or words[0] in ("-h", "--help"))
    arguments = parser().parse_args(words if named else ["run", *words])
    try:
        return COMMANDS[arguments.command](arguments)
    except PipelineError as error:
        print(f"submit: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("submit: interrupted; a run that was made goes on: python -m pipeline.submit list", file=sys.stderr)
        return 130


def _run(arguments: argparse.Namespace) -> int:
    if not KEY.fullmatch(arguments.once or "x"):
        raise ParameterError(f"--once {arguments.once!r} must be of letters, digits, dots and dashes, at most 64")
    with _package(arguments) as package:
        given = _values(arguments)
        if arguments.dry_run:
            return _say_only(arguments, package, given)
        api = connect(arguments, "submit")
        if arguments.version:
            version = _named_version(api, arguments, package)
            spec, uploaded = spec_of(version), False
            wanted = _checked(given, spec)
        else:
            spec, wanted = package.spec, _checked(given, package.spec)
            version, uploaded = upload(api, package, arguments.pipeline or package.name)
    print(f"version     {version.display_name} ({'uploaded' if uploaded else 'was there'})", flush=True)
    body = _body(arguments, package, wanted)
    body.experiment_id = experiment(api, arguments.experiment)
    body.pipeline_version_reference = kfp.V2beta1PipelineVersionReference(
        pipeline_id=version.pipeline_id, pipeline_version_id=version.pipeline_version_id
    )
    run, new = create_once(api, body, arguments.once or "")
    print(f"run         {run.run_id} ({'submitted' if new else 'was there: --once'})")
    print(f"link        {_link(api, run.run_id)}", flush=True)
    return _wait_for(api, run.run_id, spec, arguments) if arguments.wait else 0


def _checked(given: tuple[dict[str, Any], dict[str, str]], spec: dict[str, Any]) -> dict[str, Any]:
    """Parameters of a file under those of the command line, as KFP takes them."""
    of_file, of_flags = given
    wanted = {**values.check(of_file, spec), **values.check(of_flags, spec, texts=True)}
    values.check_whole(wanted, spec)
    return wanted


def _body(arguments: argparse.Namespace, package: Package, wanted: dict[str, Any]) -> Any:
    """The run, without what only the server can tell."""
    pipeline = arguments.pipeline or package.name
    return kfp.V2beta1Run(
        display_name=arguments.name or f"{pipeline} {datetime.now(UTC):%Y-%m-%d %H-%M-%S}",
        description=arguments.description or None,
        runtime_config=kfp.V2beta1RuntimeConfig(parameters=wanted, pipeline_root=arguments.pipeline_root or None),
        service_account=arguments.service_account or load(arguments.profile or "default").kfp.service_account or None,
    )


def _say_only(arguments: argparse.Namespace, package: Package, given: tuple[dict[str, Any], dict[str, str]]) -> int:
    """--dry-run: what would be sent, without asking the server anything."""
    named = arguments.version
    body = _body(arguments, package, given[0] | given[1] if named else _checked(given, package.spec))
    said: dict[str, Any] = {
        "pipeline": arguments.pipeline or package.name,
        "version": named or package.version,
        "digest": "of the version on the server" if named else package.digest,
        "experiment": arguments.experiment,
        "name": body.display_name,
        "description": body.description,
        "service_account": body.service_account,
        "pipeline_root": body.runtime_config.pipeline_root,
        "parameters": body.runtime_config.parameters,
    }
    said = {name: value for name, value in said.items() if value is not None}
    print(yaml.safe_dump(said, sort_keys=False, allow_unicode=True, width=120), end="")
    print(
        "dry run: nothing was sent" + ("; the server's version checks the parameters" if named else ""), file=sys.stderr
    )
    return 0


def _named_version(api: Api, arguments: argparse.Namespace, package: Package) -> Any:
    pipeline = arguments.pipeline or package.name
    pipeline_id = find_pipeline(api, pipeline)
    if not pipeline_id:
        raise ParameterError(f"no pipeline {pipeline!r} on {api.endpoint.address}; upload one, or check --pipeline")
    latest = arguments.version == LATEST
    version = latest_version(api, pipeline_id) if latest else find_version(api, pipeline_id, arguments.version)
    if not version:
        raise ParameterError(f"pipeline {pipeline!r} has no version {arguments.version!r}; see it in the UI")
    return version


def _upload(arguments: argparse.Namespace) -> int:
    with _package(arguments) as package:
        pipeline = arguments.pipeline or package.name
        if arguments.dry_run:
            print(f"would upload {package.version} of {pipeline}, {package.digest}, unless the server has it")
            return 0
        version, uploaded = upload(connect(arguments, "submit"), package, pipeline)
    print(f"{version.display_name} {version.pipeline_version_id} ({'uploaded' if uploaded else 'was there'})")
    return 0


def _list(arguments: argparse.Namespace) -> int:
    api = connect(arguments, "submit")
    where: dict[str, Any] = {"namespace": api.endpoint.namespace} if api.endpoint.namespace else {}
    if arguments.experiment:
        found = find_experiment(api, arguments.experiment)
        if not found:
            raise ParameterError(f"no experiment {arguments.experiment!r} on {api.endpoint.address}")
        where = {"experiment_id": found}
    listed = api.pages(api.runs.run_service_list_runs, "runs", sort_by="created_at desc", **where)
    print(f"{'run':<36}  {'state':<9}  {'created (UTC)':<16}  {'time':>8}  name")
    for run, _ in zip(listed, range(arguments.limit), strict=False):
        over = run.finished_at is not None and run.finished_at.year > 1970
        end = run.finished_at if over else api.clock.now()
        spent = duration((end - run.created_at).total_seconds())
        state = run.state or "unknown"  # KFP leaves it out where it cannot tell
        print(f"{run.run_id:<36}  {state:<9}  {run.created_at:%Y-%m-%d %H:%M}  {spent:>8}  {run.display_name}")
    return 0


def _wait(arguments: argparse.Namespace) -> int:
    api = connect(arguments, "submit")
    run = get_run(api, arguments.run)
    print(f"link        {_link(api, run.run_id)}", flush=True)
    return _wait_for(api, run.run_id, spec_of_run(api, run), arguments)


def _wait_for(api: Api, run_id: str, spec: dict[str, Any], arguments: argparse.Namespace) -> int:
    run = follow(api, run_id, spec, poll=arguments.poll, limit=arguments.wait_timeout, out=sys.stdout)
    spent = duration((run.finished_at - run.created_at).total_seconds()) if run.finished_at else "?"
    print(f"{run.state} after {spent}")
    if run.state in (SUCCEEDED, SKIPPED):
        return 0
    failed = failed_steps(rows(run, spec))
    reason = " ".join((run.error.message if run.error else "").split())[:300]
    where = f"; python -m pipeline.submit logs {run_id} {failed[0]}" if failed else ""
    named = f" in {', '.join(failed)}" if failed else ""
    print(f"submit: the run {run.state.lower()}{named}{': ' + reason if reason else ''}{where}", file=sys.stderr)
    return 1


def _logs(arguments: argparse.Namespace) -> int:
    api = connect(arguments, "submit")
    run = get_run(api, arguments.run)
    spec = spec_of_run(api, run)
    table = rows(run, spec)
    known = [row.step for row in table]
    if not arguments.step:
        print("\n".join(as_lines(table, api.clock.now())))
        return 0
    if arguments.step not in known:
        raise ParameterError(f"no step {arguments.step!r} in this run; it has {', '.join(known)}")
    for line in log_of(api, run, arguments.step, arguments.follow):
        print(line, flush=arguments.follow)
    return 0


def _terminate(arguments: argparse.Namespace) -> int:
    api = connect(arguments, "submit")
    run = get_run(api, arguments.run)
    if run.state in ENDED:
        print(f"{run.run_id} has ended: {run.state}")
        return 0
    api.call(api.runs.run_service_terminate_run, run.run_id)
    print(f"{run.run_id} is being terminated; its TrainJob is deleted with it")
    return 0


def _retry(arguments: argparse.Namespace) -> int:
    api = connect(arguments, "submit")
    run = get_run(api, arguments.run)
    if run.state not in (FAILED, CANCELED):
        raise ParameterError(f"run {run.run_id} is {run.state}; only a failed or canceled one can be retried")
    # KFP refuses a second retry of a run that is being retried, so this may be asked twice.
    try:
        api.call(api.runs.run_service_retry_run, run.run_id)
    except RefusedError:
        if get_run(api, run.run_id).state == run.state:
            raise
    print(f"{run.run_id} is retried from its failed steps\nlink        {_link(api, run.run_id)}", flush=True)
    return _wait_for(api, run.run_id, spec_of_run(api, run), arguments) if arguments.wait else 0


def _compare(arguments: argparse.Namespace) -> int:
    from pipeline.compare import as_text, compare

    table = compare(connect(arguments, "submit"), arguments.run, arguments.other, arguments.all)
    print(as_text(table, (arguments.run[:8], arguments.other[:8])))
    return 0


COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {
    "run": _run,
    "upload": _upload,
    "list": _list,
    "wait": _wait,
    "logs": _logs,
    "terminate": _terminate,
    "retry": _retry,
    "compare": _compare,
}


@contextmanager
def _package(arguments: argparse.Namespace) -> Iterator[Package]:
    """The pipeline that is meant: a file, or a profile's compiled now, or the shipped one."""
    if arguments.pipeline_file or not arguments.profile:
        yield read_package(arguments.pipeline_file or COMMITTED)
        return
    with TemporaryDirectory() as scratch:
        path = Path(scratch) / "pipeline.yaml"
        path.write_text(compile_profile(arguments.profile), encoding="utf-8")
        yield read_package(path)


def _values(arguments: argparse.Namespace) -> tuple[dict[str, Any], dict[str, str]]:
    return (values.read_file(arguments.params) if arguments.params else {}), parse_pairs(arguments.param)


def _link(api: Api, run_id: str) -> str:
    return f"{api.endpoint.links or api.endpoint.address}/#/runs/details/{run_id}"


if __name__ == "__main__":
    raise SystemExit(main())
