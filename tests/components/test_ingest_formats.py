"""ingest reads every format, packing and shape alike, from one file, many, or a list of sources."""

import bz2
import csv
import gzip
import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.datasets import pin_sources
from components.datasets import sources as list_sources
from components.errors import DataError, UserError
from components.ingest.shapes import ALIASES
from components.records import record_id
from tests.components.ingesting import Result, assert_one_line, run
from tests.conftest import ROOT, make_record, write_jsonl

ROWS = [
    {"instruction": "Größe?", "context": "a, b;\tc\nd", "response": 'The "big" one 🦩', "category": "qa"},
    {"instruction": "2?", "context": "", "response": "= 4", "category": "math"},
    {"instruction": "[x]", "context": "{}", "response": "five\n\n\nsix", "category": "unknown"},
]


def jsonl(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def json_list(rows: list[dict[str, Any]]) -> bytes:
    return json.dumps(rows, indent=1).encode()


def table(rows: list[dict[str, Any]], delimiter: str) -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def parquet(rows: list[dict[str, Any]]) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), sink)
    return sink.getvalue()


def arrow_file(rows: list[dict[str, Any]], compression: str = "lz4") -> bytes:
    sink = io.BytesIO()
    pyarrow.feather.write_feather(pa.Table.from_pylist(rows), sink, compression=compression)
    return sink.getvalue()


def arrow_stream(rows: list[dict[str, Any]]) -> bytes:
    sink = io.BytesIO()
    content = pa.Table.from_pylist(rows)
    with pa.ipc.new_stream(sink, content.schema) as stream:
        stream.write_table(content)
    return sink.getvalue()


FORMATS: dict[str, Callable[[list[dict[str, Any]]], bytes]] = {
    "jsonl": jsonl,
    "json": json_list,
    "csv": lambda rows: table(rows, ","),
    "tsv": lambda rows: table(rows, "\t"),
    "parquet": parquet,
    "arrow": arrow_file,
    "arrows": arrow_stream,
}
PACKINGS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".zst": lambda data: pa.compress(data, "zstd", asbytes=True),
}
TEXT_FORMATS = ("jsonl", "json", "csv", "tsv")


def said(result: Result) -> list[dict[str, str]]:
    """The records' fields as ROWS has them."""
    return [{name: record[name] for name in ROWS[0]} for record in result.records]


@pytest.mark.parametrize("packing", PACKINGS)
@pytest.mark.parametrize("format", [*TEXT_FORMATS, "arrows"])
@pytest.mark.parametrize("name", ["rows.{format}{packing}", "rows", "rows.jsonl", "rows.csv", "rows.parquet"])
def test_the_content_tells_the_format(tmp_path: Path, format: str, packing: str, name: str) -> None:
    path = tmp_path / name.format(format=format, packing=packing)
    path.write_bytes(PACKINGS[packing](FORMATS[format](ROWS)))
    assert said(run(path)) == ROWS


@pytest.mark.parametrize("format", ["parquet", "arrow"])
@pytest.mark.parametrize("name", ["rows.{format}", "rows", "rows.jsonl", "rows.csv.gz"])
def test_a_table_may_have_any_name(tmp_path: Path, format: str, name: str) -> None:
    path = tmp_path / name.format(format=format)
    path.write_bytes(FORMATS[format](ROWS))
    assert said(run(path)) == ROWS


@pytest.mark.parametrize("format", TEXT_FORMATS)
def test_a_byte_order_mark_and_crlf_change_nothing(tmp_path: Path, format: str) -> None:
    path = tmp_path / f"rows.{format}"
    rows = [{**row, "context": "one line"} for row in ROWS]
    rows[2]["response"] = "five"
    content = FORMATS[format](rows).replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
    path.write_bytes(b"\xef\xbb\xbf" + content)
    assert said(run(path)) == rows


@pytest.mark.parametrize("many", [3, 3000])
def test_a_large_file_of_each_format_gives_the_same_records(tmp_path: Path, many: int) -> None:
    rows = [
        {"instruction": f"q {number} " + '\\"[{' * (number % 9), "response": "r" * (number % 700 + 1)}
        for number in range(many)
    ]
    for format in ("jsonl", "json", "parquet", "arrow", "arrows"):
        (tmp_path / f"rows.{format}").write_bytes(FORMATS[format](rows))
    results = [run(tmp_path / f"rows.{format}") for format in ("jsonl", "json", "parquet", "arrow", "arrows")]
    ids = [record["id"] for record in results[0].records]
    assert len(ids) == many
    assert [[record["id"] for record in result.records] for result in results] == [ids] * 5


def test_a_dictionary_column_of_a_table_is_text(tmp_path: Path) -> None:
    column = pa.array(["yes", "no", "yes"]).dictionary_encode()
    content = pa.table({"question": ["a", "b", "c"], "answer": column, "blob": [b"x", b"y", b"z"]})
    pq.write_table(content, tmp_path / "rows.parquet")
    pyarrow.feather.write_feather(content, tmp_path / "rows.arrow")
    for name in ("rows.parquet", "rows.arrow"):
        assert [record["response"] for record in run(tmp_path / name).records] == ["yes", "no", "yes"]


def test_a_column_of_views_is_text_whatever_else_they_point_into(tmp_path: Path) -> None:
    """As Polars writes them: a slice of one row holds what all rows point into."""
    answers = [f"{number} {'long ' * 13_000}" for number in range(90)]
    views = pa.array(answers, pa.string_view())
    content = pa.table({"question": [str(number) for number in range(90)], "answer": views})
    pyarrow.feather.write_feather(content, tmp_path / "rows.arrow")
    pq.write_table(content, tmp_path / "rows.parquet")
    for name in ("rows.arrow", "rows.parquet"):
        assert [record["response"] for record in run(tmp_path / name).records] == [text.strip() for text in answers]


