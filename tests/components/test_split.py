"""split: a record's side is its own key's, for good; nothing of the test side is trained on."""

import json
import random
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.errors import DataError, ParameterError, PipelineError
from components.ingest.ingest import ingest
from components.records import path_digest, read_json, read_table, record_id
from components.split.split import split
from tests.conftest import make_record, write_records, write_tokens

WORDS = [first + second for first in "bdfgklmnprstvz" for second in ("a", "ek", "ist", "oln", "urd", "ym")]


@dataclass(frozen=True, kw_only=True)
class Sides:
    """What one call of split left behind; train and test as ids."""

    train: set[str]
    test: set[str]
    metrics: dict[str, Any]
    counts: dict[str, float]


def run(folder: Path, records: list[dict[str, str]], **arguments: Any) -> Sides:
    paths = (write_records(folder / "records", records), write_tokens(folder / "tokens", records))
    return run_files(folder, *paths, **arguments)


def run_files(folder: Path, records: Path, tokens: Path, **arguments: Any) -> Sides:
    train, test, metrics = folder / "train", folder / "test", folder / "split.json"
    counts = split(records=records, tokens=tokens, train=train, test=test, metrics=metrics, **arguments)
    train_ids, test_ids = ([row["id"] for row in read_table(side)] for side in (train, test))
    sides = Sides(train=set(train_ids), test=set(test_ids), metrics=read_json(metrics), counts=counts)
    assert len(train_ids) == len(sides.train) == counts["train"] == sides.metrics["train"]
    assert len(test_ids) == len(sides.test) == counts["test"] == sides.metrics["test"]
    assert sum(sides.metrics["removed"].values()) == counts["removed"]
    return sides


def text(generator: random.Random, words: int) -> str:
    return " ".join(generator.choices(WORDS, k=words))


def unlike(number: int, seed: int = 0, contexts: int = 0) -> list[dict[str, str]]:
    """Records that share no phrase, some of them with one of a few contexts."""
    generator = random.Random(seed)
    shared = [text(generator, 12) for _ in range(contexts)]
    return [
        make_record(
            f"{seed} {index} {text(generator, 8)}",
            text(generator, 20),
            generator.choice(shared) if shared and index % 2 else "",
            generator.choice(["open_qa", "closed_qa"]),
        )
        for index in range(number)
    ]


@settings(max_examples=25)
@given(
    first=st.integers(60, 150),
    more=st.integers(1, 150),
    seed=st.integers(0, 5),
    size=st.sampled_from([0.1, 0.4, 5, 30]),
)
def test_appended_records_move_no_record_to_the_other_side(
    tmp_path: Path, first: int, more: int, seed: int, size: float
) -> None:
    records = unlike(first + more, seed, contexts=8)
    before = run(tmp_path, records[:first], seed=seed, test_size=size)
    after = run(tmp_path, records, seed=seed, test_size=size)
    assert not before.train & after.test
    assert not before.test & after.train
    if size < 1:
        assert before.test <= after.test


@settings(max_examples=25)
@given(number=st.integers(60, 200), contexts=st.integers(5, 30), seed=st.integers(0, 100))
def test_one_context_stands_on_one_side(tmp_path: Path, number: int, contexts: int, seed: int) -> None:
    records = unlike(number, seed, contexts)
    sides = run(tmp_path, records, seed=seed, test_size=0.3)
    context = {record["id"]: " ".join(record["context"].casefold().split()) for record in records}
    tested = {context[id_] for id_ in sides.test} - {""}
    assert not tested & {context[id_] for id_ in sides.train}


@settings(max_examples=25)
@given(cap=st.integers(1, 40), seed=st.integers(0, 100))
def test_a_number_caps_the_test_side_and_capped_records_are_not_trained_on(tmp_path: Path, cap: int, seed: int) -> None:
    records = unlike(200, seed=3)
    whole = run(tmp_path, records, seed=seed, test_size=0.1)
    capped = run(tmp_path, records, seed=seed, test_size=cap)
    assert len(capped.test) == min(cap, len(whole.test))
    assert capped.test <= whole.test
    assert capped.train == whole.train
    assert capped.metrics["removed"].get("over_test_size", 0) == len(whole.test) - len(capped.test)


