"""Runs on a KFP server, by the command and over HTTP."""

import json
import re
import sys
from pathlib import Path

import pytest
import yaml

from pipeline.compile import COMMITTED
from pipeline.compile import main as compile_main
from pipeline.packages import content_digest, read_package
from pipeline.steps import steps
from pipeline.submit import main as submit
from tests.kfp_server.play import Play
from tests.kfp_server.server import Server

STEPS = [step.name for step in steps(read_package(COMMITTED).spec)]
Captured = pytest.CaptureFixture[str]


def submitted(server: Server, *words: str) -> str:
    """The id of a run that is made now."""
    assert submit(["--param", "dataset=org/data", *words]) == 0
    return list(server.state.runs)[-1]


def test_a_first_run_needs_nothing_but_a_dataset(server: Server, capsys: Captured) -> None:
    assert submit(["--param", "dataset=org/data"]) == 0
    (run,) = server.state.runs.values()
    (version,) = server.state.versions.values()
    (experiment,) = server.state.experiments.values()
    said = capsys.readouterr().out
    assert f"version     {version['name']} (uploaded)" in said
    assert f"link        {server.url}/#/runs/details/{run['run_id']}" in said
    assert run["runtime_config"]["parameters"] == {"dataset": "org/data"}
    assert run["pipeline_version_reference"]["pipeline_version_id"] == version["pipeline_version_id"]
    assert experiment["display_name"] == "Default"
    assert version["pipeline_spec"]["platform_spec"], "placement and secrets go with the pipeline"


