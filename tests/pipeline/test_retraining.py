"""Scheduled runs do what is needed and no more: nothing, only more, or a stop; on real records, through kfp.local."""

import json
import resource
import shutil
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from components.records import read_table
from components.registry import open_registry
from tests.http_fakes import QuietHandler, serving
from tests.pipeline.test_run import cached, run, summary

MESSAGES: list[str] = []


class Webhook(QuietHandler):
    """Takes whatever it is sent."""

    def serve(self) -> None:
        MESSAGES.append(json.loads(self.body())["text"])
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()


@pytest.fixture
def messages(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """What a webhook on this machine is sent."""
    handler: type[BaseHTTPRequestHandler] = Webhook
    MESSAGES.clear()
    with serving(handler) as place:
        monkeypatch.setenv("PRIVATE_LLM_WEBHOOK_URL", f"http://{place}/services/SECRET")
        yield MESSAGES


@pytest.fixture
def registry(trained: Path, tmp_path: Path) -> str:
    """A registry of the test's own, in which `trained` is the champion."""
    return f"sqlite:///{shutil.copy(trained.parent / 'mlflow.db', tmp_path / 'mlflow.db')}"


def changed(arguments: list[str], **values: str) -> list[str]:
    """The same parameters with some of them changed or added."""
    names = [argument.partition("=")[0] for argument in arguments]
    kept = [argument for argument, name in zip(arguments, names, strict=True) if name not in values]
    return [*kept, *(f"{name}={value}" for name, value in values.items())]


def more(dolly: Path, path: Path, rows: list[dict[str, Any]] | None = None) -> Path:
    """The 300 records of `trained`, and behind them the next 500 of dolly-15k, or the rows that are given."""
    lines = dolly.read_text(encoding="utf-8").splitlines(keepends=True)
    added = lines[300:800] if rows is None else [json.dumps(row) + "\n" for row in rows]
    path.write_text("".join(lines[:300] + added), encoding="utf-8")
    return path


def test_a_run_of_the_same_data_and_configuration_trains_nothing_and_says_so(
    trained: Path, trained_arguments: list[str], messages: list[str]
) -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    unchanged = run(trained.parent / "unchanged", *changed(trained_arguments, on_unchanged="skip"))
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime  # whoever else is at work meanwhile
    assert unchanged.returncode == 0, unchanged.stdout + unchanged.stderr
    assert seconds < 60
    result = summary(trained.parent / "unchanged")
    assert result["outcome"] == "unchanged"
    assert result["gate"]["verdict"] == "accepted"
    assert cached(trained.parent / "unchanged") == {"resolve": False, "notify": False}, "nothing else was started"
    said = "nothing is new: the same data and configuration gave version 1 of private-llm; nothing is trained"
    assert said in unchanged.stdout
    assert said[1:] in Path(result["artifacts"]["notice"]["path"]).read_text(encoding="utf-8")
    (message,) = messages
    assert message.startswith("private-llm: unchanged: the same data and configuration gave version 1; nothing was")


@pytest.mark.long
def test_five_hundred_new_records_train_on_from_the_champion_and_move_nothing(
    trained: Path, trained_arguments: list[str], dolly: Path, registry: str, tmp_path: Path, messages: list[str]
) -> None:
    data = more(dolly, tmp_path / "dolly800.jsonl")
    values = {"dataset": str(data), "registry": registry, "start_from": "champion", "epochs": "0.2"}
    output = trained.parent / "more"
    finished = run(output, *changed(trained_arguments, **values, evaluation_prompts="0", on_unchanged="skip"))
    assert finished.returncode == 0, finished.stdout + finished.stderr
    result, before = summary(output), summary(trained)
    assert result["news"] == "new since the champion, version 1: dataset, configuration"
    assert result["started_from"] == "1"
    assert "train: starting from version 1 of private-llm" in finished.stdout
    assert 480 <= result["drift"]["new_records"] <= 500
    assert result["drift"]["measures"]["category_psi"] < 0.25
    assert not result["drift"]["drifted"]
    assert result["champion"]["perplexity"] != before["tuned"]["perplexity"], "it is measured on the larger test set"
    for side in ("train", "test"):  # the split's sides: nothing that was there has moved
        old, new = ({row["id"] for row in read_table(run / f"{side}.parquet", ["id"])} for run in (trained, output))
        assert old <= new, side
    first_loss = json.loads((output / "curves.json").read_text())[0]["eval_loss"]
    assert first_loss < json.loads((trained / "curves.json").read_text())[0]["eval_loss"] - 0.3, (
        "the champion's weights"
    )
    assert messages[0].startswith(f"private-llm: {result['gate']['verdict']}")
    if result["gate"]["verdict"] == "accepted":
        version = open_registry(registry, "private-llm").numbered("2")
        assert version.tags["started_from"].startswith("1:")
    assert "SECRET" not in finished.stdout + (output / "logs" / "notify.log").read_text()


@pytest.mark.long
def test_a_drifted_file_stops_before_training_and_says_by_which_rule(
    trained: Path, trained_arguments: list[str], dolly: Path, registry: str, tmp_path: Path, messages: list[str]
) -> None:
    rows = [
        {"instruction": f"Übersetze {number}", "context": "", "response": f"qzx {number}", "category": "translation"}
        for number in range(200)
    ]
    data = more(dolly, tmp_path / "drifted.jsonl", rows)
    values = {"dataset": str(data), "registry": registry, "on_drift": "fail", "near_duplicates": "0"}
    stopped = run(trained.parent / "drifted", *changed(trained_arguments, **values))
    assert stopped.returncode == 1
    reason = "step admit failed: on_drift=fail: the new data has drifted; "
    assert reason in stopped.stderr
    assert "the categories are as they were: no: category_psi " in stopped.stderr
    assert ", must be at most 0.25" in stopped.stderr
    assert not (trained.parent / "drifted" / "logs" / "train.log").exists()
    assert not (trained.parent / "drifted" / "summary.json").exists()
    (message,) = messages
    assert message.startswith("private-llm: stopped before training, because the new data has drifted: the lengths are")
    assert len(open_registry(registry, "private-llm").versions()) == 1
