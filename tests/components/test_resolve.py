"""resolve: whether a run has anything new to do, what it is compared with, and where its training starts."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from components.errors import ModelError, ParameterError
from components.registry import Entry, Registry, Version, open_registry
from components.resolve.resolve import Resolved, resolve
from components.run_notes import reject
from tests.conftest import write_jsonl

Ask = Callable[..., Resolved]


@pytest.fixture
def store(empty_database: bytes, tmp_path: Path) -> Registry:
    (tmp_path / "mlflow.db").write_bytes(empty_database)
    return open_registry(f"sqlite:///{tmp_path / 'mlflow.db'}", "faq")


@pytest.fixture
def ask(store: Registry, tmp_path: Path) -> Ask:
    """resolve, on one small dataset and model that may be changed."""
    data = write_jsonl(tmp_path / "faq.jsonl", [{"instruction": "What?", "response": "That."}])
    model = tmp_path / "base"
    model.mkdir()
    (model / "config.json").write_text("{}")
    (model / "model.safetensors").write_bytes(b"weights")

    def call(**changes: Any) -> Resolved:
        given = {"dataset": str(data), "base_model": str(model), "configuration": {"epochs": 2}}
        return resolve(**{**given, "registry": store.address, "model_name": "faq", **changes})

    return call


@pytest.fixture
def accept(store: Registry, tmp_path: Path) -> Callable[[Resolved], Version]:
    """Registers a model as register does after a run."""

    def make(run: Resolved) -> Version:
        folder = tmp_path / f"model-{run.run_digest}"
        folder.mkdir()
        (folder / "model.safetensors").write_text(run.run_digest)
        tags = {
            "run_digest": run.run_digest,
            "compared_with": run.champion,
            "started_from": run.started_from,
            "inputs": json.dumps(run.inputs),
        }
        entry = Entry(key=run.run_digest, folder=folder, configuration={}, metrics={}, tags=tags)
        return store.register(entry)[0]

    return make


def test_a_first_run_has_everything_to_do(ask: Ask, tmp_path: Path) -> None:
    first = ask(notice=tmp_path / "notice.md")
    assert (first.decision, first.unchanged, first.champion, first.start) == ("run", "", "", {})
    assert (tmp_path / "notice.md").read_text().startswith("# There is no champion yet: everything is new\n")


def test_what_was_accepted_is_not_done_again_unless_asked(ask: Ask, accept: Any) -> None:
    first = ask()
    accept(first)
    again, forced = ask(), ask(on_unchanged="run")
    assert (again.decision, again.unchanged) == ("skip", "accepted")
    assert again.news == ("nothing is new: the same data and configuration gave version 1 of faq; nothing is trained")
    assert (forced.decision, forced.run_digest) == ("run", first.run_digest)
    assert forced.champion == "", "it is compared with what it was compared with, so every step is a cache hit"


def test_what_was_rejected_is_not_done_again_while_the_champion_is_the_same(
    ask: Ask, accept: Any, store: Registry
) -> None:
    champion = accept(ask())
    worse = ask(configuration={"epochs": 1})
    assert (worse.decision, worse.champion) == ("run", champion.reference)
    reject(store, worse.run_digest, worse.champion, ["worse"])
    assert (ask(configuration={"epochs": 1}).decision, ask(configuration={"epochs": 1}).unchanged) == (
        "skip",
        "rejected",
    )
    other = accept(ask(configuration={"epochs": 3}))
    again = ask(configuration={"epochs": 1})
    assert (again.decision, again.champion) == ("run", other.reference), "beside another champion it may be accepted"


def test_what_somebody_rolled_back_is_not_trained_again(ask: Ask, accept: Any, store: Registry) -> None:
    one = accept(ask())
    second = ask(configuration={"epochs": 3})
    accept(second)
    store.promote(one, "answers in French")
    again = ask(configuration={"epochs": 3})
    assert (again.decision, again.unchanged) == ("skip", "accepted")
    assert ask(configuration={"epochs": 3}, on_unchanged="run").registry_id.endswith("(demoted)")


@pytest.mark.parametrize(
    ("change", "new"),
    [
        ({"configuration": {"epochs": 3}}, "configuration"),
        ({"template": "base"}, "template"),
        ({"evaluation_corpora": "text={text}"}, "texts"),
        ({"decontaminate": "set={text}"}, "evaluation sets"),
    ],
)
def test_what_is_new_is_named(ask: Ask, accept: Any, tmp_path: Path, change: dict[str, Any], new: str) -> None:
    accept(ask())
    (tmp_path / "text.txt").write_text("Once upon a time.")
    given = {
        name: value.format(text=tmp_path / "text.txt") if isinstance(value, str) else value
        for name, value in change.items()
    }
    changed = ask(**given, notice=tmp_path / "notice.md")
    assert changed.decision == "run"
    assert changed.news == f"new since the champion, version 1: {new}"
    rows = [line for line in (tmp_path / "notice.md").read_text().splitlines() if "**new**" in line]
    assert [row.split(" | ")[0] for row in rows] == [f"| {new}"]


def test_changed_bytes_are_new_and_the_same_bytes_elsewhere_are_not(ask: Ask, accept: Any, tmp_path: Path) -> None:
    accept(ask())
    moved = tmp_path / "moved.jsonl"
    moved.write_bytes((tmp_path / "faq.jsonl").read_bytes())
    assert ask(dataset=str(moved)).decision == "skip"
    moved.write_bytes(moved.read_bytes().replace(b"That", b"This"))
    assert ask(dataset=str(moved)).news == "new since the champion, version 1: dataset"


def test_training_starts_from_the_champion_when_asked_and_there_is_one(
    ask: Ask, accept: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    continued = {"epochs": 2, "start_from": "champion"}
    first = ask(start_from="champion", configuration=continued)
    assert (first.started_from, first.start) == ("", {})
    assert "training starts from the base model, because there is no champion yet" in capsys.readouterr().out
    one = accept(first)
    assert ask(start_from="champion", configuration=continued).decision == "skip", "a new champion alone is no news"
    second = ask(start_from="champion", configuration={**continued, "epochs": 3})
    assert second.started_from == one.reference
    assert second.start["digest"] == one.tags["content_digest"], "by content, so that it is part of the cache key"
    two = accept(second)
    forced = ask(start_from="champion", configuration={**continued, "epochs": 3}, on_unchanged="run")
    assert (forced.started_from, forced.start, forced.champion) == (one.reference, second.start, one.reference)
    assert two.tags["started_from"] == one.reference


@pytest.mark.parametrize("what", ["base model", "template"])
def test_a_champion_of_another_kind_is_no_start(ask: Ask, accept: Any, tmp_path: Path, what: str) -> None:
    accept(ask())
    changes: dict[str, Any] = {"template": "base"}
    if what == "base model":
        other = tmp_path / "other"
        other.mkdir()
        (other / "config.json").write_text("{}")
        (other / "model.safetensors").write_bytes(b"other weights")
        changes = {"base_model": str(other)}
    message = f"start_from=champion: version 1 of faq has another {what} .* or start_from=base"
    with pytest.raises(ModelError, match=message):
        ask(start_from="champion", **changes)
    assert ask(start_from="base", **changes).decision == "run"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"on_unchanged": "stop"}, "on_unchanged='stop' is unknown; allowed: skip, run"),
        ({"start_from": "best"}, "start_from='best' is unknown; allowed: base, champion"),
    ],
)
def test_an_unknown_choice_is_named(ask: Ask, values: dict[str, str], message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        ask(**values)