def test_a_version_is_uploaded_when_its_digest_is_new_and_never_twice(
    server: Server, tmp_path: Path, capsys: Captured
) -> None:
    for _ in range(2):
        assert submit(["upload"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert (said[0].endswith("(uploaded)"), said[1].endswith("(was there)")) == (True, True)
    other = tmp_path / "other.yaml"
    other.write_text(COMMITTED.read_text().replace("maxRetryCount: 2", "maxRetryCount: 3"))
    assert submit(["upload", "--pipeline-file", str(other)]) == 0
    versions = list(server.state.versions.values())
    digests = [content_digest(path.read_text()) for path in (COMMITTED, other)]
    assert [version["description"] for version in versions] == digests
    assert [version["name"].rpartition("-")[2] for version in versions] == [digest[7:15] for digest in digests]
    assert len(server.state.pipelines) == 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: [", "not YAML: "),
        ("[" * 5000, "not YAML: "),
        ("day: 2026-02-30", "not YAML: day is out of range"),
        ("a: 1", "is no compiled pipeline; python -m pipeline.compile writes one"),
    ],
    ids=["open", "deep", "no day", "no pipeline"],
)
def test_a_file_that_is_no_pipeline_is_one_line(
    server: Server, tmp_path: Path, text: str, said: str, capsys: Captured
) -> None:
    (tmp_path / "bad.yaml").write_text(text)
    assert submit(["upload", "--pipeline-file", str(tmp_path / "bad.yaml")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"submit: --pipeline-file {tmp_path / 'bad.yaml'}")
    assert said in line
    assert not server.state.pipelines


def test_the_version_has_the_name_that_kubernetes_objects_have(server: Server, tmp_path: Path) -> None:
    submit(["upload"])
    path = tmp_path / "objects.yaml"
    compile_main(["--format", "kubernetes", "--output", str(path)])
    objects = list(yaml.safe_load_all(path.read_text()))
    assert [version["name"] for version in server.state.versions.values()] == [objects[1]["metadata"]["name"]]


def test_a_profile_is_compiled_and_says_where_the_server_is(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("KF_PIPELINES_ENDPOINT")
    profile = tmp_path / "mine.yaml"
    profile.write_text(f"extends: default\nretries: 5\nkfp: {{host: '{server.url}', namespace: team}}\n")
    assert submit(["--profile", str(profile), "--param", "dataset=org/data"]) == 0
    (version,) = server.state.versions.values()
    assert "'maxRetryCount': 5" in str(version["pipeline_spec"])
    assert [pipeline["namespace"] for pipeline in server.state.pipelines.values()] == ["team"]
    assert [experiment["namespace"] for experiment in server.state.experiments.values()] == ["team"]


def test_flags_go_before_the_environment_and_that_before_the_profile(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    profile = tmp_path / "mine.yaml"
    profile.write_text("extends: default\nkfp: {host: 'http://127.0.0.1:1', ui: 'https://profile.example.com'}\n")
    monkeypatch.setenv("KFP_NAMESPACE", "of-the-environment")
    assert submit(["--profile", str(profile), "--namespace", "of-the-flag", "--param", "dataset=org/data"]) == 0
    assert [one["namespace"] for one in server.state.experiments.values()] == ["of-the-flag"]
    assert "https://profile.example.com/#/runs/details/" in capsys.readouterr().out


def test_parameters_come_from_a_file_and_flags_go_before_it(server: Server, tmp_path: Path) -> None:
    values = tmp_path / "values.yaml"
    values.write_text("dataset: org/data\nepochs: 3\nlearning_rate: 1e-5\ngradient_checkpointing: false\n")
    assert submit(["--params", str(values), "--param", "epochs=4", "seed=7"]) == 0
    (run,) = server.state.runs.values()
    assert run["runtime_config"]["parameters"] == {
        "dataset": "org/data",
        "epochs": 4.0,
        "learning_rate": 1e-5,
        "gradient_checkpointing": False,
        "seed": 7.0,
    }


BAD = {
    "datast=org/data": "unknown parameter 'datast'; did you mean dataset? Allowed: ",
    "epochs=many": "epochs='many' must be a number",
    "epochs=0": "epochs=0 is not allowed; it must be above 0",
    "seed=1.5": "seed=1.5 must be a whole number",
    "method=qlora": "method='qlora' is not allowed; it must be one of full, lora",
    "gradient_checkpointing=maybe": "gradient_checkpointing='maybe' must be true or false",
    "epochs": "--param 'epochs' is not of the form name=value",
    "dataset=faq.csv": "dataset='faq.csv' is a path on this machine, which no pod can read",
    "dataset=[s3://a/x.jsonl]": "dataset='[s3://a/x.jsonl]' is no URI",
    "template=my.jinja": "template='my.jinja' is a path on this machine",
    "drift_rules=rules.yaml": "drift_rules='rules.yaml' is a path on this machine",
    "evaluation_corpora=wiki=wiki.txt": "evaluation_corpora='wiki.txt' is a path on this machine",
    "evaluation_tasks=./tasks": "evaluation_tasks='./tasks' is a path on this machine",
    "checkpoints=kept": "checkpoints='kept' is a path on this machine",
    "registry=": "registry must not be empty",
}


@pytest.mark.parametrize(("pair", "said"), BAD.items())
def test_bad_parameters_are_one_line_and_exit_2_before_anything_is_sent(
    server: Server, capsys: Captured, pair: str, said: str
) -> None:
    assert submit(["--param", pair]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"submit: {said}")
    assert error.count("\n") == 1
    assert server.state.calls == []


def test_a_bad_file_of_parameters_is_one_line(server: Server, tmp_path: Path, capsys: Captured) -> None:
    texts = {"list.yaml": "- a\n", "broken.yaml": "a: [\n", "date.yaml": "a: 2026-02-30\n", "off.yaml": "pii: off\n"}
    for name, text in {"none.yaml": None, **texts}.items():
        path = tmp_path / name
        if text:
            path.write_text(text)
        assert submit(["--params", str(path)]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
    assert error == (
        "submit: pii=False must be text; put on, off, yes and no into quotes, YAML reads them as true or false\n"
    )


def test_a_dry_run_sends_nothing_and_prints_what_would_be_sent(
    server: Server, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("KF_PIPELINES_ENDPOINT")
    assert submit(["--dry-run", "--param", "dataset=org/data", "epochs=3", "--experiment", "trials"]) == 0
    said = yaml.safe_load(capsys.readouterr().out)
    assert said["digest"] == content_digest(COMMITTED.read_text())
    assert (said["pipeline"], said["experiment"]) == ("private-llm", "trials")
    assert said["parameters"] == {"dataset": "org/data", "epochs": 3}
    assert server.state.calls == []


def test_a_version_of_the_server_is_taken_by_name_or_as_the_latest(
    uploaded: Server, tmp_path: Path, capsys: Captured
) -> None:
    (first,) = uploaded.state.versions
    uploaded.state.versions[first]["created_at"] = "2020-01-01T00:00:00Z"
    other = tmp_path / "other.yaml"
    other.write_text(COMMITTED.read_text().replace("maxRetryCount: 2", "maxRetryCount: 3"))
    submit(["upload", "--pipeline-file", str(other)])
    name = uploaded.state.versions[first]["name"]
    for version in (name, "latest"):
        assert submit(["--version", version, "--param", "dataset=org/data"]) == 0
    taken = [run["pipeline_version_reference"]["pipeline_version_id"] for run in uploaded.state.runs.values()]
    assert taken == list(uploaded.state.versions)
    assert submit(["--version", "none", "--param", "dataset=org/data"]) == 2
    assert submit(["--version", name, "--param", "datast=org/data"]) == 2
    assert "unknown parameter 'datast'" in capsys.readouterr().err


def test_waiting_shows_the_steps_and_ends_with_the_runs_outcome(server: Server, capsys: Captured) -> None:
    assert submit(["--param", "dataset=org/data", "--wait", "--poll", "0"]) == 0
    said = capsys.readouterr().out
    assert re.search(r"^\d\d:\d\d:\d\d  resolve +SUCCEEDED$", said, re.MULTILINE)
    table = said[said.index("\nstep ") :].splitlines()
    assert [line.split()[0] for line in table[2:-1]] == STEPS
    assert STEPS[0] == "resolve"
    assert "driver" not in said
    assert "executor" not in said
    assert said.splitlines()[-1].startswith("SUCCEEDED after ")


def test_a_failed_run_is_exit_1_and_names_the_step_and_its_log(server: Server, capsys: Captured) -> None:
    server.state.script = lambda run: Play(run, fails_at="train")
    assert submit(["--param", "dataset=org/data", "--wait", "--poll", "0"]) == 1
    (run,) = server.state.runs
    said = capsys.readouterr()
    assert said.err == (
        f"submit: the run failed in train: a step has failed; python -m pipeline.submit logs {run} train\n"
    )
    assert re.search(r"^evaluate +not run$", said.out, re.MULTILINE), "what stands behind it was omitted"


def test_waiting_can_end_before_the_run(server: Server, capsys: Captured) -> None:
    server.state.script = lambda run: Play(run, stuck_at="train")
    words = ["--param", "dataset=org/data", "--wait", "--poll", "0.05", "--wait-timeout", "0.2"]
    assert submit(words) == 1
    assert "is RUNNING after 0.2 s of waiting; it goes on by itself" in capsys.readouterr().err
    assert [run["state"] for run in server.state.runs.values()] == ["RUNNING"]


def test_a_terminal_gets_a_table_that_is_redrawn(
    server: Server, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert submit(["--param", "dataset=org/data", "--wait", "--poll", "0"]) == 0
    said = capsys.readouterr().out
    assert said.count("\x1b[") > 20
    assert len(re.findall(r"resolve", said)) == said.count("step ")


def test_one_key_makes_one_run_however_often_it_is_submitted(server: Server, capsys: Captured) -> None:
    for _ in range(2):
        submitted(server, "--once", "job-17")
    assert len(server.state.runs) == 1
    assert "(was there: --once)" in capsys.readouterr().out
    submitted(server, "--once", "job-18")
    submitted(server, "--once", "job-17", "--experiment", "other")
    assert len(server.state.runs) == 3
    assert submit(["--once", "a b", "--param", "dataset=org/data"]) == 2


def test_a_key_whose_run_failed_makes_another(server: Server) -> None:
    first = submitted(server, "--once", "job-17")
    server.state.runs[first]["state"] = "FAILED"
    second = submitted(server, "--once", "job-17")
    assert submitted(server, "--once", "job-17") == second != first
    assert [run["state"] for run in server.state.runs.values()] == ["FAILED", "PENDING"]


def test_runs_are_listed_the_youngest_first_and_page_by_page(server: Server, capsys: Captured) -> None:
    first = submitted(server, "--experiment", "a")
    for number in range(120):
        run = server.state.runs[first]
        key = f"{number:036}"
        stamp = f"2020-01-01T{number // 60:02}:{number % 60:02}:00Z"
        server.state.runs[key] = {**run, "run_id": key, "created_at": stamp}
        server.state.plays[key] = server.state.plays[first]
    submitted(server, "--experiment", "b")
    capsys.readouterr()
    assert submit(["list", "--limit", "200"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 123
    assert submit(["list"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 21
    assert submit(["list", "--experiment", "b"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2
    assert submit(["list", "--experiment", "none"]) == 2


def test_a_run_whose_state_the_server_cannot_tell_is_listed(server: Server, capsys: Captured) -> None:
    run = submitted(server)
    del server.state.runs[run]["state"]
    capsys.readouterr()
    assert submit(["list"]) == 0
    assert f"{run}  unknown " in capsys.readouterr().out


@pytest.mark.parametrize("retried", [(), ("evaluate",)])
@pytest.mark.parametrize("behind_ui", [False, True])
def test_a_steps_log_is_found_behind_its_argo_nodes(
    server: Server, capsys: Captured, retried: tuple[str, ...], behind_ui: bool
) -> None:
    server.state.behind_ui = behind_ui
    server.state.script = lambda run: Play(run, retried=retried)
    server.state.logs = {"evaluate": ["evaluate: base perplexity 35.096", "evaluate: tuned perplexity 15.967"]}
    run = submitted(server, "--wait", "--poll", "0")
    capsys.readouterr()
    assert submit(["logs", run, "evaluate"]) == 0
    assert capsys.readouterr().out.splitlines() == server.state.logs["evaluate"]
    assert submit(["logs", run]) == 0
    assert "evaluate" in capsys.readouterr().out
    assert submit(["logs", run, "eval"]) == 2
    assert "no step 'eval' in this run; it has resolve," in capsys.readouterr().err


def test_a_log_that_is_gone_says_where_to_look(server: Server, capsys: Captured) -> None:
    run = submitted(server, "--wait", "--poll", "0")
    assert submit(["logs", run, "gate"]) == 1
    assert f"-l pipeline/runid={run},private-llm/step=gate" in capsys.readouterr().err


def test_a_run_is_terminated_and_an_ended_one_left_alone(server: Server, capsys: Captured) -> None:
    server.state.script = lambda run: Play(run, stuck_at="train")
    run = submitted(server)
    assert submit(["terminate", run]) == 0
    assert submit(["wait", run, "--poll", "0"]) == 1
    assert server.state.runs[run]["state"] == "CANCELED"
    assert submit(["terminate", run]) == 0
    assert "has ended: CANCELED" in capsys.readouterr().out
    assert submit(["terminate", "none"]) == 2


def test_a_failed_run_is_retried_and_waited_for(server: Server, capsys: Captured) -> None:
    server.state.script = lambda run: Play(run, fails_at="train")
    assert submit(["--param", "dataset=org/data", "--wait", "--poll", "0"]) == 1
    (run,) = server.state.runs
    assert submit(["retry", run, "--wait", "--poll", "0"]) == 0
    assert submit(["retry", run]) == 2
    assert "is SUCCEEDED; only a failed or canceled one can be retried" in capsys.readouterr().err


def test_two_runs_are_compared_in_parameters_and_metrics(server: Server, capsys: Captured) -> None:
    runs = []
    for epochs, perplexity in ((1, 17.5), (2, 15.967)):
        runs.append(submitted(server, "--param", f"epochs={epochs}", "--wait", "--poll", "0"))
        server.state.logs = {
            "ingest": ["ingest: 318 rows = 318 records + 0 rejected + 0 removed"],
            "split": ["split: 296 train, 22 test, 0 removed"],
            "train": ["train: 74 steps, loss 1.532, 842 tokens/s"],
            "evaluate": [f"evaluate: tuned perplexity {perplexity:.3f}, 1.1316 bits per byte"],
            "gate": ["gate: accepted; improves on the base model"],
            "register": ["register: faq version 3 (new), alias champion"],
        }
        if epochs == 1:
            server.state.logs = json.loads(json.dumps(server.state.logs))
    capsys.readouterr()
    assert submit(["compare", *runs]) == 0
    table = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert table[0] == [run[:8] for run in runs]
    rows = {row[0]: row[1:] for row in table[1:]}
    assert rows["epochs"] == ["1", "2", "*"]
    assert "seed" not in rows, "what is the same is left out"
    assert rows["evaluate.tuned.perplexity"][0] == "15.967"
    assert rows["train.tokens_per_second"] == ["842", "842"]
    assert rows["gate.verdict"] == ["accepted", "accepted"]
    assert submit(["compare", *runs, "--all"]) == 0
    assert re.search(r"^seed +42 +42$", capsys.readouterr().out, re.MULTILINE)


def test_help_names_every_command(capsys: Captured) -> None:
    with pytest.raises(SystemExit) as end:
        submit(["--help"])
    assert end.value.code == 0
    said = capsys.readouterr().out
    assert all(name in said for name in ("upload", "list", "wait", "logs", "terminate", "retry", "compare"))


def test_the_profiles_account_runs_the_pods(server: Server, tmp_path: Path, capsys: Captured) -> None:
    profile = tmp_path / "mine.yaml"
    profile.write_text("extends: default\nkfp: {service_account: private-llm-launcher}\n")
    words = ["--profile", str(profile), "--param", "dataset=org/data"]
    assert submit(words) == 0
    assert submit([*words, "--service-account", "another"]) == 0
    assert [run["service_account"] for run in server.state.runs.values()] == ["private-llm-launcher", "another"]
