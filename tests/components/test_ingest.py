"""ingest: every row becomes a record or is counted with its reason, and what was rejected leaks nowhere."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.errors import DataError, ParameterError
from components.records import path_digest, record_id
from components.sources import pin
from tests.components.ingesting import assert_one_line, run, write_parquet
from tests.conftest import write_jsonl

GOOD = {"instruction": "Say hello.", "context": "", "response": "Hello.", "category": "open_qa"}
CHAT = [{"role": "user", "content": "Say hello."}, {"role": "assistant", "content": "Hello."}]
HEADER = b"instruction,context,response,category\n"
GOOD_CSV = b"Say hello.,,Hello.,open_qa\n"
SECRET = "S3CRET"


def row(**fields: Any) -> dict[str, Any]:
    return {**GOOD, "instruction": SECRET, **fields}


def line(**fields: Any) -> bytes:
    return json.dumps(row(**fields)).encode()


JSONL = {
    "cut off": (b'{"instruction": "S3CRET', "not_json"),
    "two values": (line() + b" " + line(), "not_json"),
    "a raw NUL": (line(response="@").replace(b"@", b"\x00"), "not_json"),
    "nested too deeply": (b'{"instruction": "S3CRET", "x": ' + b"[" * 100_000, "not_json"),
    "a string": (b'"S3CRET"', "not_an_object"),
    "a list": (b'["S3CRET"]', "not_an_object"),
    "null": (b"null", "not_an_object"),
    "NaN": (b"NaN", "not_json"),
    "NaN in another field": (line(more=float("nan")), "not_json"),
    "Infinity": (line(more=float("-inf")), "not_json"),
    "a key that stands twice": (line()[:-1] + b', "response": "other"}', "duplicate_key"),
    "a key that stands twice with spaces": (line()[:-1] + b', "category"\t: ":"}', "duplicate_key"),
    "a key that stands twice, once escaped": (line()[:-1] + b', "\\u0072esponse": "other"}', "duplicate_key"),
    "a key that stands twice, once with a space": (line()[:-1] + b', "response" :"other"}', "duplicate_key"),
    "a key that stands twice, first with a space": (b'{"instruction" :"x",' + line()[1:], "duplicate_key"),
    "a key that stands twice, where texts hold keys": (b'{"response":"x",' + line(x='"a": ":"')[1:], "duplicate_key"),
    "a key that stands twice, of backslashes": (b'{"a\\\\" :"x", "a\\\\":"y",' + line(y='\\":')[1:], "duplicate_key"),
    "a key that stands twice further in": (line()[:-1] + b', "x": [{"a": 1, "b": [1], "a": "2"}]}', "duplicate_key"),
    "a key that stands twice further in, with a space": (line(x={"b": 1})[:-2] + b', "b" :1}}', "duplicate_key"),
    "more than a row may hold": (line(response="long " * 900_000), "over_long"),
    "no response": (b'{"instruction": "S3CRET"}', "missing_field"),
    "a null response": (line(response=None), "missing_field"),
    "an empty response": (line(response=""), "empty_field"),
    "a blank response": (line(response=" \n\u00a0"), "empty_field"),
    "a number": (line(response=7), "wrong_type"),
    "a list of texts": (line(response=["a"]), "wrong_type"),
    "an object as context": (line(context={"text": "a"}), "wrong_type"),
    "a list as category": (line(category=["a"]), "wrong_type"),
    "half a number as category": (line(category=0.5), "wrong_type"),
    "a number as category that is not exact": (line(category=10**30), "wrong_type"),
    "a lone surrogate": (line(response="\ud800"), "invalid_text"),
    "a lone surrogate in the context": (line(context="a\udfffb"), "invalid_text"),
    "an escaped NUL": (line(response="a\x00b"), "invalid_text"),
    "invalid UTF-8": (line(response="@").replace(b"@", b"\xff\xfe"), "invalid_text"),
    "Latin-1": (json.dumps(row(response="café"), ensure_ascii=False).encode("latin-1"), "invalid_text"),
}
CSV = {
    "too many cells": (b"S3CRET,,a,b,c", "wrong_type"),
    "too few cells": (b"S3CRET,a", "wrong_type"),
    "text behind a quote": (b'"S3CRET"x,,a,b', "wrong_type"),
    "an empty response": (b"S3CRET,,,b", "empty_field"),
    "a blank instruction": (b'"  ",S3CRET,a,b', "empty_field"),
    "invalid UTF-8": (b"S3CRET,,\xff,b", "invalid_text"),
    "a NUL": (b"S3CRET,,a\x00b,c", "invalid_text"),
}


@pytest.mark.parametrize(("raw", "reason"), JSONL.values(), ids=JSONL)
def test_jsonl_rejects(tmp_path: Path, capfd: pytest.CaptureFixture[str], raw: bytes, reason: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(json.dumps(GOOD).encode() + b"\n" + raw + b"\n")
    _assert_rejected(path, [(2, reason)], capfd)


@pytest.mark.parametrize(("raw", "reason"), CSV.values(), ids=CSV)
def test_csv_rejects(tmp_path: Path, capfd: pytest.CaptureFixture[str], raw: bytes, reason: str) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes(HEADER + GOOD_CSV + raw + b"\n")
    _assert_rejected(path, [(3, reason)], capfd)


def test_json_rejects(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    valid = {**GOOD, "instruction": "Another.", "context": None}
    rows: list[Any] = [GOOD, SECRET, row(response=7), row(response="\ud800"), valid, row(response=None), [], None]
    path = tmp_path / "rows.json"
    path.write_text(json.dumps(rows), encoding="utf-8")
    expected = [(2, "not_an_object"), (3, "wrong_type"), (4, "invalid_text"), (6, "missing_field")]
    _assert_rejected(path, [*expected, (7, "not_an_object"), (8, "not_an_object")], capfd, kept=2)


def test_parquet_rejects(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    columns = {"instruction": ["Hi", SECRET, None, f"{SECRET}\x00", "  "], "response": ["a", "", SECRET, "b", SECRET]}
    path = write_parquet(tmp_path / "rows.parquet", columns)
    expected = [(2, "empty_field"), (3, "missing_field"), (4, "invalid_text"), (5, "empty_field")]
    _assert_rejected(path, expected, capfd)


def test_a_parquet_column_of_another_type_rejects_its_rows(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    columns = {"instruction": ["a", SECRET], "response": pa.array([None, 7], pa.int64())}
    path = write_parquet(tmp_path / "rows.parquet", columns)
    with pytest.raises(DataError, match="no valid record in 2 rows") as caught:
        run(path)
    assert "missing_field 1" in str(caught.value)
    assert "wrong_type 1" in str(caught.value)
    assert SECRET not in str(caught.value) + "".join(capfd.readouterr())


def test_a_parquet_string_that_is_not_utf_8_is_rejected(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    responses = pa.array([b"a", SECRET.encode() + b"\xff", b"c"]).view(pa.string())
    path = write_parquet(tmp_path / "rows.parquet", {"instruction": ["a", SECRET, "c"], "response": responses})
    _assert_rejected(path, [(2, "invalid_text")], capfd, kept=2)


def _assert_rejected(
    path: Path, expected: list[tuple[int, str]], capfd: pytest.CaptureFixture[str], kept: int = 1
) -> None:
    """Rows are rejected with these positions and reasons, the others kept, and no output tells what stood in them."""
    result = run(path)
    assert [(reject["position"], reject["reason"]) for reject in result.rejects] == expected
    assert {reject["source"] for reject in result.rejects} == {path.name}
    assert result.metrics["rejected"] == Counter(reason for _, reason in expected)
    assert len(result.records) == result.metrics["records"] == kept
    printed = "".join(capfd.readouterr())
    assert SECRET not in printed + json.dumps([result.records, result.rejects, result.metrics])


@pytest.mark.parametrize(
    ("name", "good", "rows"),
    [
        ("rows.jsonl", json.dumps(GOOD).encode() + b"\n", [line(response=1), line(response=2), b"{"]),
        ("rows.csv", HEADER + GOOD_CSV, [b"a,b", b"c,d", b'"a"x,b']),
    ],
    ids=["jsonl", "csv"],
)
def test_digests_tell_rejected_rows_apart(tmp_path: Path, name: str, good: bytes, rows: list[bytes]) -> None:
    path = tmp_path / name
    path.write_bytes(good + b"\n".join([*rows, rows[0]]) + b"\n")
    digests = [reject["digest"] for reject in run(path).rejects]
    assert digests[0] == digests[3]
    assert len(set(digests)) == 3


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_byte_order_mark_line_ends_and_blank_lines(tmp_path: Path, end: bytes) -> None:
    mark = b"\xef\xbb\xbf"
    good, bad = json.dumps(GOOD).encode(), b"{"
    other = json.dumps({**GOOD, "instruction": "Other\u2028line"}, ensure_ascii=False).encode()
    jsonl, table = tmp_path / "rows.jsonl", tmp_path / "rows.csv"
    jsonl.write_bytes(mark + end.join([good, b"", b"  ", bad, other, bad]))
    table.write_bytes(mark + end.join([HEADER.strip(), GOOD_CSV.strip(), b"", b"bad", b"Other,,Hello.,x", b"bad"]))
    json_list = tmp_path / "rows.json"
    json_list.write_bytes(mark + b"[" + good + b"," + end + b"7]" + end)
    assert [reject["position"] for reject in run(jsonl).rejects] == [4, 6]
    assert [reject["position"] for reject in run(table).rejects] == [4, 6]
    assert [reject["position"] for reject in run(json_list).rejects] == [2]


def test_a_csv_cell_may_hold_line_ends_and_positions_are_where_a_row_begins(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    cell = 'two\nlines and a ""quote"""'
    path.write_text(
        f'instruction,response\n"{cell},first\nshort\n"{cell},\n"x"y,z\nlast,answer\n"{cell},second,third\n', "utf-8"
    )
    result = run(path)
    assert result.records[0]["instruction"] == 'two\nlines and a "quote"'
    assert [record["response"] for record in result.records] == ["first", "answer"]
    assert [(reject["position"], reject["reason"]) for reject in result.rejects] == [
        (4, "wrong_type"),
        (5, "empty_field"),
        (7, "wrong_type"),
        (9, "wrong_type"),
    ]


