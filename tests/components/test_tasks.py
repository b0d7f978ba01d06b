"""Downstream tasks: pinned by what they say, and scored as lm-evaluation-harness itself scores them."""

import json
import math
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from components.errors import DataError, ParameterError
from components.evaluate.evaluate import evaluate
from components.evaluate.tasks import TaskScore, check_harness, compare_tasks
from components.records import read_json
from components.rendering import load_tokenizer
from components.tasks import parse_tasks, pin_tasks, task_names, tasks_digest
from tests.conftest import shared, write_jsonl

QUESTIONS = [
    ("Once upon a time, there was a little", ["girl", "xylophone", "tax"], 0),
    ("The dog likes to", ["carburetor", "play", "sum"], 1),
    ("She was very", ["happy", "isotope", "seven"], 0),
    ("Lily saw a big", ["quickly", "and", "tree"], 2),
    ("Tom and Sue went to the", ["park", "qubit", "very"], 0),
    ("The bird can", ["blue", "subtract", "fly"], 2),
    ('His mom said, "Do not', ["cry", "table", "of"], 0),
    ("It was a sunny", ["run", "day", "them"], 1),
]


def task_file(name: str, **more: Any) -> str:
    """A task file whose data lie beside it."""
    content = {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": f"{name}.jsonl"}},
        "test_split": "test",
        **more,
    }
    return yaml.safe_dump(content)


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two tasks that need no network: endings to choose from, and a text to read."""
    folder = tmp_path_factory.mktemp("tasks")
    write_jsonl(folder / "endings.jsonl", [{"begin": b, "choices": c, "right": r} for b, c, r in QUESTIONS])
    metrics = [{"metric": name, "aggregation": "mean", "higher_is_better": True} for name in ("acc", "acc_norm")]
    choose = {"doc_to_text": "{{begin}}", "doc_to_choice": "{{choices}}", "doc_to_target": "{{right}}"}
    (folder / "endings.yaml").write_text(
        task_file("endings", output_type="multiple_choice", metric_list=metrics, **choose), encoding="utf-8"
    )
    text = shared("text", "wikitext-2.valid.txt").read_text(encoding="utf-8")[:2000]
    write_jsonl(folder / "reading.jsonl", [{"text": text}])
    figures = [{"metric": name} for name in ("word_perplexity", "byte_perplexity", "bits_per_byte")]
    read = {"doc_to_text": "", "doc_to_target": "{{text}}"}
    (folder / "reading.yaml").write_text(
        task_file("reading", output_type="loglikelihood_rolling", metric_list=figures, **read), encoding="utf-8"
    )
    return folder


def test_a_list_has_names_and_folders() -> None:
    assert parse_tasks("") == []
    assert parse_tasks("arc_easy, mmlu_pro,./own,s3://bucket/tasks") == [
        "arc_easy",
        "mmlu_pro",
        "./own",
        "s3://bucket/tasks",
    ]
    for bad in ("a,a", "what is this", "records"):
        with pytest.raises(ParameterError, match="is neither a task's name nor a folder"):
            parse_tasks(bad)


def test_a_folder_is_pinned_by_its_bytes_and_not_by_its_place(tasks: Path, tmp_path: Path) -> None:
    pinned = pin_tasks(f"boolq,{tasks}")
    assert task_names(pinned) == ["boolq", "endings", "reading"]
    copied = shutil.copytree(tasks, tmp_path / "copy")
    assert tasks_digest(pin_tasks(f"boolq,{copied}")) == tasks_digest(pinned)
    (copied / "endings.jsonl").write_text("{}\n", encoding="utf-8")
    assert tasks_digest(pin_tasks(f"boolq,{copied}")) != tasks_digest(pinned)
    assert tasks_digest(pin_tasks("boolq")) != tasks_digest(pin_tasks("piqa"))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", "", "has no YAML file with a line `task: NAME`"),
        ("a.yaml", "task: [", "a.yaml is not YAML"),
        ("a.yaml", "task: 2026-02-30", "a.yaml is not YAML: day is out of range for month"),
        ("a.yaml", "- task: x", "has no YAML file with a line"),
    ],
)
def test_a_folder_without_tasks_is_one_line(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=re.escape(message)) as error:
        pin_tasks(str(tmp_path))
    assert "\n" not in str(error.value)
    with pytest.raises(DataError, match=r"evaluation_tasks: .*nowhere does not exist"):
        pin_tasks(f"{tmp_path}/nowhere")
    with pytest.raises(DataError, match="is not a folder; give the folder in which the task files lie"):
        pin_tasks(f"{tmp_path}/{name}")


def test_functions_that_a_task_names_are_not_run_to_pin_it(tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text("task: own\nprocess_docs: !function utils.docs\n", encoding="utf-8")
    assert task_names(pin_tasks(str(tmp_path))) == ["own"]


def test_without_the_harness_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(ParameterError, match=r"install the extra: pip install 'private-llm-pipeline\[tasks\]'"):
        check_harness()


def test_a_difference_is_paired_where_it_can_be() -> None:
    base, tuned = np.array([1.0, 0.0, 1.0, 0.0, 1.0]), np.array([1.0, 1.0, 1.0, 0.0, 1.0])

    def scored(samples: np.ndarray, *, kept: bool) -> dict[str, Any]:
        error = samples.std(ddof=1) / math.sqrt(5)
        score = TaskScore(
            value=samples.mean(), stderr=error, higher_is_better=True, samples=samples if kept else samples[:0]
        )
        return {"t": {"acc": score}}

    paired = compare_tasks({"base": scored(base, kept=True), "tuned": scored(tuned, kept=True)})["t"]["acc"]
    found = paired["tuned_minus"]["base"]
    error = (tuned - base).std(ddof=1) / math.sqrt(5)
    assert (found["difference"], found["stderr"]) == (pytest.approx(0.2), pytest.approx(error))
    assert found["interval"] == pytest.approx([0.2 - 1.959964 * error, 0.2 + 1.959964 * error])
    apart = compare_tasks({"base": scored(base, kept=False), "tuned": scored(tuned, kept=False)})["t"]["acc"]
    errors = [samples.std(ddof=1) / math.sqrt(5) for samples in (base, tuned)]
    assert apart["tuned_minus"]["base"]["stderr"] == pytest.approx(math.hypot(*errors))


def test_a_metric_that_a_model_has_no_finite_figure_of_is_left_out() -> None:
    score = TaskScore(value=0.5, stderr=None, higher_is_better=True, samples=np.zeros(0))
    base, tuned = {"t": {"acc": score}}, {"t": {"acc": score, "perplexity": score}, "other": {"acc": score}}
    assert {task: [*found] for task, found in compare_tasks({"base": base, "tuned": tuned}).items()} == {"t": ["acc"]}


@pytest.fixture(scope="module")
def evaluated(trained: Path, stories: Path, tasks: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What evaluate writes about the models of a run and the tasks."""
    pytest.importorskip("lm_eval", reason="the extra tasks is not installed")
    folder = tmp_path_factory.mktemp("evaluated")
    write_jsonl(folder / "reading.jsonl", [json.loads((tasks / "reading.jsonl").read_text(encoding="utf-8"))])
    evaluate(
        records=trained / "records.parquet",
        test=trained / "test.parquet",
        model=trained / "model",
        base_model=str(stories),
        base_model_digest="",
        corpora={"same": {"uri": str(folder / "reading.jsonl"), "digest": ""}},
        prompts=0,
        tasks={name: {"uri": pinned.uri, "digest": pinned.digest} for name, pinned in pin_tasks(str(tasks)).items()},
        evaluation=folder / "evaluation.json",
        errors=folder / "errors.json",
    )
    content: dict[str, Any] = read_json(folder / "evaluation.json")
    return content


