"""Runs on a KFP server: made once, followed to their end, and read."""

import json
import re
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, TextIO

import kfp_server_api as kfp

from components.errors import ParameterError
from pipeline.kfp_api import Api
from pipeline.kfp_faults import KfpError, LostAnswerError, NotFoundError, RefusedError
from pipeline.packages import spec_of
from pipeline.pods import pods_of
from pipeline.steps import steps

SUCCEEDED, SKIPPED, FAILED, CANCELED = "SUCCEEDED", "SKIPPED", "FAILED", "CANCELED"
ENDED = (SUCCEEDED, SKIPPED, FAILED, CANCELED)
SUBMISSION, ONCE = "submission: ", "once: "  # lines of a run's description
KEY = re.compile(r"[A-Za-z0-9._-]{1,64}")
SETTLE = (1.0, 2.0, 4.0, 8.0)  # seconds in which a run whose answer was lost should show up
MOST_POSTS = 3
# A group's tasks have the same name in each pass of a loop: the one that says most about where it stands goes first.
WORST_FIRST = (FAILED, CANCELED, "CANCELING", "RUNNING", "PENDING", "PAUSED", SUCCEEDED, SKIPPED)
# Of a step behind one that failed: Argo has a node for it, KFP has no word for such a node, and leaves it out.
OMITTED = (None, "RUNTIME_STATE_UNSPECIFIED")


@dataclass(frozen=True)
class Row:
    """A step as a run has it."""

    step: str
    state: str
    begun: datetime | None = None
    ended: datetime | None = None

    def seconds(self, now: datetime) -> float | None:
        return ((self.ended or now) - self.begun).total_seconds() if self.begun else None


def create_once(api: Api, run: kfp.V2beta1Run, once: str = "") -> tuple[Any, bool]:
    """Makes a run, and no second one whatever becomes of the answer.

    The run carries an id of this submission in its description. After a lost answer the server is searched for it
    before anything is sent again; should a request that was given up for lost come through after all, its run is
    terminated.

    Args:
        once: a key of the user's: a run of the experiment that carries it and has not failed is taken instead.

    Returns:
        The run, and whether it is new.

    Raises:
        LostAnswerError: the server neither answers nor shows a run.
    """
    if once:
        going = [
            found for found in _marked(api, run.experiment_id, ONCE + once) if found.state not in (FAILED, CANCELED)
        ]
        if going:
            return going[0], False
    mark = SUBMISSION + uuid.uuid4().hex
    run.description = "\n".join(filter(None, [run.description, ONCE + once if once else "", mark]))
    for post in range(1, MOST_POSTS + 1):
        try:
            made = api.call(api.runs.run_service_create_run, run, repeatable=False)
        except LostAnswerError as error:
            api.say(f"{error}; looking for the run before sending it again")
            found = _settled(api, run.experiment_id, mark)
            if found:
                return found[0], True
            if post == MOST_POSTS:
                raise LostAnswerError(
                    f"{error}; no run of this submission is on the server after {post} tries; "
                    "python -m pipeline.submit list shows whether one appears"
                ) from None
            continue
        if post > 1:
            _end_twins(api, made, mark)
        return made, True
    raise AssertionError("not reached")


def _marked(api: Api, experiment_id: str, mark: str) -> list[Any]:
    """The runs whose description has this line, the oldest first."""
    predicate = {"operation": "IS_SUBSTRING", "key": "description", "stringValue": mark}
    listed = api.pages(
        api.runs.run_service_list_runs,
        "runs",
        experiment_id=experiment_id,
        filter=json.dumps({"predicates": [predicate]}),
        sort_by="created_at",
    )
    return [run for run in listed if mark in (run.description or "").splitlines()]


def _settled(api: Api, experiment_id: str, mark: str) -> list[Any]:
    for pause in SETTLE:
        api.clock.sleep(pause)
        found = _marked(api, experiment_id, mark)
        if found:
            return found
    return []


def _end_twins(api: Api, kept: Any, mark: str) -> None:
    for twin in _marked(api, kept.experiment_id, mark):
        if twin.run_id != kept.run_id:
            api.say(f"a request given up for lost made run {twin.run_id} as well: terminated")
            api.call(api.runs.run_service_terminate_run, twin.run_id)


def get_run(api: Api, run_id: str) -> Any:
    """A run by its id.

    Raises:
        ParameterError: there is none.
    """
    try:
        return api.call(api.runs.run_service_get_run, run_id)
    except NotFoundError:
        raise ParameterError(f"no run {run_id!r} on {api.endpoint.address}; python -m pipeline.submit list") from None


