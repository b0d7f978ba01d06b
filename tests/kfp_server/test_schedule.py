"""Schedules of a file on a server: created, replaced, paused, deleted; never a gap, never a double run."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from pipeline.kfp_api import Api
from pipeline.kfp_faults import KfpError
from pipeline.recurring import plan
from pipeline.replacement import carry_out
from pipeline.schedule import main as schedule
from pipeline.schedule_file import read_schedules
from tests.kfp_server.conftest import Time
from tests.kfp_server.scheduler import Scheduler
from tests.kfp_server.server import Server

FILE = """\
owner: support
experiment: retraining
schedules:
  - name: faq
    description: New questions of the day
    cron: 0 3 * * *
    parameters:
      dataset: s3://corpus/faq.jsonl
      epochs: 1
  - name: docs
    cron: "@weekly"
    max_concurrency: 2
    parameters: {dataset: org/docs, learning_rate: 1e-5}
"""
DUE = datetime(2026, 12, 2, 3, tzinfo=UTC)

Written = Callable[..., Path]


@pytest.fixture
def written(tmp_path: Path) -> Written:
    """Writes the file, with something replaced."""

    def write(*changes: tuple[str, str]) -> Path:
        text = FILE
        for old, new in changes:
            assert old in text
            text = text.replace(old, new)
        path = tmp_path / "schedules.yaml"
        path.write_text(text)
        return path

    return write


def apply(api: Api, path: Path) -> list[str]:
    """What apply does, at the time of the tests; the kinds of changes that it made."""
    file = read_schedules(path)
    changes = plan(api, file)
    for change in changes:
        carry_out(api, file, change)
    return [change.kind for change in changes]


def test_applying_twice_changes_nothing_the_second_time(
    uploaded: Server, written: Written, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(written())
    assert schedule(["diff", path]) == 1
    assert "2 to create" in capsys.readouterr().out
    assert schedule(["apply", path]) == 0
    assert capsys.readouterr().out == "+ faq\n+ docs\n2 created\n"
    made = [dict(one) for one in uploaded.state.recurring.values()]
    assert schedule(["apply", path]) == 0
    assert "nothing to do: 2 schedules as in the file" in capsys.readouterr().out
    assert schedule(["diff", path]) == 0
    assert list(uploaded.state.recurring.values()) == made


def test_a_description_of_several_lines_is_the_same_when_it_comes_back(uploaded: Server, written: Written) -> None:
    block = "description: |\n      New questions\n      of the day\n\n"
    path = str(written(("description: New questions of the day\n", block)))
    assert schedule(["apply", path]) == 0
    assert schedule(["diff", path]) == 0


def test_what_the_server_is_told(uploaded: Server, written: Written) -> None:
    assert schedule(["apply", str(written())]) == 0
    faq, docs = uploaded.state.recurring.values()
    assert faq["trigger"]["cron_schedule"] == {"cron": "0 0 3 * * *"}, "KFP would take five fields for seconds to month"
    assert (faq["no_catchup"], faq["max_concurrency"], faq["mode"]) == (True, "1", "ENABLE")
    assert faq["description"].startswith("New questions of the day\n")
    assert faq["runtime_config"]["parameters"] == {"dataset": "s3://corpus/faq.jsonl", "epochs": 1.0}
    assert "pipeline_version_id" not in faq["pipeline_version_reference"], "latest: the youngest at each run"
    assert uploaded.state.experiments[faq["experiment_id"]]["display_name"] == "retraining"
    assert docs["runtime_config"]["parameters"]["learning_rate"] == 1e-5
    assert docs["max_concurrency"] == "2"


def test_a_version_can_be_pinned(uploaded: Server, written: Written, capsys: pytest.CaptureFixture[str]) -> None:
    (version,) = uploaded.state.versions.values()
    path = written(("experiment: retraining", f"experiment: retraining\nversion: {version['name']}"))
    assert schedule(["apply", str(path)]) == 0
    for one in uploaded.state.recurring.values():
        assert one["pipeline_version_reference"]["pipeline_version_id"] == version["pipeline_version_id"]
    assert schedule(["diff", str(path)]) == 0
    assert schedule(["diff", str(written())]) == 1
    assert "-> latest" in capsys.readouterr().out


def test_a_difference_is_shown_and_replaced(
    uploaded: Server, written: Written, capsys: pytest.CaptureFixture[str]
) -> None:
    schedule(["apply", str(written())])
    changed = str(written(("epochs: 1", "epochs: 2"), ("max_concurrency: 2", "max_concurrency: 3")))
    before = set(uploaded.state.recurring)
    capsys.readouterr()
    assert schedule(["diff", changed]) == 1
    shown = " ".join(capsys.readouterr().out.split())
    assert shown == "~ faq parameters.epochs 1 -> 2 ~ docs max_concurrency 2 -> 3 2 to replace"
    assert set(uploaded.state.recurring) == before, "diff changes nothing"
    assert schedule(["apply", changed]) == 0
    assert not before & set(uploaded.state.recurring)
    assert {one["mode"] for one in uploaded.state.recurring.values()} == {"ENABLE"}
    assert schedule(["diff", changed]) == 0


def test_what_the_file_no_longer_has_is_deleted_and_nothing_of_others(uploaded: Server, written: Written) -> None:
    schedule(["apply", str(written())])
    schedule(["apply", str(written(("owner: support", "owner: another")))])
    (experiment,) = uploaded.state.experiments
    by_hand = {
        "display_name": "by hand",
        "experiment_id": experiment,
        "mode": "ENABLE",
        "max_concurrency": "1",
        "trigger": {"cron_schedule": {"cron": "0 0 * * * *"}},
        "pipeline_version_reference": {"pipeline_id": next(iter(uploaded.state.pipelines))},
    }
    uploaded.create_recurring(query={}, body=by_hand)
    path = written()
    path.write_text(FILE[: FILE.index("  - name: docs")])
    assert schedule(["apply", str(path)]) == 0
    left = sorted(one["display_name"] for one in uploaded.state.recurring.values())
    assert left == ["by hand", "docs", "faq", "faq"]
    path.write_text("owner: support\nschedules: []\n")
    assert schedule(["apply", str(path)]) == 0
    assert sorted(one["display_name"] for one in uploaded.state.recurring.values()) == ["by hand", "docs", "faq"]


def test_a_deleted_schedule_leaves_its_runs_alone(uploaded: Server, written: Written) -> None:
    """A KFP schedule owns its runs: deleted as usual it takes a training that goes on with it."""
    schedule(["apply", str(written())])
    key, one = next(iter(uploaded.state.recurring.items()))
    version = next(iter(uploaded.state.versions.values()))
    run = uploaded.make_run(
        {"experiment_id": one["experiment_id"], "display_name": "r", "recurring_run_id": key}, version
    )
    run["state"] = "RUNNING"
    schedule(["apply", str(written(("epochs: 1", "epochs: 2")))])
    assert key not in uploaded.state.recurring
    assert run["state"] == "RUNNING"


@pytest.mark.parametrize("before", [-300, -95, -61, -45, -20, -1, 0, 15, 45, 89, 200])
def test_a_replacement_never_fires_twice_nor_not_at_all(
    uploaded: Server, api: Api, time: Time, written: Written, before: int
) -> None:
    scheduler = Scheduler(uploaded)
    apply(api, written())
    time.at = DUE + timedelta(seconds=before)
    scheduler.look(time.at - timedelta(seconds=20))  # the controller looks every now and then
    time.passing = scheduler.look
    assert apply(api, written(("epochs: 1", "epochs: 2"))) == ["replace", "keep"]
    time.go(DUE + timedelta(minutes=10))
    assert scheduler.at(DUE) == 1
    time.go(DUE + timedelta(days=1, minutes=5), step=3600)
    assert scheduler.at(DUE + timedelta(days=1)) == 1


@pytest.mark.parametrize("call", ["DELETE /apis/v2beta1/recurringruns", ":enable", "POST /apis/v2beta1/recurringruns"])
@pytest.mark.parametrize("after", [False, True])
def test_what_stops_an_apply_is_mended_by_the_next(
    uploaded: Server, api: Api, time: Time, written: Written, call: str, after: bool
) -> None:
    apply(api, written())
    time.at = DUE - timedelta(hours=2)
    scheduler = Scheduler(uploaded)
    time.passing = scheduler.look
    path = written(("epochs: 1", "epochs: 2"))
    uploaded.fault(call, after=after, times=200)
    with pytest.raises(KfpError):
        apply(api, path)
    uploaded.state.faults.clear()
    apply(api, path)
    faqs = [one for one in uploaded.state.recurring.values() if one["display_name"] == "faq"]
    assert [(one["mode"], one["runtime_config"]["parameters"]["epochs"]) for one in faqs] == [("ENABLE", 2.0)]
    assert apply(api, path) == ["keep", "keep"]
    time.go(DUE + timedelta(minutes=10), step=60)
    assert scheduler.at(DUE) == 1


def test_an_interrupted_replacement_leaves_the_old_schedule_at_work(
    uploaded: Server, api: Api, time: Time, written: Written
) -> None:
    apply(api, written())
    time.at = DUE - timedelta(hours=2)
    scheduler = Scheduler(uploaded)
    time.passing = scheduler.look
    uploaded.fault("DELETE /apis/v2beta1/recurringruns", times=200)
    with pytest.raises(KfpError):
        apply(api, written(("epochs: 1", "epochs: 2")))
    time.go(DUE + timedelta(minutes=10), step=60)
    assert scheduler.at(DUE) == 1, "the new one is there, but disabled"


@pytest.mark.parametrize(
    ("call", "away"),
    [
        *[("DELETE /apis/v2beta1/recurringruns", requests) for requests in (1, 4, 7)],
        *[(":enable", requests) for requests in (1, 4, 7)],
        *[("POST /apis/v2beta1/recurringruns", requests) for requests in (1, 3)],
    ],
)
def test_a_server_that_is_away_over_a_due_time_changes_nothing_of_that(
    uploaded: Server, api: Api, time: Time, written: Written, call: str, away: int
) -> None:
    """The moment was quiet, and then a request took a minute or two."""
    apply(api, written())
    time.at = DUE - timedelta(seconds=61)
    scheduler = Scheduler(uploaded)
    time.passing = scheduler.look
    uploaded.fault(call, 503, times=away)
    apply(api, written(("epochs: 1", "epochs: 2")))
    time.go(DUE + timedelta(minutes=10))
    assert scheduler.at(DUE) == 1


def test_a_lost_answer_makes_no_second_schedule(uploaded: Server, api: Api, written: Written) -> None:
    uploaded.fault("POST /apis/v2beta1/recurringruns", after=True)
    apply(api, written())
    assert [one["display_name"] for one in uploaded.state.recurring.values()] == ["faq", "docs"]


def test_a_pause_keeps_the_schedule_and_makes_up_for_nothing(
    uploaded: Server, api: Api, time: Time, written: Written
) -> None:
    """KFP makes the runs of the pause when one is enabled again (kubeflow/pipelines #8344)."""
    apply(api, written())
    scheduler = Scheduler(uploaded)
    time.passing = scheduler.look
    paused = written(("cron: 0 3 * * *", "enabled: false\n    cron: 0 3 * * *"))
    assert apply(api, paused) == ["pause", "keep"]
    assert apply(api, paused) == ["keep", "keep"]
    time.go(DUE + timedelta(days=2, hours=5), step=1800)
    assert [fired for fired, name in scheduler.fired if name == "faq"] == []
    assert apply(api, written()) == ["replace", "keep"]
    time.go(DUE + timedelta(days=3, minutes=5), step=600)
    assert [fired for fired, name in scheduler.fired if name == "faq"] == [DUE + timedelta(days=3)]


def test_what_somebody_changed_by_hand_is_put_right(uploaded: Server, api: Api, time: Time, written: Written) -> None:
    apply(api, written())
    faq = next(iter(uploaded.state.recurring.values()))
    faq |= {"mode": "DISABLE", "status": "DISABLED"}
    time.at += timedelta(hours=1)
    assert apply(api, written()) == ["replace", "keep"]


@pytest.mark.parametrize(
    ("change", "zone", "local"),
    [
        (datetime(2027, 3, 28, 1, tzinfo=UTC), "Europe/Berlin", "04:30"),
        (datetime(2027, 10, 31, 1, tzinfo=UTC), "Europe/Berlin", "04:30"),
        (datetime(2027, 3, 14, 7, tzinfo=UTC), "America/New_York", "23:15"),
        (datetime(2027, 3, 28, 1, tzinfo=UTC), "Europe/Berlin", "00:15"),
    ],
)
def test_a_zone_keeps_its_local_time_when_its_clocks_change(
    uploaded: Server, api: Api, time: Time, written: Written, change: datetime, zone: str, local: str
) -> None:
    """KFP has one zone for all schedules, so a schedule of another becomes one recurring run a period."""
    hour, minute = local.split(":")
    time.at = change - timedelta(days=3)
    apply(api, written(("cron: 0 3 * * *", f"cron: {int(minute)} {int(hour)} * * *\n    time_zone: {zone}")))
    scheduler = Scheduler(uploaded)
    time.passing = scheduler.look
    time.go(change + timedelta(days=3), step=3600)
    fired = sorted(instant.astimezone(ZoneInfo(zone)) for instant, name in scheduler.fired if name.startswith("faq"))
    assert [f"{instant:%H:%M}" for instant in fired] == [local] * 6
    assert len({instant.date() for instant in fired}) == 6


def test_periods_are_renewed_as_time_goes_on(uploaded: Server, api: Api, time: Time, written: Written) -> None:
    path = written(("cron: 0 3 * * *", "cron: 30 4 * * *\n    time_zone: Europe/Berlin"))
    apply(api, path)
    before = {one["display_name"] for one in uploaded.state.recurring.values()}
    assert before == {"faq from 2026-10-25", "faq from 2027-03-28", "faq from 2027-10-31", "docs"}
    time.at = datetime(2027, 5, 1, 12, tzinfo=UTC)
    assert apply(api, path) == ["replace", "keep"]
    after = {one["display_name"] for one in uploaded.state.recurring.values()}
    assert after == {"faq from 2027-03-28", "faq from 2027-10-31", "faq from 2028-03-26", "docs"}
    assert apply(api, path) == ["keep", "keep"]


def test_the_servers_own_zone_needs_no_periods(uploaded: Server, written: Written) -> None:
    path = str(written(("cron: 0 3 * * *", "cron: 30 4 * * *\n    time_zone: Europe/Berlin")))
    assert schedule(["apply", path, "--server-time-zone", "Europe/Berlin"]) == 0
    faq = next(iter(uploaded.state.recurring.values()))
    assert (faq["display_name"], faq["trigger"]["cron_schedule"]) == ("faq", {"cron": "0 30 4 * * *"})


def test_list_shows_everybodys_and_says_whose(
    uploaded: Server, written: Written, capsys: pytest.CaptureFixture[str]
) -> None:
    schedule(["apply", str(written())])
    schedule(["apply", str(written(("owner: support", "owner: another")))])
    capsys.readouterr()
    assert schedule(["list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:4] == ["schedule", "owner", "state", "cron"]
    assert [line.split()[:2] for line in lines[1:]] == [
        ["faq", "support"],
        ["docs", "support"],
        ["faq", "another"],
        ["docs", "another"],
    ]
    assert schedule(["list", "--owner", "another"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 3


def test_a_namespace_has_its_own_schedules(
    uploaded: Server, written: Written, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for namespace in ("team-a", "team-b"):
        assert schedule(["apply", str(written()), "--namespace", namespace]) == 0
    assert sorted(one["namespace"] for one in uploaded.state.recurring.values()) == ["team-a"] * 2 + ["team-b"] * 2
    monkeypatch.setenv("KFP_NAMESPACE", "team-a")
    assert schedule(["diff", str(written())]) == 0
    capsys.readouterr()
    assert schedule(["list"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 3


BAD = {
    ("cron: 0 3 * * *", "cron: 61 3 * * *"): "line 6: cron='61 3 * * *': minute 61 is not from 0 to 59",
    ("cron: 0 3 * * *", "cron: 0 3 * *"): "line 6: cron='0 3 * *' has 4 fields",
    ("cron: 0 3 * * *", "cron: 0 3 31 2 *"): "line 6: cron='0 3 31 2 *': no such day exists",
    ("cron: 0 3 * * *", 'cron: "* * * * *"'): "line 6: cron='* * * * *': fires every 60 s",
    ("cron: 0 3 * * *", "cron: 30 2 * * *\n    time_zone: Europe/Berlin"): "when the clocks change; take another time",
    ("cron: 0 3 * * *", "cron: 0 3 * * *\n    time_zone: Europe/Berln"): "line 7: time_zone='Europe/Berln' is unknown",
    ("experiment: retraining", "time_zone: Europe/Berln"): "line 2: time_zone='Europe/Berln' is unknown",
    ("experiment: retraining", "version: v9"): "line 2: pipeline 'private-llm' has no version 'v9'",
    ("max_concurrency: 2", "max_concurrency: 11"): "line 12: max_concurrency=11 is not from 1 to 10",
    ("max_concurrency: 2", "max_concurrency: two"): "line 12: max_concurrency='two' must be a whole number",
    ("max_concurrency: 2", "max_concurency: 2"): "line 12: 'max_concurency' is unknown; allowed: name, cron,",
    ("epochs: 1", "epochs: -1"): "line 9: epochs=-1 is not allowed; it must be above 0",
    ("epochs: 1", "epochs: many"): "line 9: epochs='many' must be a number",
    ("epochs: 1", "epoch: 1"): "line 9: unknown parameter 'epoch'",
    ("name: docs", "name: faq"): "line 10: name='faq' is given twice",
    ("  - name: docs\n    cron", "  - cron"): "line 10: 'name' is missing",
    ("owner: support\n", ""): "'owner' is missing",
    ("name: docs", "name: !tag docs"): "line 10: name: could not determine a constructor for the tag",
    ("cron: 0 3 * * *", "version: v9\n    cron: 0 3 * * *"): "line 6: pipeline 'private-llm' has no version 'v9'",
    ("cron: 0 3 * * *", "pipeline: other\n    cron: 0 3 * * *"): "line 6: no pipeline 'other' on",
    ("parameters: {dataset: org/docs, learning_rate: 1e-5}", "parameters: [oops"): "not YAML",
    ("parameters: {dataset: org/docs, learning_rate: 1e-5}", "parameters: " + "[" * 5000): "not YAML",
}


@pytest.mark.parametrize(("change", "said"), BAD.items(), ids=lambda value: str(value)[:40])
def test_bad_input_is_one_line_with_its_place_and_exit_2(
    uploaded: Server, written: Written, capsys: pytest.CaptureFixture[str], change: tuple[str, str], said: str
) -> None:
    capsys.readouterr()
    assert schedule(["apply", str(written(change))]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert uploaded.asked("POST /apis/v2beta1/recurringruns") == 0


def test_the_file_can_be_checked_without_a_server(
    written: Written, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("KF_PIPELINES_ENDPOINT", raising=False)
    assert schedule(["check", str(written())]) == 0
    assert capsys.readouterr().out.startswith("faq  0 3 * * * UTC  next ")
    assert schedule(["check", str(written(("epochs: 1", "epoch: 1")))]) == 2
    assert "line 9: unknown parameter 'epoch'" in capsys.readouterr().err


def test_diff_tells_a_failure_from_a_difference(
    uploaded: Server, written: Written, capsys: pytest.CaptureFixture[str]
) -> None:
    uploaded.fault("GET /apis/v2beta1/recurringruns", 500, times=9)
    assert schedule(["diff", str(written())]) == 3
    assert "failed (500)" in capsys.readouterr().err