def alone(folder: Path, tasks: Path, task: str, **options: Any) -> dict[str, Any]:
    """What the harness says of a model that it loads itself."""
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    answered = simple_evaluate(
        model="hf",
        model_args={"pretrained": str(folder), "dtype": "float32", "max_length": 512, **options},
        tasks=[task],
        device="cpu",
        task_manager=TaskManager(include_path=str(tasks), include_defaults=False),
    )
    return dict(answered["results"][task])


@pytest.mark.filterwarnings("ignore")  # the harness's own
def test_a_task_gives_what_the_harness_gives_by_itself(
    evaluated: dict[str, Any], stories: Path, tasks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tasks)
    expected = alone(stories, tasks, "endings")
    found = evaluated["tasks"]["endings"]
    assert set(found) == {"acc", "acc_norm"}
    for metric in found:
        base = found[metric]["models"]["base"]
        assert base["value"] == pytest.approx(expected[f"{metric},none"])
        assert base["stderr"] == pytest.approx(expected[f"{metric}_stderr,none"])
        assert found[metric]["samples"] == len(QUESTIONS)
        difference = found[metric]["tuned_minus"]["base"]
        tuned = found[metric]["models"]["tuned"]["value"]
        assert difference["difference"] == pytest.approx(tuned - base["value"])
    assert set(evaluated["tasks"]["reading"]) == {"word_perplexity", "byte_perplexity", "bits_per_byte"}


@pytest.mark.filterwarnings("ignore")
def test_our_figures_of_a_text_are_the_harness_s(
    evaluated: dict[str, Any], stories: Path, tasks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rolling windows, the last one filled with context. Left alone, it puts a second BOS before the tokenizer's."""
    monkeypatch.chdir(tasks)
    expected = alone(stories, tasks, "reading", add_bos_token=False)
    ours = evaluated["corpora"]["same"]["models"]["base"]
    for metric in ("word_perplexity", "byte_perplexity", "bits_per_byte"):
        assert ours[metric] == pytest.approx(expected[f"{metric},none"], rel=1e-6), metric


def test_an_unknown_task_is_one_line(stories: Path, tasks: Path) -> None:
    pytest.importorskip("lm_eval", reason="the extra tasks is not installed")
    import torch

    from components.evaluate.tasks import run_tasks
    from components.models import load_model

    model = load_model(stories, 0, torch.float32)
    with pytest.raises(ParameterError, match="lm-evaluation-harness knows no task 'arc_easyy'") as error:
        run_tasks(model, load_tokenizer(stories), {"arc_easyy": None}, positions=512, batch_size=2)
    assert "\n" not in str(error.value)
