"""ingest with cleaning and personal data: everything after it is told from the text that they leave."""

import json
from pathlib import Path
from typing import Any

import pytest

from components.errors import ParameterError
from components.ingest.ingest import ingest
from components.records import messages, path_digest, read_json, read_table, record_id, split_key
from tests.conftest import write_jsonl

ROWS = [
    {
        "instruction": "Who is ann@example.org?",
        "context": "Ann[1] is\u00a0here.",
        "response": "ann@example.org is Ann.",
    },
    {"instruction": "Who is bob@example.org?", "context": "Ann is here.", "response": "bob@example.org is Ann."},
    {"instruction": "What is new?", "response": "Nothing.\r\n"},
]


def run(folder: Path, rows: list[dict[str, Any]], **arguments: Any) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The records and metrics that ingest makes of rows."""
    folder.mkdir(exist_ok=True)
    records, metrics = folder / "records", folder / "metrics"
    arguments |= {"dataset": str(write_jsonl(folder / "rows.jsonl", rows)), "max_reject_fraction": 1.0}
    ingest(records=records, rejects=folder / "rejects", metrics=metrics, **arguments)
    return list(read_table(records)), read_json(metrics)


def test_records_are_cleaned_and_redacted_by_default_and_duplicates_are_told_afterwards(tmp_path: Path) -> None:
    records, metrics = run(tmp_path, ROWS)
    assert [record["instruction"] for record in records] == ["Who is [EMAIL_1]?", "What is new?"]
    assert records[0]["context"] == "Ann is here."
    assert records[0]["response"] == "[EMAIL_1] is Ann."
    assert metrics["removed"] == {"duplicate": 1}
    assert metrics["cleaned"] == {"control": 0, "whitespace": 1, "references": 1, "nfc": 0}
    assert metrics["pii"]["found"] == {"EMAIL": 4}
    assert metrics["pii"]["by_source"] == {"rows.jsonl": {"EMAIL": 4}}


@pytest.mark.parametrize("policy", ["redact", "report", "off"])
def test_ids_and_keys_are_those_of_the_written_text(tmp_path: Path, policy: str) -> None:
    for record in run(tmp_path, ROWS, pii=policy)[0]:
        said = [record[name] for name in ("instruction", "context", "response", "history")]
        assert record["id"] == record_id(*said)


def test_dropped_records_are_counted_and_leave_no_text(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    records, metrics = run(tmp_path, ROWS, pii="drop")
    assert [record["instruction"] for record in records] == ["What is new?"]
    assert metrics["removed"] == {"personal_data": 2}
    assert metrics["rows"] == metrics["records"] + sum(metrics["removed"].values())
    shown = capfd.readouterr()
    for told in (shown.out, shown.err, json.dumps(metrics)):
        assert "example.org" not in told


def test_a_record_of_which_cleaning_leaves_nothing_is_rejected(tmp_path: Path) -> None:
    records, metrics = run(tmp_path, [*ROWS, {"instruction": "Empty?", "response": "\u200b\x07"}])
    assert metrics["rejected"] == {"empty_field": 1}
    assert len(records) == 2


@pytest.mark.parametrize(("emptied", "left"), [(0, 0), (1, 0), (2, 1), (3, 1)])
def test_an_answer_to_a_conversation_of_which_cleaning_empties_a_message_is_rejected(
    tmp_path: Path, emptied: int, left: int
) -> None:
    """The model would be trained on an empty turn, and the turns of one conversation would part ways in split."""
    said = ["\u200b" if number == emptied else f"{number} words" for number in range(4)]
    roles = ["user", "assistant"] * 2
    chats = [
        {"messages": [{"role": role, "content": text} for role, text in zip(roles, texts, strict=True)]}
        for texts in (said, ["What", "is", "left", "alone"])
    ]
    records, metrics = run(tmp_path, chats)
    assert metrics["rejected"] == {"empty_field": 2 - left}
    assert [record["response"] for record in records] == [*said[1::2][:left], "is", "alone"]


def test_with_everything_off_the_text_is_the_source_s(tmp_path: Path) -> None:
    records, metrics = run(tmp_path, ROWS, pii="off", cleaning="")
    assert [record["context"] for record in records] == ["Ann[1] is\u00a0here.", "Ann is here.", ""]
    assert (metrics["cleaned"], metrics["pii"]["found"]) == ({}, {})


def test_the_same_rows_give_the_same_bytes(tmp_path: Path) -> None:
    for place in ("here", "there"):
        run(tmp_path / place, ROWS)
    for name in ("records", "metrics"):
        assert path_digest(tmp_path / "here" / name) == path_digest(tmp_path / "there" / name)


@pytest.mark.parametrize("bad", [{"pii": "hide"}, {"cleaning": "html"}, {"pii_names": "nothing"}])
def test_a_bad_parameter_is_named_before_anything_is_read(tmp_path: Path, bad: dict[str, str]) -> None:
    with pytest.raises(ParameterError, match=next(iter(bad))):
        run(tmp_path, ROWS, **bad)
    assert not (tmp_path / "records").exists()


def test_every_turn_of_a_conversation_has_the_same_placeholders_and_key(tmp_path: Path) -> None:
    said = ["I am ann@example.org[1]x", "Hello ann@example.org.", "And bob@example.org?", "So is he."]
    roles = ["user", "assistant"] * 2
    chat = {"messages": [{"role": role, "content": text} for role, text in zip(roles, said, strict=True)]}
    records, metrics = run(tmp_path, [chat], cleaning="nfc")
    texts = ("instruction", "context", "response", "history")
    assert len({split_key(*(record[name] for name in texts)) for record in records}) == 1
    assert messages(records[1]["history"])[1] == {"role": "assistant", "content": "Hello [EMAIL_1]."}
    assert records[1]["instruction"] == "And [EMAIL_2]?"
    assert metrics["pii"]["by_source"] == {"rows.jsonl": {"EMAIL": 5}}
