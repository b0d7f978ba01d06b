"""Each step alone, on files, through its command line."""

import inspect
import json
import re
import resource
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields
from hashlib import sha256
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from components.records import count_rows, read_json, write_json
from components.train.config import TrainConfig
from tests.conftest import ROOT, make_record, write_jsonl, write_records

STEPS = (
    *("resolve", "ingest", "drift", "tokenize", "split", "train", "evaluate", "gate", "register", "report"),
    "notify",
)


def run(step: str, **arguments: Any) -> subprocess.CompletedProcess[str]:
    return command(step, *(f"--{name}={value}" for name, value in arguments.items()))


def command(step: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", f"components.{step}", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("step", STEPS)
def test_help_names_and_explains_each_argument(step: str) -> None:
    finished = command(step, "--help")
    assert (finished.returncode, finished.stderr) == (0, "")
    function: Callable[..., Any] = getattr(import_module(f"components.{step}.{step}"), step)
    names = (
        [field.name for field in fields(TrainConfig)]
        if step == "train"
        else list(inspect.signature(function).parameters)
    )
    explained = " ".join(finished.stdout.partition("options:")[2].split())
    for name in names:
        assert re.search(rf" --{name} \S+ [A-Za-z].*?\. \((required, )?type: ", explained), f"{name} is not explained"


@pytest.mark.parametrize(
    ("step", "arguments", "named"),
    [
        ("ingest", {"dataset": "{folder}/missing.jsonl"}, "missing.jsonl does not exist"),
        ("ingest", {"dataset": "{folder}/bad.jsonl"}, "no valid record"),
        ("ingest", {"dataset": "{folder}/good.jsonl", "columns": "question"}, "'question' is not field=column"),
        ("ingest", {"dataset": "{folder}/good.jsonl", "records": "{folder}"}, "Is a directory"),
        (
            "ingest",
            {"dataset": "{folder}/good.jsonl", "pii_names": "tests.broken_names:f"},
            "RuntimeError: not today",
        ),
        ("tokenize", {"template": "alpaca"}, "allowed: dolly, base"),
        ("tokenize", {"max_length": "-5"}, "max_length=-5 must be at least 1, or 0"),
        ("tokenize", {"records": "{folder}/good.jsonl", "base_model": "{model}"}, "good.jsonl is no Parquet file"),
        ("split", {"tokens": "{folder}", "records": "{folder}/records.parquet"}, "cannot read /"),
        ("split", {"tokens": "{folder}/records.parquet", "records": "{folder}/records.parquet"}, "no column 'key'"),
        ("split", {"test_size": "1.5"}, "test_size=1.5 is neither a fraction"),
        ("gate", {"evaluation": "{folder}/figures.json", "rules": "{folder}/rules.yaml"}, "rules.yaml does not exist"),
        ("drift", {"rules": "{folder}/rules.yaml"}, "rules.yaml does not exist"),
        ("resolve", {"start_from": "best", "configuration": "{{}}"}, "allowed: base, champion"),
        ("gate", {"min_improvement": "1"}, "min_improvement=1 must be a share"),
        ("evaluate", {"precision": "int8"}, "allowed: fp32, bf16"),
        ("train", {"method": "qlora"}, "allowed: full, lora"),
        ("resolve", {"dataset": "{folder}/missing.csv", "configuration": "{{}}"}, "missing.csv does not exist"),
        (
            "resolve",
            {
                "dataset": "{folder}/good.jsonl",
                "base_model": "{model}",
                "registry": "mlflow.db",
                "configuration": "{{}}",
            },
            "sqlite:///",
        ),
    ],
)
def test_a_bad_value_is_one_line_and_exit_2(
    tmp_path: Path, stories: Path, step: str, arguments: dict[str, str], named: str
) -> None:
    write_jsonl(tmp_path / "bad.jsonl", [1])
    write_json(tmp_path / "figures.json", {"models": {}, "corpora": {}})
    write_jsonl(tmp_path / "good.jsonl", [{"instruction": "a", "response": "b"}])
    write_records(tmp_path / "records.parquet", [make_record("a", "b")])
    given = {name: value.format(folder=tmp_path, model=stories) for name, value in arguments.items()}
    finished = run(step, **{**_required(step, tmp_path), **given})
    assert finished.returncode == 2, finished.stderr
    (message,) = finished.stderr.splitlines()
    assert message.startswith(f"{step}: ")
    assert named in message


@pytest.mark.parametrize(
    ("step", "missing"),
    [
        ("tokenize", "records"),
        ("split", "tokens"),
        ("gate", "evaluation"),
        ("evaluate", "test"),
        ("report", "ingested"),
    ],
)
def test_a_file_that_is_missing_is_one_line_and_exit_2(tmp_path: Path, stories: Path, step: str, missing: str) -> None:
    finished = run(
        step, **{**_required(step, tmp_path), **({"base_model": stories} if step in ("tokenize", "evaluate") else {})}
    )
    assert "Traceback" not in finished.stderr
    assert finished.returncode == 2
    (message,) = finished.stderr.splitlines()
    assert str(tmp_path / missing) in message


def test_a_disk_without_room_is_one_line_and_exit_1(tmp_path: Path) -> None:
    """A limit on a file's size stands for the disk's: both are met while writing."""
    rows = [{"instruction": f"Question {n}?", "response": sha256(str(n).encode()).hexdigest()} for n in range(2000)]
    write_jsonl(tmp_path / "rows.jsonl", rows)
    arguments = {**_required("ingest", tmp_path), "dataset": tmp_path / "rows.jsonl"}
    finished = subprocess.run(
        [sys.executable, "-m", "components.ingest", *(f"--{name}={value}" for name, value in arguments.items())],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (16 << 10, 16 << 10)),
    )
    assert finished.returncode == 1, finished.stderr
    message = finished.stderr.splitlines()[-1]
    assert message == "ingest: File too large; nothing was finished, give it more room"
    assert "Traceback" not in finished.stderr


