"""Near-duplicates among all records: planted ones are found, growth changes nothing, what differs is kept."""

import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.errors import ParameterError
from components.ingest.ingest import ingest
from components.near import sketch
from components.records import normalise, read_json, read_table
from components.repeats import near_repeated
from tests.conftest import make_record, write_jsonl

WORDS = [first + second for first in "bdfgklmnprstvz" for second in ("a", "ek", "ist", "oln", "urd", "ym", "ov", "ir")]
SIMILARITY = 0.7


def text(pick: random.Random, words: int) -> str:
    return " ".join(pick.choices(WORDS, k=words))


def edited(pick: random.Random, sentence: str, share: float) -> str:
    """The sentence with this share of its words replaced, left out or doubled."""
    words = sentence.split()
    for place in pick.sample(range(len(words)), max(1, round(share * len(words)))):
        words[place] = pick.choice((pick.choice(WORDS), "", f"{words[place]} {words[place]}"))
    return " ".join(" ".join(words).split())


def found(records: list[dict[str, str]], similarity: float = SIMILARITY) -> list[bool]:
    texts = [
        (normalise(f"{record['instruction']} {record['response']}"), normalise(record["context"])) for record in records
    ]
    bands = sketch([said for said, _ in texts]).bands
    marks = near_repeated(len(records), lambda band: bands[:, band], lambda row: texts[row], similarity)
    return [bool(mark) for mark in marks]


def alike(one: str, other: str) -> float:
    """Jaccard's similarity of word 3-grams, written plainly."""
    first, second = (
        {tuple(words[start : start + 3]) for start in range(max(1, len(words) - 2))}
        for words in (normalise(one).split(), normalise(other).split())
    )
    return len(first & second) / len(first | second)


@pytest.mark.parametrize(("share", "recall"), [(0.02, 0.98), (0.05, 0.8)])
def test_planted_copies_are_found_and_nothing_else(share: float, recall: float) -> None:
    pick = random.Random(5)
    records = [make_record(text(pick, 12), text(pick, pick.randrange(60, 200))) for _ in range(300)]
    copies = [make_record(record["instruction"], edited(pick, record["response"], share)) for record in records[:200]]
    marks = found([*records, *copies])
    assert not any(marks[:300])
    assert sum(marks[300:]) >= recall * 200


@settings(max_examples=20)
@given(seed=st.integers(0, 1000), number=st.integers(2, 40), more=st.integers(0, 30))
def test_a_removed_record_repeats_a_kept_one_and_growth_changes_nothing(seed: int, number: int, more: int) -> None:
    pick = random.Random(seed)
    bases = [(text(pick, 8), text(pick, 30)) for _ in range(5)]
    records = []
    for _ in range(number + more):
        instruction, response = pick.choice(bases)
        records.append(make_record(instruction, edited(pick, response, pick.choice((0.03, 0.1, 0.3)))))
    before, after = found(records[:number]), found(records)
    assert after[:number] == before
    said = [f"{record['instruction']} {record['response']}" for record in records]
    for row, removed in enumerate(after):
        earlier = [alike(said[row], said[other]) for other in range(row) if not after[other]]
        assert removed == (max(earlier, default=0) >= SIMILARITY)


def test_questions_about_one_passage_are_kept_and_the_same_question_about_another_is_too() -> None:
    pick = random.Random(1)
    passages = [text(pick, 80), text(pick, 80)]
    question, answer = text(pick, 9), text(pick, 20)
    records = [
        make_record(question, answer, passages[0]),
        make_record(text(pick, 9), text(pick, 20), passages[0]),
        make_record(question, answer, passages[1]),
        make_record(question, answer, edited(pick, passages[0], 0.02)),
    ]
    assert found(records) == [False, False, False, True]


@pytest.mark.parametrize("number", [0, 1])
def test_few_records_are_kept(number: int) -> None:
    assert found([make_record("What?", "That.")] * number) == [False] * number


def run(folder: Path, rows: list[dict[str, Any]], **arguments: Any) -> tuple[list[str], dict[str, Any]]:
    folder.mkdir(exist_ok=True)
    records, metrics = folder / "records", folder / "metrics"
    dataset = str(write_jsonl(folder / "rows.jsonl", rows))
    ingest(dataset=dataset, records=records, rejects=folder / "rejects", metrics=metrics, **arguments)
    assert sorted(path.name for path in folder.iterdir()) == ["metrics", "records", "rejects", "rows.jsonl"]
    return [record["instruction"] for record in read_table(records)], read_json(metrics)


def test_ingest_removes_repeats_counts_them_by_source_and_can_be_told_not_to(tmp_path: Path) -> None:
    pick = random.Random(2)
    answer = text(pick, 60)
    rows = [
        {"instruction": "Is this the first?", "response": answer, "category": "a"},
        {"instruction": "Is this another?", "response": text(pick, 60), "category": "b"},
        {"instruction": "Is this the second?", "response": answer, "category": "c"},
    ]
    kept, metrics = run(tmp_path / "on", rows)
    assert kept == ["Is this the first?", "Is this another?"]
    assert metrics["removed"] == metrics["sources"]["rows.jsonl"]["removed"] == {"near_duplicate": 1}
    assert metrics["records"] == metrics["sources"]["rows.jsonl"]["records"] == 2
    assert metrics["categories"] == {"a": 1, "b": 1}
    kept, metrics = run(tmp_path / "off", rows, near_duplicates=0)
    assert len(kept) == metrics["records"] == 3


@pytest.mark.parametrize("similarity", [-1, 0.3, 1.1, float("nan")])
def test_a_similarity_that_cannot_be_told_is_named(tmp_path: Path, similarity: float) -> None:
    with pytest.raises(ParameterError, match=f"near_duplicates={similarity:g} must be 0 .off. or a similarity from"):
        run(tmp_path, [], near_duplicates=similarity)