@settings(max_examples=25)
@given(chosen=st.sets(st.integers(0, 19), min_size=1, max_size=8), seed=st.integers(0, 1000))
def test_near_duplicates_of_test_records_are_not_trained_on(tmp_path: Path, chosen: set[int], seed: int) -> None:
    """Of some 40 words one is changed in the instruction, which makes another key; in half the copies one more."""
    generator = random.Random(seed)
    records = unlike(100, seed=4)
    on_test_side = run(tmp_path, records, test_size=0.3).test
    originals = [
        make_record(record["instruction"], text(generator, 30)) for record in records if record["id"] in on_test_side
    ]
    copies = [
        make_record(change_a_word(original["instruction"], generator), change_a_word(original["response"], generator))
        if generator.random() < 0.5
        else make_record(change_a_word(original["instruction"], generator), original["response"])
        for original in (originals[index] for index in chosen)
    ]
    others = [record for record in records if record["id"] not in on_test_side]
    sides = run(tmp_path, [*originals, *copies, *others], test_size=0.3)
    leaking = {record["id"] for record in copies} - sides.test
    assert {record["id"] for record in originals} <= sides.test
    assert {record["id"] for record in others} == sides.train
    assert sides.metrics["removed"] == ({"near_duplicate_of_test": len(leaking)} if leaking else {})


def test_what_is_said_at_the_end_of_every_chat_leaks_nothing(tmp_path: Path) -> None:
    records = []
    for opening in unlike(120):
        said = [{"role": "user", "content": opening["instruction"]}]
        said.append({"role": "assistant", "content": opening["response"]})
        closing = {"instruction": "Thank you!", "response": "You are welcome. Ask again whenever you like."}
        rest = {**closing, "context": "", "history": json.dumps(said)}
        records += [opening, {**opening, **rest, "id": record_id(**rest)}]
    sides = run(tmp_path, records)
    assert sides.metrics["removed"] == {}


def change_a_word(sentence: str, generator: random.Random) -> str:
    words = sentence.split()
    words[generator.randrange(len(words))] = "otherwise"
    return " ".join(words)


@settings(max_examples=25)
@given(seed=st.integers(0, 1000), first=st.integers(80, 120), more=st.integers(0, 80))
def test_whatever_is_appended_no_record_moves_and_no_training_record_repeats_a_test_record(
    tmp_path: Path, seed: int, first: int, more: int
) -> None:
    """The appended records are new, edited copies of old ones, and old contexts with new questions."""
    generator = random.Random(seed)
    records = unlike(first, seed, contexts=6)
    for _ in range(more):
        old = generator.choice(records)
        new = make_record(text(generator, 8), text(generator, 20), old["context"], old["category"])
        copy = make_record(change_a_word(old["instruction"], generator), old["response"], old["context"])
        records.append(generator.choice([new, copy]))
    records = list({record["id"]: record for record in records}.values())
    before = run(tmp_path, records[:first], test_size=0.3)
    after = run(tmp_path, records, test_size=0.3)
    assert before.test <= after.test
    assert not before.train & after.test
    grams = {record["id"]: word_3_grams(record) for record in records}
    for trained in after.train:
        assert all(alike(grams[trained], grams[tested]) < 0.7 for tested in after.test)


def word_3_grams(record: dict[str, str]) -> set[tuple[str, ...]]:
    words = f"{record['instruction']} {record['context']} {record['response']}".split()
    return {tuple(words[start : start + 3]) for start in range(len(words) - 2)}


def alike(one: set[tuple[str, ...]], other: set[tuple[str, ...]]) -> float:
    return len(one & other) / len(one | other)


def test_records_that_only_share_a_subject_are_kept(tmp_path: Path) -> None:
    records = [
        make_record(
            f"What is the price of model {number}?", f"Model {number} costs {number * 7} euro, without any tax."
        )
        for number in range(100)
    ]
    assert run(tmp_path, records, test_size=0.3).metrics["removed"] == {}


