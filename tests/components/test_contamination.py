"""Decontamination: what shares a run of 13 words with an evaluation set is removed and counted by set, and no more."""

import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.errors import DataError, ParameterError
from components.records import path_digest
from components.resolve.resolve import resolve
from tests.components.ingesting import Result, assert_one_line, run, write_parquet
from tests.conftest import ROOT, write_jsonl

WORDS = [f"{first}{second}" for first in "bdfgklmnprst" for second in ("a", "ek", "ist", "oln", "urd", "ym", "é")]


def text(pick: random.Random, words: int) -> str:
    return " ".join(pick.choices(WORDS, k=words))


PICK = random.Random(7)
SECRET = text(PICK, 40)  # what the evaluation set asks
RUN = SECRET.split()[9:22]
ROW = {"instruction": text(PICK, 8), "context": text(PICK, 30), "response": text(PICK, 30), "category": "open_qa"}
CLEAN = ROW | {"instruction": "What else is there?"}
CHAT = {"messages": [{"role": "user", "content": "Hi."}, {"role": "assistant", "content": "Hello."}]}


def ingested(folder: Path, rows: list[Any], documents: list[str], **arguments: Any) -> Result:
    """What ingest makes of rows beside an evaluation set of these documents, named exam."""
    exam = write_jsonl(folder / "exam.jsonl", [{"text": document} for document in documents])
    dataset = write_jsonl(folder / "rows.jsonl", rows)
    return run(dataset, **{"decontaminate": f"exam={exam}", **arguments})


def planted(words: list[str]) -> str:
    """Words in the midst of others."""
    return " ".join(["Behold", *words, "indeed"])


@pytest.mark.parametrize("field", ["instruction", "context", "response"])
def test_a_record_with_13_words_of_a_set_is_removed_and_with_12_it_is_kept(tmp_path: Path, field: str) -> None:
    near = ROW | {field: planted(RUN[:-1])}
    result = ingested(tmp_path, [CLEAN, ROW | {field: planted(RUN)}, near], [SECRET])
    assert [record["instruction"] for record in result.records] == [CLEAN["instruction"], near["instruction"]]
    assert result.metrics["removed"] == result.metrics["sources"]["rows.jsonl"]["removed"] == {"contaminated": 1}
    assert result.metrics["contaminated"] == {"exam": 1}


@pytest.mark.parametrize(
    "words",
    [
        [*RUN[:6], "another", *RUN[6:]],
        [*RUN[:6], RUN[7], RUN[6], *RUN[8:]],
        RUN[::-1],
        [word for pair in zip(RUN, RUN, strict=True) for word in pair],
    ],
    ids=["a word more", "two words exchanged", "backwards", "each word twice"],
)
def test_the_same_words_in_another_order_are_kept(tmp_path: Path, words: list[str]) -> None:
    assert len(ingested(tmp_path, [ROW | {"response": planted(words)}], [SECRET]).records) == 1


def test_case_white_space_marks_and_unicode_s_form_do_not_matter(tmp_path: Path) -> None:
    written = ",\n ".join(word.replace("é", "e\u0301").upper() for word in RUN) + "!"
    rows = [CLEAN, ROW | {"response": f"“{written}” — [1]"}]
    assert ingested(tmp_path, rows, [SECRET]).metrics["removed"] == {"contaminated": 1}


@pytest.mark.parametrize("in_the_record", [True, False])
def test_cleaning_and_redaction_hide_nothing(tmp_path: Path, in_the_record: bool) -> None:
    marked = " ".join([*RUN[:6], f"{RUN[6]}[1]", "ann@example.org", *RUN[7:]])
    plain = marked.replace("[1]", "")
    written, document = (marked, plain) if in_the_record else (plain, marked)
    rows = [CLEAN, ROW | {"context": written}]
    for cleaning, removed in (("references", {"contaminated": 1}), ("", {})):
        result = ingested(tmp_path, rows, [document], cleaning=cleaning, pii="redact")
        assert result.metrics["removed"] == removed
        assert result.metrics["pii"]["found"] == ({} if removed else {"EMAIL": 1})