def spec_of_run(api: Api, run: Any) -> dict[str, Any]:
    """The compiled pipeline that a run is of; empty where its version is gone."""
    if run.pipeline_spec:
        return run.pipeline_spec.get("pipeline_spec", run.pipeline_spec)  # type: ignore[no-any-return]
    reference = run.pipeline_version_reference
    try:
        version = api.call(
            api.pipelines.pipeline_service_get_pipeline_version, reference.pipeline_id, reference.pipeline_version_id
        )
    except (AttributeError, NotFoundError):
        return {}
    return spec_of(version)


def rows(run: Any, spec: dict[str, Any]) -> list[Row]:
    """The steps of a run in the pipeline's order; what KFP adds (drivers, executors, groups) is no step."""
    details = (run.run_details.task_details if run.run_details else None) or []
    table = []
    for name in [step.name for step in steps(spec)] if spec else sorted({task.display_name for task in details}):
        tasks = [task for task in details if task.display_name == name and task.state not in OMITTED]
        if not tasks:
            table.append(Row(name, "" if run.state not in ENDED else "not run"))
            continue
        state = next((state for state in WORST_FIRST if any(task.state == state for task in tasks)), tasks[0].state)
        begun = [task.start_time for task in tasks if _is_time(task.start_time)]
        ended = [task.end_time for task in tasks if _is_time(task.end_time)]
        over = len(ended) == len(tasks)
        table.append(Row(name, state, min(begun, default=None), max(ended) if over else None))
    return table


def _is_time(value: datetime | None) -> bool:
    """KFP says 1970 where it means not yet."""
    return value is not None and value.year > 1970


def follow(api: Api, run_id: str, spec: dict[str, Any], *, poll: float, limit: float, out: TextIO) -> Any:
    """Waits for a run's end, with a table of its steps on a terminal and a line a change elsewhere.

    Args:
        poll: seconds between looks.
        limit: seconds after which waiting ends; 0: never.

    Raises:
        KfpError: the limit has passed, or the server was away for longer than its patience.
    """
    begun, shown = api.clock.monotonic(), _Shown(out)
    while True:
        run = get_run(api, run_id)
        shown.show(rows(run, spec), api.clock.now())
        if run.state in ENDED:
            shown.close(rows(run, spec), api.clock.now())
            return run
        if limit and api.clock.monotonic() - begun + poll > limit:
            raise KfpError(f"run {run_id} is {run.state} after {limit:g} s of waiting; it goes on by itself")
        api.clock.sleep(poll)


class _Shown:
    """What of a table has been printed."""

    def __init__(self, out: TextIO) -> None:
        self._out, self._terminal = out, out.isatty()
        self._states: dict[str, str] = {}
        self._height = 0

    def show(self, table: list[Row], now: datetime) -> None:
        if self._terminal:
            lines = as_lines(table, now)
            up = f"\x1b[{self._height}A" if self._height else ""
            self._out.write(up + "".join(f"\x1b[2K{line}\n" for line in lines))
            self._height = len(lines)
        for row in [] if self._terminal else table:
            if row.state and row.state not in ("not run", self._states.get(row.step)):
                self._out.write(f"{now:%H:%M:%S}  {row.step:<10}  {row.state}\n")
                self._states[row.step] = row.state
        self._out.flush()

    def close(self, table: list[Row], now: datetime) -> None:
        if not self._terminal:
            self._out.write("\n" + "".join(f"{line}\n" for line in as_lines(table, now)))


def as_lines(table: list[Row], now: datetime) -> list[str]:
    """The table of a run's steps."""
    width = max([len(row.step) for row in table], default=4)
    lines = [f"{'step':<{width}}  {'state':<9}  time"]
    for row in table:
        spent = row.seconds(now)
        lines.append(f"{row.step:<{width}}  {row.state:<9}  {'' if spent is None else duration(spent)}".rstrip())
    return lines


def duration(seconds: float) -> str:
    """Hours, minutes and seconds."""
    return str(timedelta(seconds=int(seconds)))


def failed_steps(table: list[Row]) -> list[str]:
    return [row.step for row in table if row.state == FAILED]


def log_of(api: Api, run: Any, step: str, follow: bool = False) -> Iterator[str]:
    """What a step printed: each try of each pass of a loop, one after the other.

    Raises:
        NotFoundError: the step has not begun, or its pods and their archive are gone.
    """
    pods = pods_of(run, step)
    if not pods:
        raise NotFoundError(f"step {step} has no pod in run {run.run_id}")
    said = False
    for names in pods:
        for name in names:  # the same pod by the names that KFP's versions give it
            try:
                for line in api.log(run.run_id, name, follow):
                    said = True
                    yield line
                break
            except (NotFoundError, RefusedError):
                continue
    if not said:
        namespace = f" -n {api.endpoint.namespace}" if api.endpoint.namespace else ""
        raise NotFoundError(
            f"the server has no log of step {step}; while its pod is there: kubectl logs{namespace} -c main "
            f"-l pipeline/runid={run.run_id},private-llm/step={step}"
        )
