"""The contract: ids and keys, tables that come back and have one form in bytes, digests of paths."""

import json
import unicodedata
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from components.records import (
    RECORDS,
    ROW_GROUP,
    count_rows,
    digest,
    normalise,
    path_digest,
    read_json,
    read_table,
    record_id,
    record_ids,
    split_key,
    write_json,
    write_table,
)
from tests.conftest import make_record

FORMS: tuple[Literal["NFC", "NFD", "NFKC", "NFKD"], ...] = ("NFC", "NFD", "NFKC", "NFKD")
said = st.text(min_size=1).filter(normalise)


@given(text=st.text(), form=st.sampled_from(FORMS), space=st.sampled_from([" ", "\n", "\t ", "\r\n", "\u00a0"]))
def test_id_is_the_same_for_every_unicode_form_and_white_space(
    text: str, form: Literal["NFC", "NFD", "NFKC", "NFKD"], space: str
) -> None:
    variant = space.join(["", *unicodedata.normalize(form, text).split(), ""])
    assert record_id(variant, variant, variant) == record_id(text, text, text)


def test_id_ignores_case() -> None:
    assert record_id("Straße", "", "ΣΊΣΥΦΟΣ") == record_id("STRASSE", "", "σίσυφος")


@given(text=st.text(st.sampled_from("aZ \t\n\r\x0b\x1c\x1f\x00\u00a0\u212b")) | st.text())
def test_text_is_normalised_alike_whether_it_is_ascii_or_not(text: str) -> None:
    assert normalise(text) == " ".join(unicodedata.normalize("NFKC", text).casefold().split())


@given(one=st.lists(st.text()), other=st.lists(st.text()))
def test_parts_of_a_digest_cannot_run_together(one: list[str], other: list[str]) -> None:
    assert (digest(*one) == digest(*other)) == (one == other)


@given(text=st.text(min_size=2), cut=st.integers(min_value=0))
def test_moving_text_from_one_part_to_the_next_gives_another_digest(text: str, cut: int) -> None:
    cut %= len(text)
    assert digest(text[:cut], text[cut:]) != digest(text, "")
    assert digest(text[:cut], text[cut:]) != digest(text)


@given(context=said, instruction=said, other=said, response=st.text())
def test_split_key_is_the_contexts_else_the_instructions_else_the_responses(
    context: str, instruction: str, other: str, response: str
) -> None:
    assume(normalise(context) != normalise(instruction))
    assert split_key(instruction, context, response) == split_key(other, context, "")
    assert split_key(instruction, " \n", response) == split_key(instruction, "", "")
    assert split_key(instruction, "", response) != split_key(instruction, context, response)
    assert split_key("", "", other) == split_key(" ", "\t", other)


def test_all_turns_of_a_conversation_have_one_key() -> None:
    turns = [{"role": "user", "content": "Hi "}, {"role": "assistant", "content": "Hello."}]
    system = {"role": "system", "content": "Be short."}
    for history in ([], [system], turns, [system, *turns], [*turns, {"role": "user", "content": "More"}]):
        instruction = "Hi" if history in ([], [system]) else "Other"
        assert split_key(instruction, "", "answer", json.dumps(history)) == split_key("hi", "", "")


@given(one=st.text(), other=st.text())
def test_another_history_is_another_record_and_prompt(one: str, other: str) -> None:
    assume(normalise(one) != normalise(other))
    assert not {*record_ids("a", "", "b", one)} & {*record_ids("a", "", "b", other)}


def test_plain_text_has_no_prompt_that_could_repeat() -> None:
    assert record_ids("", " ", "text")[1] == ""
    assert record_ids("", "", "text")[0] != record_ids("", "", "other")[0]


@pytest.mark.parametrize("count", [0, 1, ROW_GROUP, 2 * ROW_GROUP + 7])
def test_a_table_comes_back_as_it_was_written(tmp_path: Path, count: int) -> None:
    rows = [make_record(f"question {number}", f"answer\n{number} 🦩", "", 'a,"b"') for number in range(count)]
    path = tmp_path / "new folder" / "records"
    assert write_table(path, RECORDS, iter(rows)) == count
    assert list(read_table(path)) == rows
    assert count_rows(path) == count
    assert list(read_table(path, ["id"])) == [{"id": row["id"]} for row in rows]


def test_the_same_rows_give_the_same_bytes(tmp_path: Path) -> None:
    rows = [make_record(f"question {number}", f"answer {number}") for number in range(ROW_GROUP + 1)]
    for name in ("one", "other"):
        write_table(tmp_path / name, RECORDS, iter(rows))
    assert (tmp_path / "one").read_bytes() == (tmp_path / "other").read_bytes()


def test_the_digest_of_a_file_changes_with_a_byte(tmp_path: Path) -> None:
    path = tmp_path / "data"
    path.write_bytes(b"one")
    before = path_digest(path)
    assert before == path_digest(path)
    path.write_bytes(b"onf")
    assert path_digest(path) != before


def test_the_digest_of_a_folder_changes_with_a_byte_a_name_and_a_file(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    (folder / "inner").mkdir(parents=True)
    (folder / "inner" / "weights").write_bytes(b"1")
    (folder / "config.json").write_bytes(b"{}")
    seen = {path_digest(folder)}
    (folder / "inner" / "weights").write_bytes(b"2")
    seen.add(path_digest(folder))
    (folder / "inner" / "weights").rename(folder / "inner" / "weight")
    seen.add(path_digest(folder))
    (folder / "extra").write_bytes(b"")
    seen.add(path_digest(folder))
    assert len(seen) == 4
    (folder / "extra").unlink()
    assert path_digest(folder) in seen


def test_the_digest_of_a_folder_is_the_same_wherever_it_lies(tmp_path: Path) -> None:
    for place in ("here", "there"):
        (tmp_path / place / "model").mkdir(parents=True)
        (tmp_path / place / "model" / "config.json").write_bytes(b"{}")
    assert path_digest(tmp_path / "here" / "model") == path_digest(tmp_path / "there" / "model")


def test_json_comes_back_and_never_holds_nan(tmp_path: Path) -> None:
    write_json(tmp_path / "new" / "value.json", {"name": "π", "loss": [1.5, None]})
    assert read_json(tmp_path / "new" / "value.json") == {"name": "π", "loss": [1.5, None]}
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "loss.json", {"loss": float("nan")})