def test_null_and_blank_context_and_category_have_defaults(tmp_path: Path) -> None:
    path = write_jsonl(
        tmp_path / "rows.jsonl",
        [
            {"instruction": " a ", "response": " b\n"},
            {"instruction": "c", "response": "d", "context": None, "category": None},
            {"instruction": "e", "response": "f", "context": " ", "category": " ", "more": {"x": [1]}},
        ],
    )
    result = run(path)
    assert [(record["context"], record["category"]) for record in result.records] == [("", "unknown")] * 3
    assert (result.records[0]["instruction"], result.records[0]["response"]) == ("a", "b")
    assert result.metrics["categories"] == {"unknown": 3}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("rows.json", b'{\n"instruction": "S3CRET"\n}', "not a JSON list"),
        ("rows.json", b"S3CRET", "not a JSON list"),
        ("rows.json", b"[S3CRET", "ends inside its JSON list"),
        ("rows.json", b'["\xff"]', "no valid record in 1 rows (rejected: invalid_text 1"),
        ("rows.json", b"[" * 100_000, "ends inside its JSON list"),
        ("rows.parquet", b"S3CRET", "not a readable Parquet file"),
        ("rows.parquet", b"", "not a readable Parquet file"),
        ("rows.txt", b"", "no valid record in 0 rows"),
        ("rows.jsonl", b"", "no valid record in 0 rows"),
        ("rows.csv", b"", "no valid record in 0 rows"),
        ("rows.csv", HEADER, "no valid record in 0 rows"),
        ("rows.json", b"[]", "no valid record in 0 rows"),
    ],
)
def test_a_file_that_cannot_be_read_at_all(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        run(path)
    assert_one_line(caught.value, name, message)


@settings(max_examples=40)
@given(position=st.floats(0, 1, exclude_max=True), size=st.integers(1, 64), data=st.data())
def test_a_damaged_parquet_file_is_read_or_refused_in_one_line(
    tmp_path: Path, position: float, size: int, data: st.DataObject
) -> None:
    columns = {name: [f"{name} {number} of many" for number in range(300)] for name in ("instruction", "response")}
    path = write_parquet(tmp_path / "rows.parquet", columns)
    content = bytearray(path.read_bytes())
    start = int(position * len(content))
    content[start : start + size] = data.draw(st.binary(min_size=size, max_size=size))
    path.write_bytes(content)
    try:
        run(path)
    except DataError as error:
        assert_one_line(error, "rows.parquet")


def test_a_cut_off_parquet_file(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "rows.parquet", {"instruction": ["a"], "response": ["b"]})
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError) as caught:
        run(path)
    assert_one_line(caught.value, "rows.parquet", "not a readable Parquet file")