def test_a_run_may_go_from_one_text_of_a_record_to_the_next(tmp_path: Path) -> None:
    rows = [CLEAN, {"instruction": planted(RUN[:5]).removesuffix(" indeed"), "response": " ".join(RUN[5:])}]
    assert ingested(tmp_path, rows, [SECRET]).metrics["contaminated"] == {"exam": 1}


@pytest.mark.parametrize(
    ("row", "removed"),
    [
        (ROW | {"instruction": "Who wrote  HAMLET?"}, True),
        (ROW | {"response": "Who wrote Hamlet?"}, True),
        (ROW | {"instruction": "Who wrote Hamlet then?"}, False),
        ({"instruction": "Who wrote", "response": "Hamlet"}, True),
        ({"instruction": "Who wrote", "response": "Hamlet himself"}, False),
    ],
)
def test_a_shorter_document_is_found_only_as_a_whole(tmp_path: Path, row: dict[str, str], removed: bool) -> None:
    result = ingested(tmp_path, [CLEAN, row], ["Who wrote Hamlet?"])
    assert result.metrics["removed"] == ({"contaminated": 1} if removed else {})


def test_a_conversation_is_removed_from_the_turn_on_in_which_it_is_contaminated(tmp_path: Path) -> None:
    said = [{"role": "user", "content": planted(RUN)}, {"role": "assistant", "content": "So it is."}]
    rows = [{"messages": [*CHAT["messages"], *said, {"role": "user", "content": "Why?"}, said[1]]}]
    result = ingested(tmp_path, rows, [SECRET])
    assert [record["instruction"] for record in result.records] == ["Hi."]
    assert result.metrics["removed"] == {"contaminated": 2}


def test_sets_in_every_format_are_counted_by_name_and_a_record_may_be_in_several(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(SECRET, encoding="utf-8")
    write_parquet(tmp_path / "b.parquet", {"text": [SECRET, text(PICK, 20)]})
    write_jsonl(tmp_path / "c.jsonl", [{"text": text(PICK, 20)}, {"text": ""}])
    sets = ", ".join(f"{path.stem}={path}" for path in sorted(tmp_path.iterdir()))
    result = ingested(tmp_path, [CLEAN, ROW | {"response": SECRET}], [SECRET], decontaminate=sets)
    assert result.metrics["contaminated"] == {"a": 1, "b": 1, "c": 0}
    assert result.metrics["removed"] == {"contaminated": 1}


def test_without_sets_nothing_is_removed(tmp_path: Path) -> None:
    result = ingested(tmp_path, [CLEAN, ROW | {"response": SECRET}], [SECRET], decontaminate="")
    assert (len(result.records), result.metrics["removed"], result.metrics["contaminated"]) == (2, {}, {})


def test_a_prompt_of_which_a_contaminated_answer_goes_keeps_its_other_answer(tmp_path: Path) -> None:
    rows = [ROW | {"response": SECRET}, ROW]
    result = ingested(tmp_path, rows, [SECRET])
    assert [record["response"] for record in result.records] == [ROW["response"]]


@given(
    marks=st.lists(st.integers(0, 12), min_size=1, max_size=12),
    more=st.lists(st.integers(0, 12), max_size=8),
    at=st.integers(0, 27),
)
def test_what_is_removed_shares_a_run_and_growth_changes_nothing(
    tmp_path: Path, marks: list[int], more: list[int], at: int
) -> None:
    taken = SECRET.split()
    rows = [
        ROW | {"instruction": f"Number {number}.", "response": planted(taken[at : at + 1 + mark])}
        for number, mark in enumerate([*marks, *more])
    ]
    expected = [f"Number {number}." for number, mark in enumerate([*marks, *more]) if mark < 12]
    before = ingested(tmp_path, [CLEAN, *rows[: len(marks)]], [SECRET]).records
    digest = path_digest(tmp_path / "out" / "records")
    after = ingested(tmp_path, [CLEAN, *rows], [SECRET]).records
    assert [record["instruction"] for record in after] == [CLEAN["instruction"], *expected]
    assert after[: len(before)] == before
    ingested(tmp_path, [CLEAN, *rows[: len(marks)]], [SECRET])
    assert path_digest(tmp_path / "out" / "records") == digest


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.txt", b"", "decontaminate: exam is empty: no document has a word in it"),
        ("marks.jsonl", b'{"text": "?!"}\n', "decontaminate: exam is empty"),
        ("cut.jsonl", b'{"text": "S3CRET\n', "line 1 is not JSON"),
        ("other.jsonl", b'{"question": "S3CRET"}\n', "line 1 has no field 'text'"),
        ("bytes.txt", b"S3CRET \xff", "is not UTF-8"),
        ("set.csv", b"text\nS3CRET\n", "is not a file of a kind that is read here; allowed: .txt, .jsonl, .parquet"),
        ("table.parquet", b"S3CRET", "is not a readable Parquet file"),
    ],
)
def test_a_set_that_cannot_be_used_is_named(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError) as caught:
        ingested(tmp_path, [ROW], [], decontaminate=f"exam={tmp_path / name}")
    assert_one_line(caught.value, "decontaminate: ", message)
    assert "S3CRET" not in str(caught.value)