@settings(max_examples=25)
@given(
    number=st.integers(60, 200),
    seed=st.integers(0, 10),
    size=st.sampled_from([0.1, 0.5, 0.9, 3, 1000]),
    repeated=st.integers(0, 20),
)
def test_every_record_is_trained_tested_or_removed(
    tmp_path: Path, number: int, seed: int, size: float, repeated: int
) -> None:
    records = unlike(number, seed, contexts=9)
    records += [make_record(record["instruction"] + " again", record["response"]) for record in records[:repeated]]
    sides = run(tmp_path, records, test_size=size)
    assert not sides.train & sides.test
    assert sides.train | sides.test <= {record["id"] for record in records}
    assert len(records) == len(sides.train) + len(sides.test) + sum(sides.metrics["removed"].values())
    assert sides.metrics["test_fraction"] == len(sides.test) / len(records)
    categories = Counter(record["category"] for record in records if record["id"] in sides.train)
    assert sides.metrics["train_by_category"] == categories
    categories = Counter(record["category"] for record in records if record["id"] in sides.test)
    assert sides.metrics["test_by_category"] == categories


def test_rows_keep_their_order_and_the_same_input_gives_the_same_bytes(tmp_path: Path) -> None:
    records = unlike(300, contexts=20)
    order = {record["id"]: index for index, record in enumerate(records)}
    digests = []
    for place in ("here", "there"):
        run(tmp_path / place, records)
        digests.append([path_digest(tmp_path / place / name) for name in ("train", "test", "split.json")])
    assert digests[0] == digests[1]
    for side in ("train", "test"):
        places = [order[row["id"]] for row in read_table(tmp_path / "here" / side)]
        assert places == sorted(places)


def test_a_side_does_not_depend_on_the_order_of_the_records(tmp_path: Path) -> None:
    records = unlike(200)
    assert run(tmp_path, records, test_size=7).test == run(tmp_path, records[::-1], test_size=7).test


def test_another_seed_gives_another_split(tmp_path: Path) -> None:
    records = unlike(200)
    tests = [run(tmp_path, records, seed=seed).test for seed in (1, 2, 3)]
    assert len(set(map(frozenset, tests))) == 3


def test_records_that_were_dropped_as_too_long_are_on_no_side(tmp_path: Path) -> None:
    records = unlike(100)
    tokens = write_tokens(tmp_path / "tokens", records[10:])
    sides = run_files(tmp_path, write_records(tmp_path / "records", records), tokens)
    assert not {record["id"] for record in records[:10]} & (sides.train | sides.test)
    assert len(sides.train) + len(sides.test) == 90


@pytest.mark.parametrize(
    ("number", "size", "side"), [(1, 0.5, "test|training"), (3, 1e-9, "test"), (3, 1 - 1e-9, "training")]
)
def test_an_empty_side_is_an_error(tmp_path: Path, number: int, size: float, side: str) -> None:
    with pytest.raises(DataError, match=f"leaves no ({side}) record among {number}") as caught:
        run(tmp_path, unlike(number), test_size=size)
    assert f"test_size={size:g}" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("size", [0, -1, -0.1, 1.5, float("nan"), float("inf")])
def test_a_bad_test_size_is_named(tmp_path: Path, size: float) -> None:
    with pytest.raises(ParameterError, match=f"test_size={size:g} is neither a fraction between 0 and 1 nor a whole"):
        run(tmp_path, unlike(20), test_size=size)


@pytest.fixture(scope="module")
def dolly_records(dolly: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dolly")
    ingest(dataset=str(dolly), records=folder / "records", rejects=folder / "rejects", metrics=folder / "metrics")
    return folder / "records"


@pytest.mark.parametrize("fraction", [0.05, 0.1])
def test_the_fraction_on_dolly_15k_is_within_one_percent(dolly_records: Path, tmp_path: Path, fraction: float) -> None:
    tokens = write_tokens(tmp_path / "tokens", read_table(dolly_records))
    sides = run_files(tmp_path, dolly_records, tokens, test_size=fraction)
    assert sides.metrics["test_fraction"] == pytest.approx(fraction, abs=0.01)
    assert len(sides.train) + len(sides.test) + sum(sides.metrics["removed"].values()) == 14801


def test_token_rows_of_other_records_are_refused(tmp_path: Path) -> None:
    records = unlike(30)
    for place, wrong in (("order", records[::-1]), ("others", unlike(30, seed=9))):
        paths = (write_records(tmp_path / place / "records", records), write_tokens(tmp_path / place / "tokens", wrong))
        with pytest.raises(PipelineError, match="has no record, or stands in another order"):
            run_files(tmp_path / place, *paths)