def test_every_format_gives_the_same_records(tmp_path: Path) -> None:
    rows = [
        {"instruction": "Größe?", "context": "a, b\nc", "response": 'The "big" one 🦩', "category": "qa"},
        {"instruction": "2?", "context": "", "response": "= 4", "category": "math"},
    ]
    (tmp_path / "rows.json").write_text(json.dumps(rows), encoding="utf-8")
    write_jsonl(tmp_path / "rows.jsonl", rows)
    write_parquet(tmp_path / "rows.parquet", {name: [row[name] for row in rows] for name in rows[0]})
    quoted = (",".join('"' + value.replace('"', '""') + '"' for value in row.values()) for row in rows)
    (tmp_path / "rows.csv").write_text(HEADER.decode() + "\n".join(quoted), encoding="utf-8")
    for suffix in ("json", "jsonl", "parquet", "csv"):
        result = run(tmp_path / f"rows.{suffix}", license="CC0-1.0")
        assert result.records == [
            {
                "id": record_id(row["instruction"], row["context"], row["response"]),
                **row,
                "source": f"rows.{suffix}",
                "license": "CC0-1.0",
                "history": "",
            }
            for row in rows
        ]


VALID = [{"instruction": question, "response": answer} for question in "abc" for answer in "xyz"]
INVALID = [value for raw, _ in JSONL.values() for value in [raw] if len(raw) < 1000]