@pytest.mark.parametrize("sets", ["exam", "=a.txt", "a b=c.txt", "a=x.txt,a=y.txt", "records=a.txt"])
def test_entries_of_another_form_are_named(tmp_path: Path, sets: str) -> None:
    with pytest.raises(ParameterError) as caught:
        ingested(tmp_path, [ROW], [], decontaminate=sets)
    assert_one_line(caught.value, "decontaminate: ", "is not name=path or name=uri", "comes once")


def test_on_the_command_line_a_missing_set_is_one_line_and_exit_2(tmp_path: Path) -> None:
    rows = write_jsonl(tmp_path / "rows.jsonl", [ROW])
    outputs = [f"--{name}={tmp_path / name}" for name in ("records", "rejects", "metrics")]
    command = [sys.executable, "-m", "components.ingest", f"--dataset={rows}", "--decontaminate=exam=/no.txt", *outputs]
    finished = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert finished.returncode == 2
    assert finished.stderr.startswith("ingest: decontaminate: /no.txt does not exist; give a local path")
    assert finished.stderr.count("\n") == 1


def pinned(folder: Path, sets: str) -> dict[str, Any]:
    """What resolve answers for a run with these sets."""
    model = folder / "model"
    model.mkdir(exist_ok=True)
    (model / "config.json").write_text("{}", encoding="utf-8")
    (model / "model.safetensors").write_bytes(b"")
    return resolve(
        dataset=str(write_jsonl(folder / "rows.jsonl", [CLEAN])),
        base_model=str(model),
        registry=f"sqlite:///{folder}/mlflow.db",
        model_name="test",
        decontaminate=sets,
        configuration={},
    )._asdict()


def test_a_set_is_pinned_by_its_bytes_and_a_changed_one_is_another_run(tmp_path: Path) -> None:
    exam = write_jsonl(tmp_path / "exam.jsonl", [{"text": SECRET}])
    before = pinned(tmp_path, f"exam={exam}")
    assert before == pinned(tmp_path, f"exam={exam}")
    assert before["decontaminate"] == f"exam={exam}"
    arguments = {name: before[name] for name in ("decontaminate", "decontaminate_digest")}
    assert ingested(tmp_path, [CLEAN, ROW | {"response": SECRET}], [SECRET], **arguments).metrics["contaminated"]
    with pytest.raises(DataError, match=f"decontaminate: exam={exam} changed after it was resolved; start the run"):
        ingested(tmp_path, [CLEAN], ["Another question?"], **arguments)
    after = pinned(tmp_path, f"exam={exam}")
    for name in ("decontaminate_digest", "run_digest"):
        assert len({before[name], after[name], pinned(tmp_path, f"renamed={exam}")[name]}) == 3
    assert pinned(tmp_path, "")["decontaminate_digest"] == ""


def test_no_text_of_a_set_is_told(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    result = ingested(tmp_path, [CLEAN, ROW | {"response": SECRET}], [SECRET])
    shown = capfd.readouterr()
    assert RUN[0] + " " + RUN[1] not in shown.out + shown.err + json.dumps([result.metrics, result.rejects])
