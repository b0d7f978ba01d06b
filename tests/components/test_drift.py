"""drift: new data against the champion's, by measures with known values, on real records and a real model."""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from components.drift.drift import admit, drift
from components.drift.measures import jensen_shannon_distance, population_stability_index
from components.drift.profile import IDS, PROFILE, read_profile
from components.drift_rules import METRICS, load_drift_rules
from components.errors import ModelError, ParameterError, PipelineError
from components.ingest.ingest import ingest
from components.records import read_json, read_table
from components.registry import Entry, Registry, open_registry
from components.tokenize.tokenize import tokenize
from tests.conftest import write_jsonl

Rows = list[dict[str, Any]]
PLAIN = "{% for m in messages %}<{{ m.role }}>{{ m.content }}</s>{% endfor %}"
OLD = 150  # records that the champion was made from


@pytest.fixture(scope="module")
def dolly_rows(dolly: Path) -> Rows:
    return [json.loads(line) for line in dolly.read_text(encoding="utf-8").splitlines()[: OLD + 130]]


@pytest.fixture(scope="module")
def champion(
    dolly_rows: Rows, stories: Path, empty_database: bytes, tmp_path_factory: pytest.TempPathFactory
) -> Registry:
    """A registry whose champion was made from the first records."""
    folder = tmp_path_factory.mktemp("champion")
    data = ingested(folder, dolly_rows[:OLD])
    drift(**data, metrics=folder / "drift.json", panel=folder / "drift.md", profile=folder / "model")
    places: dict[str, Any] = {"tokens": folder / "tokens", "tokenizer": folder / "model", "metrics": folder / "t.json"}
    tokenize(records=data["records"], base_model=str(stories), base_model_digest="", **places)
    for name in ("model.safetensors", "config.json"):
        (folder / "model" / name).write_bytes((stories / name).read_bytes())
    (folder / "mlflow.db").write_bytes(empty_database)
    store = open_registry(f"sqlite:///{folder / 'mlflow.db'}", "faq")
    figures = {"tuned_bits_per_byte": 4.0}
    store.register(Entry(key="k" * 32, folder=folder / "model", configuration={}, metrics=figures, tags={}))
    return store


def ingested(folder: Path, rows: Rows) -> dict[str, Any]:
    """What ingest makes of these rows."""
    folder.mkdir(parents=True, exist_ok=True)
    data = write_jsonl(folder / "rows.jsonl", rows)
    places: dict[str, Any] = {"records": folder / "records.parquet", "rejects": folder / "rejects.parquet"}
    ingest(dataset=str(data), **places, metrics=folder / "ingest.json")
    return {"records": places["records"], "ingested": folder / "ingest.json"}


def compare(folder: Path, store: Registry, rows: Rows, **options: Any) -> dict[str, Any]:
    """What drift finds in these rows beside the champion's."""
    reference = store.champion()
    assert reference is not None
    given = {"champion": reference.reference, "registry": store.address, "model_name": "faq", **options}
    places: dict[str, Any] = {
        "metrics": folder / "drift.json",
        "panel": folder / "drift.md",
        "profile": folder / "profile",
    }
    drift(**ingested(folder / "in", rows), **places, **given)
    found: dict[str, Any] = read_json(folder / "drift.json")
    return found


def test_the_index_and_the_distance_have_the_values_of_their_definitions() -> None:
    old, new = [500, 300, 200], [200, 300, 500]
    shares = [(0.5, 0.2), (0.3, 0.3), (0.2, 0.5)]
    by_hand = sum((after - before) * math.log(after / before) for before, after in shares)
    assert population_stability_index(old, new) == pytest.approx(by_hand, rel=0.01)  # half a record smooths little
    assert population_stability_index(old, old) == 0
    assert 0 < population_stability_index([10, 0], [5, 5]) < math.inf
    assert jensen_shannon_distance(old, old) == 0
    assert jensen_shannon_distance([1, 0], [0, 7]) == 1
    assert jensen_shannon_distance([1, 1], [1, 0]) == pytest.approx(math.sqrt(1.5 - 0.75 * math.log2(3)))


def test_without_a_champion_there_is_nothing_to_compare(dolly_rows: Rows, tmp_path: Path) -> None:
    data = ingested(tmp_path, dolly_rows[:50])
    places: dict[str, Any] = {"metrics": tmp_path / "d.json", "panel": tmp_path / "d.md", "profile": tmp_path / "p"}
    assert drift(**data, **places) == {}
    found = read_json(tmp_path / "d.json")
    assert (found["note"], found["drifted"]) == ("there is no champion to compare with", False)
    assert (tmp_path / "d.md").read_text() == "# Drift not measured\n\nThere is no champion to compare with.\n"
    admit(drift=tmp_path / "d.json", on_drift="fail", dataset_digest="d", registry="", model_name="")