@pytest.mark.parametrize(
    ("arguments", "named"),
    [(["--seed=many"], "seed"), (["--sead=1"], "--sead"), (["--records"], "--records"), ([], "tokens")],
)
def test_arguments_that_cannot_be_understood_exit_2(arguments: list[str], named: str) -> None:
    required = [f"--{name}=x" for name in ("records", "tokens", "train", "test", "metrics")]
    finished = command("split", *(required if arguments else []), *arguments)
    assert finished.returncode == 2
    assert "Traceback" not in finished.stderr
    assert named in finished.stderr.partition("error:")[2]


def _required(step: str, folder: Path) -> dict[str, Any]:
    """A value for each argument that a step cannot do without: a path where there is nothing yet."""
    function: Callable[..., Any] = getattr(import_module(f"components.{step}.{step}"), step)
    parameters = inspect.signature(TrainConfig if step == "train" else function).parameters.values()
    return {parameter.name: folder / parameter.name for parameter in parameters if parameter.default is parameter.empty}


def test_ingest_tokenize_and_split_run_alone_on_files(tmp_path: Path, stories: Path) -> None:
    rows = [{"instruction": f"Question {n}?", "response": f"Answer {n}."} for n in range(60)]
    dataset = write_jsonl(tmp_path / "rows.jsonl", [*rows, rows[0], {"instruction": "no answer"}])
    records, tokens = tmp_path / "records", tmp_path / "tokens"
    finished = run(
        "ingest",
        dataset=dataset,
        records=records,
        rejects=tmp_path / "rejects",
        metrics=tmp_path / "ingest.json",
    )
    assert (finished.returncode, finished.stderr) == (0, "")
    assert "62 rows = 60 records + 1 rejected + 1 removed" in finished.stdout
    finished = run(
        "tokenize",
        records=records,
        base_model=stories,
        base_model_digest="",
        tokens=tokens,
        tokenizer=tmp_path / "tokenizer",
        metrics=tmp_path / "tokenize.json",
    )
    assert (finished.returncode, finished.stderr) == (0, "")
    assert (
        json.loads((tmp_path / "tokenizer" / "tokenizer_config.json").read_text(encoding="utf-8"))["eos_token"]
        == "### End"
    )
    finished = run(
        "split",
        records=records,
        tokens=tokens,
        test_size=0.25,
        train=tmp_path / "train",
        test=tmp_path / "test",
        metrics=tmp_path / "split.json",
    )
    assert (finished.returncode, finished.stderr) == (0, "")
    counts = read_json(tmp_path / "split.json")
    assert count_rows(tmp_path / "train") == counts["train"]
    assert count_rows(tmp_path / "test") == counts["test"]
    assert counts["train"] + counts["test"] + sum(counts["removed"].values()) == 60


def test_arguments_may_stand_in_a_file(tmp_path: Path) -> None:
    figures = {
        "models": {"base": {"bits_per_byte": 2}, "tuned": {"bits_per_byte": 1}},
        "tuned_over": {"base": {"bits_per_byte_ratio": 0.5, "interval": [0.4, 0.6]}},
        "corpora": {},
    }
    write_json(tmp_path / "evaluation.json", figures)
    settings = {name: str(tmp_path / f"{name}.json") for name in ("evaluation", "verdict", "panel")}
    write_json(tmp_path / "arguments.json", settings)
    finished = command("gate", f"--config={tmp_path / 'arguments.json'}", "--min_improvement=0.6")
    assert (finished.returncode, finished.stderr) == (0, "")
    assert read_json(tmp_path / "verdict.json")["verdict"] == "rejected"