@given(mix=st.lists(st.sampled_from(VALID) | st.sampled_from(INVALID), max_size=60))
def test_every_row_is_kept_rejected_or_removed(tmp_path: Path, mix: list[dict[str, str] | bytes]) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"\n".join(item if isinstance(item, bytes) else json.dumps(item).encode() for item in mix))
    valid = [(item["instruction"], item["response"]) for item in mix if not isinstance(item, bytes)]
    if not valid:
        with pytest.raises(DataError, match="no valid record"):
            run(path)
        return
    result = run(path)
    metrics = result.metrics
    removed = metrics["removed"]
    assert metrics["rows"] == len(mix)
    assert metrics["rows"] == metrics["records"] + sum(metrics["rejected"].values()) + sum(removed.values())
    first_answers = dict(reversed(valid))
    assert {record["instruction"]: record["response"] for record in result.records} == first_answers
    assert len(result.records) == len(first_answers)
    assert removed.get("duplicate", 0) == len(valid) - len(set(valid))
    assert removed.get("repeated_prompt", 0) == len(set(valid)) - len(first_answers)
    assert result.counts == {
        "rows": len(mix),
        "records": len(result.records),
        "rejected": len(result.rejects),
        "removed": sum(removed.values()),
    }


@pytest.mark.parametrize(
    ("category", "text"),
    [
        (0, "0"),
        (-7, "-7"),
        (2.0, "2"),
        (-0.0, "0"),
        (9e15, "9000000000000000"),
        (2**64 - 1, "18446744073709551615"),
        (True, "true"),
        (False, "false"),
        ("2.0", "2.0"),
    ],
)
@pytest.mark.parametrize("fields", [GOOD, {"text": "a"}, {"messages": CHAT}], ids=["instruction", "text", "messages"])
def test_a_category_may_be_a_class_s_number(tmp_path: Path, category: Any, text: str, fields: dict[str, Any]) -> None:
    result = run(write_jsonl(tmp_path / "rows.jsonl", [{**fields, "category": category}]))
    assert result.metrics["categories"] == {text: 1}


def test_a_table_s_class_labels_are_categories(tmp_path: Path) -> None:
    """As datasets writes them, plain integers; a missing one makes pandas write floats."""
    nan = float("nan")
    for labels, expected in (
        (pa.array([2, 0, None], pa.int64()), {"2": 1, "0": 1, "unknown": 1}),
        (pa.array([2.0, 0.0, None]), {"2": 1, "0": 1, "unknown": 1}),
        (pa.array([True, False, None]), {"true": 1, "false": 1, "unknown": 1}),
        (pa.array([1.0, nan, float("inf")]), {"1": 1}),
    ):
        columns = {"instruction": list("abc"), "response": list("xyz"), "category": labels}
        result = run(write_parquet(tmp_path / "rows.parquet", columns))
        assert result.metrics["categories"] == expected
        assert result.metrics["rejected"] == ({"wrong_type": 2} if "1" in expected else {})


def test_duplicates_and_repeated_prompts_are_told_apart(tmp_path: Path) -> None:
    path = write_jsonl(
        tmp_path / "rows.jsonl",
        [
            GOOD,
            {**GOOD, "instruction": "  SAY\thello. ", "category": "other"},
            {**GOOD, "response": "Hi."},
            {**GOOD, "response": "hi. "},
            {**GOOD, "context": "In French."},
        ],
    )
    result = run(path)
    assert result.metrics["removed"] == {"duplicate": 2, "repeated_prompt": 1}
    assert [(record["context"], record["response"]) for record in result.records] == [
        ("", "Hello."),
        ("In French.", "Hello."),
    ]
    assert result.metrics["categories"] == {"open_qa": 2}