def test_a_profile_holds_counts_and_halves_of_ids_and_no_text(champion: Registry, dolly_rows: Rows) -> None:
    version = champion.champion()
    assert version is not None
    folder = champion.download(version)
    kept = read_profile(folder)
    assert kept is not None
    profile, ids = kept
    assert (profile.records, profile.rows) == (len(ids), OLD)
    assert sum(profile.lengths) == sum(profile.categories.values()) == len(ids)
    text = (folder / PROFILE).read_text()
    assert not any(row["instruction"] in text or row["response"][:40] in text for row in dolly_rows[:OLD])
    assert (folder / IDS).stat().st_size < OLD * 16


def test_the_same_data_has_nothing_new(champion: Registry, dolly_rows: Rows, tmp_path: Path) -> None:
    found = compare(tmp_path, champion, dolly_rows[:OLD])
    assert (found["new_records"], found["note"]) == (0, "no record is new since version 1")
    assert not found["drifted"]


def test_more_of_the_same_is_new_and_no_drift(champion: Registry, dolly_rows: Rows, tmp_path: Path) -> None:
    found = compare(tmp_path, champion, dolly_rows)
    assert 120 <= found["new_records"] <= 130
    assert (found["old_records"] + found["new_records"], found["gone_records"]) == (found["records"], 0)
    measures = found["measures"]
    assert measures["length_psi"] < 0.25
    assert measures["category_psi"] < 0.25
    assert measures["near_duplicate_rate"] < 0.05
    assert not found["drifted"]
    assert 50 < found["perplexity"]["records"] < found["new_records"], "some are longer than the model was built for"
    assert measures["bits_per_byte_ratio"] == pytest.approx(found["perplexity"]["bits_per_byte"] / 4.0)
    assert "| closed_qa |" in (tmp_path / "drift.md").read_text()