def test_messages_of_views_and_dictionaries_are_read_whatever_else_they_point_into(tmp_path: Path) -> None:
    """As Polars writes a column of structs; more than a row may have stands in one batch."""
    answers = [f"{number} {'long ' * 13_000}".strip() for number in range(90)]
    said = [text for number, answer in enumerate(answers) for text in (f"{number}?", answer)]
    for view in (pa.array(said, pa.string_view()), pa.array(said).dictionary_encode()):
        roles = pa.array(["user", "assistant"] * 90, pa.string_view())
        messages = pa.StructArray.from_arrays([roles, view], names=["role", "content"])
        column = pa.LargeListArray.from_arrays(list(range(0, 181, 2)), messages)
        table = pa.table({"messages": column})
        with pa.OSFile(str(tmp_path / "rows.arrow"), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
            writer.write_table(table)
        assert [record["response"] for record in run(tmp_path / "rows.arrow").records] == answers


def test_messages_that_datasets_packs_as_json_are_read(tmp_path: Path) -> None:
    """It does so where not all messages have the same fields: then a column holds JSON, or a list of it."""
    turns = [{"role": "user", "content": "Say {}.", "name": "a"}, {"role": "assistant", "content": "42"}]
    roles = pa.array(["user", "assistant", "user"])
    contents = pa.array([json.dumps("Say {}."), "42", "[" * 9000], pa.json_())  # so is the text "42" packed, too
    columns = [
        pa.array([json.dumps(turns), None], pa.json_()),
        pa.ListArray.from_arrays([0, 2, 4], pa.array([*map(json.dumps, turns), "{", "1"], pa.json_())),
        pa.ListArray.from_arrays([0, 2, 3], pa.StructArray.from_arrays([roles, contents], ["role", "content"])),
    ]
    for column in columns:
        table = pa.table({"messages": column})
        pq.write_table(table, tmp_path / "rows.parquet")
        with pa.OSFile(str(tmp_path / "rows.arrow"), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
            writer.write_table(table)
        for name in ("rows.parquet", "rows.arrow"):
            result = run(tmp_path / name)
            assert [(record["instruction"], record["response"]) for record in result.records] == [("Say {}.", "42")]
            assert len(result.rejects) == 1


def test_a_table_may_have_the_columns_of_both_styles_of_messages(tmp_path: Path) -> None:
    nothing = dict.fromkeys(("role", "content", "from", "value"))
    openai = [{"role": "user", "content": "Two?"}, {"role": "assistant", "content": "2"}]
    both = [{"messages": [{**nothing, **turn} for turn in turns]} for turns in (SHAREGPT, openai)]
    pq.write_table(pa.Table.from_pylist(both), tmp_path / "rows.parquet")
    assert [record["response"] for record in run(tmp_path / "rows.parquet").records] == ["1", "2"]


@pytest.mark.parametrize("length", [40_000, 100_000])
def test_json_lines_may_be_long_and_have_the_name_of_a_list(tmp_path: Path, length: int) -> None:
    rows = [{"instruction": f"{number}?", "response": "word " * (length // 5)} for number in range(3)]
    (tmp_path / "rows.json").write_bytes(jsonl(rows))
    assert run(tmp_path / "rows.json").counts["records"] == 3


def test_a_large_csv_with_a_byte_order_mark_is_told_by_its_content_alone(tmp_path: Path) -> None:
    rows = [{"question": f"{number} {'word ' * 20}", "answer": "a"} for number in range(2000)]
    (tmp_path / "rows").write_bytes(b"\xef\xbb\xbf" + table(rows, ","))
    assert run(tmp_path / "rows").counts["records"] == 2000


def test_paragraphs_of_text_are_records_of_their_own(tmp_path: Path) -> None:
    path = tmp_path / "manual.txt"
    path.write_bytes(b"One,\r\ntwo.\r\n\r\n \r\nThree, four.\r\n\r\n\xff\r\n\r\nFive.")
    result = run(path)
    assert [record["response"] for record in result.records] == ["One,\ntwo.", "Three, four.", "Five."]
    assert {(record["instruction"], record["context"], record["history"]) for record in result.records} == {
        ("", "", "")
    }
    assert [(reject["position"], reject["reason"]) for reject in result.rejects] == [(7, "invalid_text")]
    assert result.records[0]["id"] == record_id("", "", "One, two.")


def test_sections_of_markdown_are_records_of_their_own(tmp_path: Path) -> None:
    path = tmp_path / "guide.md"
    text = "Before.\n\n# One\n\n```sh\n# no heading\n```\n\n#hashtag\n## Two\n\n- a\n- b\n"
    path.write_text(text, encoding="utf-8")
    sections = ["Before.", "# One\n\n```sh\n# no heading\n```\n\n#hashtag", "## Two\n\n- a\n- b"]
    assert [record["response"] for record in run(path).records] == sections


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([{"Question": "q", "Answer": "a"}], ("q", "", "a")),
        ([{"prompt": "q", "completion": "a"}], ("q", "", "a")),
        ([{"instruction": "q", "input": "c", "output": "a"}], ("q", "c", "a")),
        ([{"input": "q", "output": "a"}], ("q", "", "a")),
        ([{"Input": "q", "Context": "c", "Output": "a"}], ("q", "c", "a")),
        ([{"input": "q", "passage": "c", "output": "a"}], ("q", "c", "a")),
        ([{"text": "a"}], ("", "", "a")),
        ([{"code": "a", "path": "x.py"}], ("", "", "a")),
        ([{"content": "a", "path": "x.py"}], ("", "", "a")),
        ([{"body": "a"}], ("", "", "a")),
        ([{"title": "t", "body": "a"}], None),
    ],
)
def test_shapes_are_told_by_the_names_of_columns(
    tmp_path: Path, rows: list[dict[str, str]], expected: tuple[str, str, str] | None
) -> None:
    path = write_jsonl(tmp_path / "rows.jsonl", rows)
    if expected is None:
        with pytest.raises(DataError, match="missing_field 1; read as jsonl: instruction, response"):
            run(path)
        assert run(path, columns="text=body,category=title").counts["records"] == 1
        return
    (record,) = run(path).records
    assert (record["instruction"], record["context"], record["response"]) == expected


@pytest.mark.parametrize(
    ("row", "columns", "expected"),
    [
        ({"id": "0", "data": ["q", "a"]}, "", ("q", "a")),
        ({"id": "0", "Data": '["q", "a"]', "category": "c"}, "category=category", ("q", "a")),
        ({"data": ["q", "a"]}, "messages=data", ("q", "a")),
        ({"data": "a"}, "", ("", "a")),
        ({"data": ["q", "b"], "text": "a"}, "", ("", "a")),
        ({"data": ["q", "b"], "question": "q", "answer": "a"}, "", ("q", "a")),
        ({"data": ["q", "b"], "input": "q", "output": "a"}, "", ("q", "a")),
        ({"data": ["q", "b"], "messages": ["q", "a"]}, "", ("q", "a")),
        ({"data": ["q", "b"], "ask": "q", "say": "a"}, "instruction=ask,response=say", ("q", "a")),
        ({"data": ["q", "b"], "body": "a"}, "text=body", ("", "a")),
    ],
)
@pytest.mark.parametrize("format", ["jsonl", "parquet"])
def test_a_column_named_data_is_a_conversation_where_nothing_else_is_a_record(
    tmp_path: Path, format: str, row: dict[str, Any], columns: str, expected: tuple[str, str]
) -> None:
    path = tmp_path / f"rows.{format}"
    path.write_bytes(FORMATS[format]([row]))
    (record,) = run(path, columns=columns).records
    assert (record["instruction"], record["response"]) == expected


def test_a_column_named_data_that_is_not_needed_is_not_read(tmp_path: Path) -> None:
    """It may hold files, and make a row too long."""
    pq.write_table(pa.table({"text": ["a"], "data": [b"x" * (5 << 20)]}), tmp_path / "rows.parquet")
    assert run(tmp_path / "rows.parquet").counts["records"] == 1


@pytest.mark.parametrize(
    ("row", "columns", "expected"),
    [
        ({"input": "q", "passage": "c", "output": "a"}, "context=passage", ("q", "c", "a")),
        ({"input": "q", "Context": "c", "output": "a", "passage": ""}, "context=Context", ("q", "c", "a")),
        ({"input": "c", "ask": "q", "output": "a"}, "instruction=ask", ("q", "c", "a")),
    ],
)
def test_a_context_beside_input_and_output_is_kept(
    tmp_path: Path, row: dict[str, str], columns: str, expected: tuple[str, str, str]
) -> None:
    (record,) = run(write_jsonl(tmp_path / "rows.jsonl", [row]), columns=columns).records
    assert (record["instruction"], record["context"], record["response"]) == expected


@pytest.mark.parametrize("format", FORMATS)
def test_a_named_column_that_is_not_there_is_told_with_those_that_are(tmp_path: Path, format: str) -> None:
    path = tmp_path / f"rows.{format}"
    path.write_bytes(FORMATS[format]([{"instruction": "q", "Context": "c", "response": "a", "more": "d"}]))
    with pytest.raises(DataError) as caught:
        run(path, columns="context=Contxt")
    there = "'instruction', 'Context', 'response', 'more'"
    assert_one_line(caught.value, f"rows.{format}: columns: context=Contxt: no such column; there are {there}")
    assert run(path, columns="context=Context").records[0]["context"] == "c"


def test_a_first_row_that_stands_where_a_header_should_is_not_shown(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("id,Where is Anna?,anna@example.org,At home\n1,Who?,a,b\n", encoding="utf-8")
    with pytest.raises(DataError) as caught:
        run(tmp_path / "rows.csv", columns="instruction=ask")
    assert_one_line(caught.value, "there are 'id' and 3 more, which read like text and are not shown")
    assert "anna" not in str(caught.value).lower()
    many = {f"column{number}": "a" for number in range(50)}
    with pytest.raises(DataError, match=r"'column19' and 30 more$"):
        run(write_jsonl(tmp_path / "rows.jsonl", [many]), columns="instruction=ask")


@pytest.mark.parametrize("format", FORMATS)
def test_a_table_without_a_column_of_a_record_is_no_text(tmp_path: Path, format: str) -> None:
    for name in ("category", "passage"):
        path = tmp_path / f"rows.{format}"
        path.write_bytes(FORMATS[format]([{name: "c", "ask": "q", "say": "a"}] * 3))
        for columns in ("", f"category={name}"):
            with pytest.raises(DataError, match="missing_field 3"):
                run(path, columns=columns)
        assert run(path, columns="instruction=ask,response=say").records[0]["response"] == "a"


def test_a_bar_separates_cells_where_nothing_else_does(tmp_path: Path) -> None:
    rows = [{"question": "q", "answer": "a, b"}, {"question": "r", "answer": "c; d"}]
    (tmp_path / "rows.csv").write_bytes(table(rows, "|"))
    assert [record["response"] for record in run(tmp_path / "rows.csv").records] == ["a, b", "c; d"]
    (tmp_path / "other.csv").write_bytes(table([{"question": "q", "answer": "a", "a|b|c|d": "x"}], ","))
    assert run(tmp_path / "other.csv").records[0]["response"] == "a"


@pytest.mark.parametrize("delimiter", [";", ",", "\t", "|"])
def test_a_line_that_tells_excel_the_delimiter_is_no_header(tmp_path: Path, delimiter: str) -> None:
    content = f"sep={delimiter}\r\n".encode() + table([{"question": "q", "answer": "a"}], delimiter)
    (tmp_path / "rows.csv").write_bytes(b"\xef\xbb\xbf" + content)
    assert run(tmp_path / "rows.csv").records[0]["response"] == "a"


OPENAI: list[dict[str, Any]] = [
    {"role": "system", "content": " Be short. "},
    {"role": "user", "content": "One?"},
    {"role": "assistant", "content": "1"},
    {"role": "user", "content": [{"type": "text", "text": "Two"}, {"type": "text", "text": "?"}]},
    {"role": "assistant", "content": "2"},
]
SHAREGPT = [{"from": "human", "value": "One?"}, {"from": "gpt", "value": "1"}]


@pytest.mark.parametrize("format", ["jsonl", "json", "parquet", "arrow", "arrows"])
def test_a_conversation_gives_a_record_for_each_answer(tmp_path: Path, format: str) -> None:
    turns = [*OPENAI[:3], {"role": "user", "content": "Two?"}, OPENAI[4]]
    path = tmp_path / f"rows.{format}"
    path.write_bytes(
        FORMATS[format]([{"messages": turns, "category": "sums"}, {"messages": turns[1:3], "category": None}])
    )
    first, second, third = run(path).records
    assert [(record["instruction"], record["response"]) for record in (first, second, third)] == [
        ("One?", "1"),
        ("Two?", "2"),
        ("One?", "1"),
    ]
    system = {"role": "system", "content": "Be short."}
    assert json.loads(first["history"]) == [system]
    assert json.loads(second["history"]) == [system, *turns[1:3]]
    assert (third["history"], third["category"], second["category"]) == ("", "unknown", "sums")


@pytest.mark.parametrize("format", ["jsonl", "json", "parquet", "arrow", "arrows"])
@pytest.mark.parametrize(("no", "yes"), [(0, 1), (0.0, 1.0)])
def test_an_answer_of_no_weight_is_not_learned_but_was_said(tmp_path: Path, format: str, no: float, yes: float) -> None:
    """As in OpenAI's fine-tuning: it stays before later answers, and is counted."""
    said = [{"role": ("user", "assistant")[number % 2], "content": f"{number} words"} for number in range(6)]
    first = [
        {**message, "weight": weight} for message, weight in zip(said, (None, no, None, yes, no, None), strict=True)
    ]
    second = [{**message, "content": f"{message['content']} more", "weight": no} for message in said[:4]]
    path = tmp_path / f"rows.{format}"
    path.write_bytes(FORMATS[format]([{"messages": first}, {"messages": second}]))
    result = run(path)
    assert [record["response"] for record in result.records] == ["3 words", "5 words"]
    assert [json.loads(record["history"]) for record in result.records] == [said[:2], said[:4]]
    assert (result.counts["rows"], result.metrics["removed"], result.rejects) == (5, {"not_learned": 3}, [])


def test_an_answer_that_is_not_learned_repeats_nothing(tmp_path: Path) -> None:
    chats = [{"messages": [OPENAI[1], {**OPENAI[2], "weight": weight}]} for weight in (0, 1, 0)]
    result = run(write_jsonl(tmp_path / "rows.jsonl", chats))
    assert (len(result.records), result.metrics["removed"]) == (1, {"not_learned": 2})


@pytest.mark.parametrize("format", ["jsonl", "json", "parquet", "arrow", "arrows"])
def test_texts_without_roles_are_said_in_turn(tmp_path: Path, format: str) -> None:
    path = tmp_path / f"rows.{format}"
    path.write_bytes(FORMATS[format]([{"messages": ["One?", "1", "Two?", "2"]}]))
    first, second = run(path).records
    assert [(record["instruction"], record["response"]) for record in (first, second)] == [("One?", "1"), ("Two?", "2")]
    assert json.loads(second["history"]) == [{"role": "user", "content": "One?"}, {"role": "assistant", "content": "1"}]


@pytest.mark.parametrize("format", FORMATS)
def test_messages_may_be_json_in_a_text(tmp_path: Path, format: str) -> None:
    """As json.dumps makes it, for a cell of a csv holds no list."""
    path = tmp_path / f"rows.{format}"
    chats = [[*OPENAI[:3], {**OPENAI[1], "content": f'"{number}", or\n[é]?'}, OPENAI[4]] for number in range(3)]
    path.write_bytes(FORMATS[format]([{"conversations": json.dumps(chat), "category": "sums"} for chat in chats]))
    result = run(path)
    assert [record["instruction"] for record in result.records[1:]] == [chat[3]["content"] for chat in chats]
    assert {record["category"] for record in result.records} == {"sums"}
    assert result.metrics["removed"] == {"duplicate": 2}


def test_messages_in_a_csv_that_are_not_utf_8_are_rejected_as_text_is(tmp_path: Path) -> None:
    content = table([{"messages": json.dumps(SHAREGPT)}, {"messages": json.dumps(SHAREGPT).replace("1", "@")}], ",")
    (tmp_path / "rows.csv").write_bytes(content.replace(b"@", b"\xff"))
    result = run(tmp_path / "rows.csv")
    assert (len(result.records), [reject["reason"] for reject in result.rejects]) == (1, ["invalid_text"])


def test_roles_have_the_names_that_others_give_them(tmp_path: Path) -> None:
    """OpenAI's newer name of the system, and OpenAssistant's of the user."""
    names = ("developer", "prompter", "assistant", "prompter", "assistant")
    turns = [{"role": name, "content": f"{number} words"} for number, name in enumerate(names)]
    records = run(write_jsonl(tmp_path / "rows.jsonl", [{"messages": turns}])).records
    roles = [[message["role"] for message in json.loads(record["history"])] for record in records]
    assert roles == [["system"], ["system", "user", "assistant"]]


@pytest.mark.parametrize(
    ("messages", "outcome"),
    [
        (OPENAI, 2),
        (SHAREGPT, 1),
        ([{"from": "system", "value": ""}, *SHAREGPT], 1),
        ([{"role": "Human", "content": "q"}, {"role": "model", "content": "a"}], 1),
        ([OPENAI[0], {"role": "developer", "content": "Be short."}, *OPENAI[1:]], "wrong_role_order"),
        ([], "empty_field"),
        ([OPENAI[0]], "empty_field"),
        ([SHAREGPT[0], {"from": "gpt", "value": " "}], "empty_field"),
        ([SHAREGPT[0]], "wrong_role_order"),
        ([*SHAREGPT, SHAREGPT[0]], "wrong_role_order"),
        (SHAREGPT[::-1], "wrong_role_order"),
        ([*SHAREGPT, OPENAI[0], *SHAREGPT], "wrong_role_order"),
        ([SHAREGPT[0], {"role": "tool", "content": "a"}], "wrong_role_order"),
        ([{"role": "user"}], "missing_field"),
        ([{"content": "a"}], "missing_field"),
        ([{"role": "user", "content": 1}], "wrong_type"),
        ([{"role": 1, "content": "a"}], "wrong_type"),
        *(([OPENAI[1], {**OPENAI[2], "weight": weight}], "wrong_type") for weight in (2, 0.5, -1, True, False, "0")),
        ([{**OPENAI[1], "weight": 0}, {**OPENAI[2], "weight": None}], 1),
        ([{"role": "user", "content": [{"type": "image_url"}]}], "wrong_type"),
        (["One?", "1"], 1),
        (["One?", "1", "Two?", "2"], 2),
        (json.dumps(["One?", "1"]), 1),
        (["One?"], "wrong_role_order"),
        (["One?", "1", "Two?"], "wrong_role_order"),
        (["One?", " "], "empty_field"),
        (["One?", "\ud800"], "invalid_text"),
        (["One?", None], "wrong_type"),
        (["One?", SHAREGPT[1]], "wrong_type"),
        ([SHAREGPT[0], "1"], "wrong_type"),
        ("user: hi", "wrong_type"),
        (json.dumps(SHAREGPT), 1),
        (str(SHAREGPT), "wrong_type"),
        (json.dumps(json.dumps(SHAREGPT)), "wrong_type"),
        (json.dumps(SHAREGPT[0]), "wrong_type"),
        (json.dumps(SHAREGPT)[:-1], "wrong_type"),
        (json.dumps(SHAREGPT[:1]), "wrong_role_order"),
        ("", "wrong_type"),
        ("[]", "empty_field"),
        ("null", "missing_field"),
        (json.dumps(SHAREGPT).replace("gpt", 'gpt", "from": "gpt'), "duplicate_key"),
        ('[{"role": "user", "content": "\\ud800"}]', "invalid_text"),
        (f"[{'1' * 9000}]", "wrong_type"),
        ("[" * 100_000, "wrong_type"),
        ("[" * 500 + "]" * 500, "wrong_type"),
        ({"role": "user"}, "wrong_type"),
        (None, "missing_field"),
        ([{"role": "user", "content": "\ud800"}], "invalid_text"),
    ],
)
def test_conversations_that_are_none_are_rejected(tmp_path: Path, messages: Any, outcome: int | str) -> None:
    path = write_jsonl(
        tmp_path / "rows.jsonl",
        [{"conversations": [{"from": "human", "value": "Zero?"}, SHAREGPT[1]]}, {"conversations": messages}],
    )
    result = run(path)
    assert len(result.records) - 1 == (outcome if isinstance(outcome, int) else 0)
    assert [reject["reason"] for reject in result.rejects] == ([outcome] if isinstance(outcome, str) else [])


def test_an_optional_column_may_be_missing_in_the_first_rows(tmp_path: Path) -> None:
    rows: list[dict[str, str]] = [{"question": "q", "answer": "a"}, {"question": "q", "answer": "b", "input": "c"}]
    assert [record["context"] for record in run(write_jsonl(tmp_path / "rows.jsonl", rows)).records] == ["", "c"]


def test_plain_text_repeats_only_as_a_whole(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "rows.jsonl", [{"text": text} for text in ("One.", "Two.", "ONE. ", "Three.")])
    result = run(path)
    assert [record["response"] for record in result.records] == ["One.", "Two.", "Three."]
    assert result.metrics["removed"] == {"duplicate": 1}


def test_a_folder_and_a_glob_are_read_in_the_order_of_names(tmp_path: Path) -> None:
    data = tmp_path / "data"
    for name in (
        "b.jsonl",
        "a/z.csv",
        "a/.hidden.jsonl",
        "_SUCCESS",
        "README.md",
        ".git/x.jsonl",
        "lost+found/x",
        "c.md",
    ):
        (data / name).parent.mkdir(parents=True, exist_ok=True)
        (data / name).write_bytes(f"text\n{name}\n".encode() if name.endswith("csv") else jsonl([{"text": name}]))
    folder = run(data, tmp_path / "out")
    assert [record["source"] for record in folder.records] == ["a/z.csv", "b.jsonl", "c.md"]
    assert [record["response"] for record in folder.records] == ["a/z.csv", "b.jsonl", "c.md"]
    glob = run(f"{data}/*.[jm]*", tmp_path / "out")
    assert [record["source"] for record in glob.records] == ["b.jsonl", "c.md"]
    deep = run(f"{data}/**/*.csv", tmp_path / "out")
    assert [record["source"] for record in deep.records] == ["a/z.csv"]


@pytest.mark.parametrize("folder", ["data[1]", "what?", "*", "[a]/b*c"])
def test_a_folder_whose_name_looks_like_a_wildcard_is_read(tmp_path: Path, folder: str) -> None:
    (tmp_path / folder / "in").mkdir(parents=True)
    (tmp_path / "data1").mkdir()
    for name in (f"{folder}/b.jsonl", f"{folder}/in/c.jsonl", "data1/a.jsonl"):
        write_jsonl(tmp_path / name, [{"text": name}])

    def read(dataset: str) -> list[str]:
        return [record["source"] for record in run(tmp_path / dataset, tmp_path / "out").records]

    assert read(folder) == ["b.jsonl", "in/c.jsonl"]
    assert read(f"{folder}/*.jsonl") == ["b.jsonl"]
    assert read("data[0-9]/*.jsonl") == ["data1/a.jsonl"]


def test_only_a_readme_and_a_licence_are_left_out_by_their_name(tmp_path: Path) -> None:
    for name in ("README", "readme.jsonl", "LICENSE.jsonl", "licensed_content.jsonl", "readmes.jsonl"):
        write_jsonl(tmp_path / name, [{"text": name}])
    result = run(tmp_path, tmp_path.parent / "out")
    assert [record["source"] for record in result.records] == ["licensed_content.jsonl", "readmes.jsonl"]


@pytest.mark.parametrize("below", ["", os.fsdecode(b"caf\xe9.jsonl")])
def test_a_file_whose_name_is_no_text_is_named(tmp_path: Path, below: str) -> None:
    (tmp_path / "data").mkdir()
    write_jsonl(tmp_path / "data" / os.fsdecode(b"caf\xe9.jsonl"), [{"text": "a"}])
    with pytest.raises(DataError, match=r"the file name 'caf\\udce9.jsonl' is not UTF-8"):
        run(tmp_path / "data" / below)


def test_a_folder_whose_name_is_no_text_is_named(tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    folder.mkdir()
    write_jsonl(folder / "rows.jsonl", [{"text": "a"}])
    for dataset in (folder, folder / "rows.jsonl"):
        with pytest.raises(DataError) as caught:
            run(dataset, tmp_path / "out")
        assert_one_line(caught.value, "dataset: the folder name", r"caf\udce9", "is not UTF-8")


def test_a_folder_is_pinned_by_its_names_and_bytes(tmp_path: Path) -> None:
    for place in ("here", "there"):
        (tmp_path / place).mkdir()
        write_jsonl(tmp_path / place / "a.jsonl", [{"text": "a"}])
    digests = {pin_sources(str(tmp_path / place))[0].digest for place in ("here", "there", "here/*.jsonl")}
    assert len(digests) == 1
    (tmp_path / "here" / ".hidden").write_bytes(b"1")
    assert pin_sources(str(tmp_path / "here"))[0].digest in digests
    (tmp_path / "here" / "a.jsonl").rename(tmp_path / "here" / "b.jsonl")
    assert pin_sources(str(tmp_path / "here"))[0].digest not in digests


LIST = """\
sources:
  - dataset: faq.csv
    name: faq
    license: cc-by-4.0
    columns: {instruction: q, response: a}
  - dataset: more/*.jsonl
    weight: 0.25
"""


def sources(folder: Path, text: str = LIST, many: int = 400) -> Path:
    """A list of sources with its files: two answers in a CSV, and many texts in two files."""
    (folder / "more").mkdir(parents=True)
    (folder / "faq.csv").write_text("q,a\nOne?,1\nTwo?,2\n,\n", encoding="utf-8")
    for half in (0, 1):
        rows = [{"text": f"Text {number}."} for number in range(many) if number % 2 == half]
        write_jsonl(folder / "more" / f"{half}.jsonl", rows)
    (folder / "list.yaml").write_text(text, encoding="utf-8")
    return folder / "list.yaml"


def test_a_list_names_sources_with_licence_columns_and_weight(tmp_path: Path) -> None:
    result = run(sources(tmp_path / "data"), license="cc0-1.0")
    faq, more = result.metrics["sources"].values()
    assert list(result.metrics["sources"]) == ["faq", "*.jsonl"]
    assert (faq["rows"], faq["records"], faq["rejected"], faq["license"]) == (3, 2, {"empty_field": 1}, "cc-by-4.0")
    assert more["rows"] == 400
    assert more["removed"] == {"not_sampled": 400 - more["records"]}
    assert 70 <= more["records"] <= 130
    assert result.metrics["license"] == "cc-by-4.0, cc0-1.0"
    assert {(record["source"], record["license"]) for record in result.records} == {
        ("faq/faq.csv", "cc-by-4.0"),
        ("0.jsonl", "cc0-1.0"),
        ("1.jsonl", "cc0-1.0"),
    }
    assert result.rejects[0]["source"] == "faq/faq.csv"


@pytest.mark.parametrize("name", ["chats/2026", "./chats/2026", "chats/2026/*.jsonl"])
def test_a_folder_beside_a_list_is_no_hub_id_wherever_the_step_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    (tmp_path / "data" / "chats" / "2026").mkdir(parents=True)
    write_jsonl(tmp_path / "data" / "chats" / "2026" / "a.jsonl", [{"text": "a"}])
    (tmp_path / "data" / "list.yaml").write_text(f"sources: [{{dataset: {name}}}]", encoding="utf-8")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert [record["response"] for record in run("../data/list.yaml", tmp_path / "out").records] == ["a"]


def test_sources_of_one_name_are_told_apart(tmp_path: Path) -> None:
    for folder, text in (("a", "One."), ("b", "Two.")):
        (tmp_path / folder).mkdir()
        write_jsonl(tmp_path / folder / "faq.jsonl", [{"text": text}, {"text": ""}])
    (tmp_path / "list.yaml").write_text(
        "sources: [{dataset: a/faq.jsonl, license: cc-by-4.0}, {dataset: b/faq.jsonl, license: mit}]"
    )
    result = run(tmp_path / "list.yaml")
    licenses = {name: counts["license"] for name, counts in result.metrics["sources"].items()}
    assert licenses == {"1. faq.jsonl": "cc-by-4.0", "2. faq.jsonl": "mit"}
    assert result.metrics["license"] == "cc-by-4.0, mit"
    assert [reject["source"] for reject in result.rejects] == ["1. faq.jsonl/faq.jsonl", "2. faq.jsonl/faq.jsonl"]


def test_a_larger_weight_only_adds_records_and_more_data_moves_none(tmp_path: Path) -> None:
    def kept(name: str, weight: float, many: int = 400) -> set[str]:
        path = sources(tmp_path / name, LIST.replace("0.25", str(weight)), many)
        return {record["id"] for record in run(path).records}

    half = kept("half", 0.5)
    assert kept("tenth", 0.1) < half < kept("whole", 1)
    assert half < kept("grown", 0.5, 800)


def test_a_record_that_one_source_leaves_out_another_may_give(tmp_path: Path) -> None:
    again = "  - dataset: more/0.jsonl\n    name: again\n"
    result = run(sources(tmp_path / "data", LIST + again))
    assert {f"Text {number}." for number in range(0, 400, 2)} <= {record["response"] for record in result.records}
    assert result.metrics["sources"]["again"]["removed"]["duplicate"] > 0


def test_a_list_is_pinned_by_what_it_says_and_what_it_names(tmp_path: Path) -> None:
    here, there = sources(tmp_path / "here"), sources(tmp_path / "there")
    digest = pin_sources(str(here))[0].digest
    assert pin_sources(str(there))[0].digest == digest
    there.write_text(LIST.replace("cc-by-4.0", "mit"), encoding="utf-8")
    assert pin_sources(str(there))[0].digest != digest
    write_jsonl(here.parent / "more" / "0.jsonl", [{"text": "other"}])
    assert pin_sources(str(here))[0].digest != digest
    with pytest.raises(DataError, match="changed after it was resolved"):
        run(here, dataset_digest=digest)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", "one list, sources"),
        ("sources: []", "one list, sources"),
        ("- dataset: a.csv", "one list, sources"),
        ("sources: [faq.csv]", "source 1"),
        ("sources: [{name: faq}]", "dataset"),
        ("sources: [{dataset: faq.csv, split: train}]", "weight"),
        ("sources: [{dataset: faq.csv, weight: 0}]", "weight=0 must be above 0 and at most 1"),
        ("sources: [{dataset: faq.csv, weight: 2}]", "weight=2"),
        ("sources: [{dataset: faq.csv, weight: half}]", "weight='half'"),
        ("sources: [{dataset: faq.csv, columns: {question: a}}]", "instruction, context, response"),
        ("sources: [{dataset: faq.csv, columns: a=b}]", "columns='a=b'"),
        ("sources: [{dataset: 7}]", "dataset=7"),
        ("sources: [{dataset: faq.csv, name: 2026-02-30}]", "not YAML"),
        ("sources: [{dataset: list.yaml}]", "list its sources here"),
        ("sources: [{dataset: none.csv}]", "none.csv does not exist"),
        ("sources: [{dataset: none/*.csv}]", "no file matches"),
        ("sources: [{dataset: faq.csv}", "not YAML"),
        ("[" * 400, "not YAML"),
        ("sources: &a [*a]", "source 1"),
        ("\x00", "not YAML"),
    ],
)
def test_a_list_that_is_none_is_named(tmp_path: Path, text: str, named: str) -> None:
    path = sources(tmp_path / "data", text)
    with pytest.raises(UserError) as caught:
        run(path)
    assert_one_line(caught.value, "dataset", named)


@settings(max_examples=15)
@given(
    records=st.lists(st.builds(make_record, st.text(min_size=1), st.text(min_size=1), st.text(), st.text()), max_size=8)
)
def test_any_text_comes_out_of_every_format_as_it_went_in(tmp_path: Path, records: list[dict[str, str]]) -> None:
    rows = [{name: record[name] for name in ROWS[0]} for record in records]
    outcomes: list[Any] = []
    for format in ("jsonl", "json", "parquet", "arrow", "arrows"):
        path = tmp_path / f"rows.{format}"
        path.write_bytes(FORMATS[format](rows) if rows else jsonl([]))
        try:
            result = run(path)
        except DataError:
            outcomes.append(None)
            continue
        outcomes.append((said(result), [(reject["position"], reject["reason"]) for reject in result.rejects]))
    assert outcomes == outcomes[:1] * 5


def saved(folder: Path) -> Path:
    """What datasets saves of two splits, of which the second is empty; and what it leaves there when it is used."""
    from datasets import ClassLabel, Dataset, DatasetDict, Features, Value, load_from_disk

    features = Features({"text": Value("string"), "category": ClassLabel(names=["no", "yes"])})
    rows = Dataset.from_dict({"text": ["One.", "Two."], "category": [0, 1]}, features=features)
    DatasetDict(train=rows, test=rows.select([])).save_to_disk(folder)
    load_from_disk(folder / "train").map(lambda row: {"text": row["text"] + " More."}).shuffle(seed=1)
    names = {path.name[:6] for path in (folder / "train").iterdir()}
    assert names == {"data-0", "cache-", "state.", "datase"}
    return folder


def put(store: Any, folder: Path, place: str) -> None:
    """Copies a folder into a store."""
    files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    store.pipe({f"{place}/{name}": content for name, content in files.items()})


def test_of_a_folder_that_datasets_saved_only_the_tables_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PRIVATE_LLM_CACHE", str(tmp_path / "cache"))
    folder = saved(tmp_path / "data")
    table = "data-00000-of-00001.arrow"
    store = fsspec.filesystem("memory")
    try:
        put(store, folder, "/saved")
        for place in (f"{folder}", f"{folder}/**", "memory://saved", "memory://saved/**"):
            result = run(place, tmp_path / "out")
            assert [record["response"] for record in result.records] == ["One.", "Two."]
            assert {record["source"] for record in result.records} == {f"train/{table}"}
            assert (result.counts["rows"], result.metrics["categories"]) == (2, {"0": 1, "1": 1})
        for place in (f"{folder}/train", f"{folder}/train/*", "memory://saved/train"):
            assert [record["source"] for record in run(place, tmp_path / "out").records] == [table] * 2
        for place in (f"{folder}/test/*", "memory://saved/test"):  # which alone is no folder with tables
            with pytest.raises(DataError):
                run(place, tmp_path / "out")
    finally:
        store.rm("/saved", recursive=True)


@pytest.mark.parametrize(
    "others",
    [
        (),
        ("a.jsonl",),
        ("dataset_info.json", "a.jsonl"),
        ("dataset_dict.json", "in/state.json"),
        ("dataset_info.json", "cache-0123456789abcdef.arrow"),
        ("in/dataset_info.json", "in/data-00000-of-00001.arrow"),
        ("data-00000-of-00001.arrow",),
    ],
)
def test_files_that_only_have_the_names_of_what_datasets_notes_are_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, others: tuple[str, ...]
) -> None:
    monkeypatch.setenv("PRIVATE_LLM_CACHE", str(tmp_path / "cache"))
    names = sorted(("state.json", *others))
    for name in names:
        (tmp_path / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "data" / name).write_bytes(
            (arrow_stream if name.endswith("arrow") else json_list)([{"text": name}])
        )
    store = fsspec.filesystem("memory")
    try:
        put(store, tmp_path / "data", "/named")
        for place in (tmp_path / "data", "memory://named"):
            assert [record["response"] for record in run(place, tmp_path / "out").records] == names
    finally:
        store.rm("/named", recursive=True)


def test_a_store_is_read_like_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRIVATE_LLM_CACHE", str(tmp_path / "cache"))
    store = fsspec.filesystem("memory")
    names = ("list/a.jsonl", "list/b/c.csv.gz", "list/_SUCCESS", "list/x.yaml")
    contents = (jsonl([{"text": "a"}]), gzip.compress(b"text\nc\nd\n"), b"", b"sources:\n  - dataset: a.jsonl\n")
    try:
        store.pipe({f"/formats/{name}": content for name, content in zip(names, contents, strict=True)})
        assert [r["source"] for r in run("memory://formats/list/*.jsonl", tmp_path / "out").records] == ["a.jsonl"]
        listed = run("memory://formats/list/x.yaml", tmp_path / "out")
        assert [record["response"] for record in listed.records] == ["a"]
        store.pipe("/formats/list/x.yaml", b"sources:\n  - dataset: ./b/c.csv.gz\n")
        assert run("memory://formats/list/x.yaml", tmp_path / "out").counts["records"] == 2
        store.rm("/formats/list/x.yaml")
        folder = run("memory://formats/list", tmp_path / "out")
        assert [record["source"] for record in folder.records] == ["a.jsonl", "b/c.csv.gz", "b/c.csv.gz"]
    finally:
        store.rm("/formats", recursive=True)


def test_the_guide_prints_what_ingest_prints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    guide = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")
    blocks = [block.partition("\n")[2] for block in guide.split("```")[1::2]]
    monkeypatch.chdir(tmp_path)
    Path("faq.csv").write_text(blocks[0], encoding="utf-8")
    (reject,) = run("faq.csv", max_reject_fraction=0.5).rejects
    assert (reject["source"], reject["position"], reject["reason"]) == ("faq.csv", 4, "empty_field")
    assert blocks[1].splitlines()[-1] in capsys.readouterr().out
    with pytest.raises(DataError) as caught:
        run("faq.csv", max_reject_fraction=0.1)
    assert blocks[2].strip() == f"ingest: {caught.value}"
    Path("sources.yaml").write_text(blocks[3], encoding="utf-8")
    assert len(list_sources("sources.yaml")) == 4
    for aliases in ALIASES.values():
        assert ", ".join(aliases) in guide