def test_columns_may_have_other_names(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "rows.jsonl", [{"question": "Q?", "answer": "A.", "instruction": 3, "category": "x"}])
    result = run(path, columns=" instruction = question , response=answer,")
    assert (result.records[0]["instruction"], result.records[0]["response"]) == ("Q?", "A.")
    assert result.records[0]["category"] == "x"


@pytest.mark.parametrize(
    "columns", ["question", "question=instruction", "instruction=", "=question", "instruction:question"]
)
def test_a_bad_mapping_of_columns_is_named(tmp_path: Path, columns: str) -> None:
    path = write_jsonl(tmp_path / "rows.jsonl", [GOOD])
    with pytest.raises(ParameterError) as caught:
        run(path, columns=columns)
    assert_one_line(caught.value, "columns", repr(columns), "instruction, context, response, category")


def test_too_many_rejects_fail_and_name_the_reasons(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    good = [{**GOOD, "instruction": f"question {number}"} for number in range(7)]
    path = write_jsonl(
        tmp_path / "rows.jsonl", [*good[:4], row(response=7), row(response=""), row(response=8), *good[4:]]
    )
    assert run(path, max_reject_fraction=0.3).counts["rejected"] == 3
    with pytest.raises(DataError) as caught:
        run(path, max_reject_fraction=0.29)
    assert_one_line(
        caught.value, str(path), "3 of 10 rows", "wrong_type 2, empty_field 1", "row 5", "max_reject_fraction=0.29"
    )
    assert SECRET not in str(caught.value) + "".join(capfd.readouterr())


@pytest.mark.parametrize("share", [-0.1, 1.5, float("nan")])
def test_a_share_of_rejects_that_is_none_is_named(tmp_path: Path, share: float) -> None:
    path = write_jsonl(tmp_path / "rows.jsonl", [GOOD, 7])
    with pytest.raises(ParameterError) as caught:
        run(path, max_reject_fraction=share)
    assert_one_line(caught.value, f"max_reject_fraction={share:g}")


def test_bytes_that_changed_since_resolve_are_refused(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "rows.jsonl", [GOOD])
    digest = pin(str(path), "dataset").digest
    assert run(path, dataset_digest=digest).counts["records"] == 1
    write_jsonl(path, [GOOD, GOOD])
    with pytest.raises(DataError) as caught:
        run(path, dataset_digest=digest)
    assert_one_line(caught.value, str(path), "changed after it was resolved")


def test_the_same_input_gives_the_same_bytes(tmp_path: Path) -> None:
    rows = [{**GOOD, "instruction": f"question {number % 70}"} for number in range(100)]
    outputs = []
    for place in ("here", "there"):
        (tmp_path / place).mkdir()
        run(write_jsonl(tmp_path / place / "rows.jsonl", [*rows, 7]))
        outputs.append(
            [path_digest(tmp_path / place / "out" / name) for name in ("records", "rejects", "metrics.json")]
        )
    assert outputs[0] == outputs[1]


def test_a_remote_dataset_is_read_like_a_local_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import fsspec

    monkeypatch.setenv("PRIVATE_LLM_CACHE", str(tmp_path / "cache"))
    store = fsspec.filesystem("memory")
    store.pipe("/remote-ingest/rows.jsonl", json.dumps(GOOD).encode())
    try:
        result = run("memory://remote-ingest/rows.jsonl", tmp_path / "out")
    finally:
        store.rm("/remote-ingest", recursive=True)
    assert [(record["instruction"], record["source"]) for record in result.records] == [("Say hello.", "rows.jsonl")]


def test_dolly_15k(dolly: Path, tmp_path: Path) -> None:
    result = run(
        dolly, tmp_path, max_reject_fraction=0.0, cleaning="control,whitespace,references,nfc", near_duplicates=0.7
    )
    assert result.counts == {"rows": 15015, "records": 14801, "rejected": 0, "removed": 214}
    assert result.metrics["removed"] == {"duplicate": 16, "near_duplicate": 9, "repeated_prompt": 189}
    assert len(result.metrics["categories"]) == 8
    assert len({record["id"] for record in result.records}) == 14801