def test_a_template_that_refuses_the_data_is_told_as_the_champions(
    dolly_rows: Rows, stories: Path, empty_database: bytes, tmp_path: Path
) -> None:
    """As of a model whose data had no system messages."""
    folder = tmp_path / "model"
    shutil.copytree(stories, folder)
    template = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}" + PLAIN
    (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    drift(**ingested(tmp_path / "old", dolly_rows[:OLD]), metrics=tmp_path / "d", panel=tmp_path / "p", profile=folder)
    (tmp_path / "mlflow.db").write_bytes(empty_database)
    store = open_registry(f"sqlite:///{tmp_path / 'mlflow.db'}", "faq")
    figures = {"tuned_bits_per_byte": 4.0}
    store.register(Entry(key="k" * 32, folder=folder, configuration={}, metrics=figures, tags={}))
    said = [{"role": role, "content": role} for role in ("system", "user", "assistant")]
    with pytest.raises(ModelError) as error:
        compare(tmp_path, store, [{"messages": said}])
    assert str(error.value).startswith("the champion's template: it refuses a conversation of the roles system, user")
    assert str(error.value).endswith("take the alias champion from it, or train under another model_name")


def test_the_same_comparison_gives_the_same_bytes(champion: Registry, dolly_rows: Rows, tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        compare(tmp_path / name, champion, dolly_rows[100:170])
    for name in ("drift.json", "drift.md", f"profile/{PROFILE}", f"profile/{IDS}"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes(), name


def drifted_rows(count: int) -> Rows:
    """Long answers of one new category, in words that the model has never seen."""
    generator = np.random.default_rng(1)
    words = ["".join(generator.choice(list("bcdfgkxzqvw"), 7)) for _ in range(2000)]
    return [
        {
            "instruction": f"Translate item {number}: {' '.join(generator.choice(words, 10))}",
            "context": "",
            "response": " ".join(generator.choice(words, 30)),
            "category": "translation",
        }
        for number in range(count)
    ]


def test_other_data_breaks_rules_and_stops_the_run_where_that_was_asked(
    champion: Registry, dolly_rows: Rows, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = compare(tmp_path, champion, dolly_rows[:OLD] + drifted_rows(110))
    assert found["drifted"]
    assert found["measures"]["category_psi"] > 1
    assert found["shifts"]["category"]["new"][-1] == 110, "a category that is new to the champion counts as other"
    assert any(reason.startswith("the categories are as they were: no: category_psi ") for reason in found["reasons"])
    values = {"dataset_digest": "sha256:d", "registry": champion.address, "model_name": "faq"}
    admit(drift=tmp_path / "drift.json", on_drift="continue", **values)
    assert "the new data has drifted, and on_drift=continue" in capsys.readouterr().out
    assert champion.note("stopped.sha256-d") is None
    with pytest.raises(PipelineError, match=r"^on_drift=fail: the new data has drifted; .*category_psi [0-9.]+, must"):
        admit(drift=tmp_path / "drift.json", on_drift="fail", **values)
    assert champion.note("stopped.sha256-d") == {"reasons": found["reasons"]}


def test_repeats_of_what_is_there_are_counted_among_the_rows_that_came(
    champion: Registry, dolly_rows: Rows, tmp_path: Path
) -> None:
    """Fifty rows came; thirty-five say again what is there, in nearly the same words."""
    repeated = [
        {**row, "response": f"{row['response']} Indeed."} for row in dolly_rows[:OLD] if len(row["response"]) > 250
    ][:35]
    found = compare(tmp_path, champion, dolly_rows[:OLD] + dolly_rows[OLD : OLD + 15] + repeated)
    assert len(repeated) == 35
    assert found["measures"]["near_duplicate_rate"] == pytest.approx(0.7, abs=0.02)
    off = compare(tmp_path, champion, dolly_rows[: OLD + 15], near_duplicates=0.0)
    assert off["measures"]["near_duplicate_rate"] is None, "not looked for is not none"


def test_rules_of_ones_own_are_judged_and_few_records_are_not(
    champion: Registry, dolly_rows: Rows, tmp_path: Path
) -> None:
    rules = tmp_path / "rules.yaml"
    rules.write_text(
        yaml.safe_dump(
            [
                {"rule": "little is new", "metric": "new_share", "at_most": 0.01, "min_records": 5},
                {"rule": "sources", "metric": "source_js", "at_most": 1},
            ]
        )
    )
    found = compare(tmp_path, champion, dolly_rows[: OLD + 20], rules=str(rules))
    little, sources = found["rules"]
    assert (little["passed"], sources["passed"]) == (False, None)
    assert (
        sources["reason"] == f"sources: not judged, {found['new_records']} new records are fewer than min_records=100"
    )


def test_a_champion_without_a_profile_is_said_to_have_none(
    dolly_rows: Rows, stories: Path, empty_database: bytes, tmp_path: Path
) -> None:
    (tmp_path / "mlflow.db").write_bytes(empty_database)
    store = open_registry(f"sqlite:///{tmp_path / 'mlflow.db'}", "faq")
    store.register(Entry(key="k" * 32, folder=stories, configuration={}, metrics={}, tags={}))
    found = compare(tmp_path, store, dolly_rows[:20])
    assert found["note"] == "version 1 holds no profile of its data; the next version will"
    assert list(read_table(tmp_path / "profile" / IDS))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("rule: a", "must be a list of rules"),
        ("[]", "must be a list of rules"),
        ("- metric: length_psi", "entry 1 must be a mapping with a name behind `rule:`"),
        ("- {rule: a, metric: length_psi}", "rule 'a': at_most is missing"),
        ("- {rule: a, metric: psi, at_most: 1}", "rule 'a': metric='psi' is unknown; allowed: length_psi"),
        ("- {rule: a, metric: length_psi, at_most: much}", "at_most='much' must be a number of at least 0"),
        ("- {rule: a, metric: length_psi, at_most: .nan}", "must be a number of at least 0"),
        ("- {rule: a, metric: length_psi, at_most: 1, min_records: 0}", "min_records=0 must be a whole number"),
        (
            "- {rule: a, metric: length_psi, at_most: 1, limit: 2}",
            "rule 'a': 'limit' is unknown; allowed: rule, metric",
        ),
        (2 * "- {rule: a, metric: length_psi, at_most: 1}\n", "two rules have the name 'a'"),
        ("a: [", "is not YAML"),
        ("- rule: 2026-02-30", "is not YAML: day is out of range for month"),
    ],
)
def test_rules_that_nobody_can_judge_by_are_named(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "rules.yaml"
    path.write_text(content)
    with pytest.raises(ParameterError, match=message) as error:
        load_drift_rules(path)
    assert "\n" not in str(error.value)


def test_the_shipped_rules_ask_for_what_is_measured() -> None:
    rules = load_drift_rules(Path("components/drift/rules.yaml"))
    assert {rule.metric for rule in rules} < set(METRICS)
