"""Bad files: ingest reads what can be read, rejects rows with a reason, or refuses the file in one line.

Never a traceback, a hang, or more memory than a few rows; every row is accounted for (run checks the sums).
"""

import json
import os
import shutil
import subprocess
import sys
import tarfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.memory import MemoryFile
from hypothesis import example, given, settings
from hypothesis import strategies as st

from components import files
from components.errors import DataError
from components.ingest.rows import MAX_ROW
from tests.components.ingesting import Result, assert_one_line, run
from tests.components.test_ingest_formats import FORMATS, PACKINGS, json_list, jsonl

SECRET = "S3CRET"
ROWS = [{"instruction": f"{SECRET} {number}?", "response": f"{SECRET} answer {number}"} for number in range(40)]
ALL: dict[str, Callable[[list[dict[str, Any]]], bytes]] = {
    **FORMATS,
    "txt": lambda rows: "\n\n".join(row["response"] for row in rows).encode(),
    "md": lambda rows: "\n".join(f"# {row['instruction']}\n{row['response']}" for row in rows).encode(),
}
STREAMED = [name for name in ALL if name not in ("parquet", "arrow")]


def attempt(path: Path | str, output: Path | None = None) -> Result | None:
    """What ingest makes of a file; None when it refuses it, in one line and without its text."""
    result, told = None, ""
    try:
        result = run(path, output)
        told = json.dumps([result.rejects, result.metrics])
    except DataError as error:
        told = str(error)
        assert_one_line(error, "dataset: ")
    assert SECRET not in told
    return result


@pytest.mark.parametrize("packing", PACKINGS)
@pytest.mark.parametrize("format", ALL)
def test_an_empty_file(tmp_path: Path, format: str, packing: str) -> None:
    path = tmp_path / f"rows.{format}{packing}"
    path.write_bytes(PACKINGS[packing](b""))
    assert attempt(path) is None


@pytest.mark.parametrize("format", ALL)
@pytest.mark.parametrize("share", [0.01, 0.5, 0.99])
def test_a_file_that_is_cut_off(tmp_path: Path, format: str, share: float) -> None:
    content = ALL[format](ROWS)
    path = tmp_path / f"rows.{format}"
    path.write_bytes(content[: int(len(content) * share)])
    result = attempt(path)
    if format in ("parquet", "arrow", "arrows"):
        assert result is None
    elif result and format == "jsonl":
        assert len(result.records) < len(ROWS)
        assert [reject["reason"] for reject in result.rejects] == ["not_json"]
    elif format == "json":
        assert result is None


@pytest.mark.parametrize("packing", [".gz", ".bz2", ".zst"])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.99])
def test_a_packed_file_that_is_cut_off_is_refused(tmp_path: Path, packing: str, share: float) -> None:
    content = PACKINGS[packing](jsonl(ROWS))
    path = tmp_path / f"rows.jsonl{packing}"
    path.write_bytes(content[: int(len(content) * share)])
    assert attempt(path) is None


def test_a_json_list_without_its_end_or_with_more_behind_it_is_refused(tmp_path: Path) -> None:
    """Half of the rows, or all of a second list, would be one rejected row."""
    whole = json_list(ROWS).rstrip()
    path = tmp_path / "rows.json"
    behind = "rows.json goes on behind the end of its JSON list, behind element 40"
    inside = "rows.json ends inside its JSON list: it was cut off, or a quote or bracket is not closed, behind element"
    for content, told in (
        (whole[:-1], f"{inside} 39"),
        (whole[: len(whole) // 2], inside),
        (whole.replace(b"?", b'"', 1), inside),
        (whole + b"\n" + whole, behind),
        (whole + b" " + jsonl(ROWS[:1]), behind),
        (whole + b" " * (3 << 20) + b"[]", behind),
    ):
        path.write_bytes(content)
        with pytest.raises(DataError) as caught:
            run(path)
        assert_one_line(caught.value, told, "make it one whole list, or one record a line")
    turns = [[{"role": "user", "content": f"{number}?"}, {"role": "assistant", "content": "a"}] for number in range(9)]
    path.write_text("\n".join(map(json.dumps, turns)), encoding="utf-8")
    with pytest.raises(DataError, match="goes on behind the end of its JSON list, behind element 2"):
        run(path)


def test_a_json_list_that_ends_wrongly_has_one_more_row_that_is_rejected(tmp_path: Path) -> None:
    whole = json_list(ROWS).rstrip()
    for content in (whole[:-1] + b",]", whole[:-1] + b"}"):
        path = tmp_path / "rows.json"
        path.write_bytes(content)
        result = run(path)
        assert len(result.records) == len(ROWS) or content.endswith(b"}")
        assert [reject["reason"] for reject in result.rejects] == ["not_json"]


@pytest.mark.parametrize(
    "content",
    [
        b"\x00" * 5000,
        bytes(range(256)) * 20,
        b"\x89PNG\r\n\x1a\n" + os.urandom(0) + b"\x00\x01\x02" * 50,
        f"{SECRET},b\n1,2\n".encode("utf-16"),
        f"{SECRET},b\n1,2\n".encode("utf-16-be"),
        b"%PDF-1.7 " + SECRET.encode(),
        b"SQLite format 3\x00" + SECRET.encode(),
        b"\xfd7zXZ\x00" + SECRET.encode(),
        b"BZh9" + SECRET.encode(),
        b"\x1f\x8b" + SECRET.encode(),
        b"\x28\xb5\x2f\xfd" + SECRET.encode(),
        b"PAR1" + SECRET.encode() + b"PAR1",
        b"ARROW1\x00\x00" + SECRET.encode() + b"ARROW1",
        b"\xff\xff\xff\xff" + SECRET.encode(),
        b"\xff\xff\xff\xff\xff\xff\xff\x7f",
        PACKINGS[".gz"](PACKINGS[".gz"](jsonl(ROWS))),
        PACKINGS[".zst"](ALL["parquet"](ROWS)),
        f"a,{SECRET},{SECRET}\n1,2,3\n".encode(),
    ],
)
@pytest.mark.parametrize("name", ["rows.jsonl", "rows.csv", "rows"])
def test_what_is_no_data_at_all_is_refused(tmp_path: Path, name: str, content: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    result = attempt(path)
    assert result is None or not result.records


def test_archives_are_not_unpacked(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "rows.jsonl").write_bytes(jsonl(ROWS))
    with zipfile.ZipFile(tmp_path / "in" / "rows.zip", "w") as archive:
        archive.write(tmp_path / "rows.jsonl", "../../evil.jsonl")
    for name, mode in (("rows.tar", "w"), ("rows.tar.gz", "w:gz")):
        with tarfile.open(tmp_path / "in" / name, mode) as tar:  # type: ignore[call-overload]
            tar.add(tmp_path / "rows.jsonl", "../../evil.jsonl")
    before = set(tmp_path.rglob("*"))
    for name in ("rows.zip", "rows.tar", "rows.tar.gz"):
        with pytest.raises(DataError, match="archive"):
            run(tmp_path / "in" / name, tmp_path / "out")
    assert {path for path in tmp_path.rglob("*") if "out" not in path.parts} == before


@pytest.mark.parametrize("packing", [".gz", ".zst"])
def test_a_file_that_grows_without_measure_is_refused(tmp_path: Path, packing: str) -> None:
    path = tmp_path / f"rows.jsonl{packing}"
    path.write_bytes(PACKINGS[packing](b'{"text": "a"}\n' + b"[" * (80 << 20)))
    with pytest.raises(DataError) as caught:
        run(path)
    assert_one_line(caught.value, str(path), "grows more than 200-fold")


LARGE = """\
import re, sys
from pathlib import Path
from components.errors import DataError
from components.ingest.ingest import ingest

folder = Path(sys.argv[1])
for path in sorted(folder.glob("rows.*")):
    try:
        counts = ingest(
            dataset=str(path), max_reject_fraction=1.0, records=folder / "r", rejects=folder / "j", metrics=folder / "m"
        )
        print(path.name, counts, file=sys.stderr)
    except DataError as error:
        print(path.name, error, file=sys.stderr)
# not ru_maxrss, which a process begins with its parent's
print(int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) // 1024, file=sys.stderr)
"""


def test_a_line_of_100_mb_is_rejected_without_being_held(tmp_path: Path) -> None:
    good = {name: ALL[name](ROWS[:1]) for name in ("jsonl", "csv")}
    good["json"] = b'[{"instruction": "a", "response": "b"}'
    opening = {"jsonl": b'{"text": "', "json": b',{"text": "', "csv": b'"'}
    for name, content in good.items():
        with (tmp_path / f"rows.{name}").open("wb") as file:
            file.write(content.rstrip() + b"\n" * (name != "json") + opening[name])
            for _ in range(100):
                file.write(b"long text \\n" * 90_000)
            file.write(b'"}]' if name == "json" else b'"}\n' + content)
    command = [sys.executable, "-c", LARGE, str(tmp_path)]
    finished = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert finished.returncode == 0, finished.stderr
    *outcomes, peak = [line for line in finished.stderr.splitlines() if line]
    assert len(outcomes) == 3
    assert all("'rejected': 1" in outcome for outcome in outcomes), outcomes
    assert int(peak) < 350  # MiB, of which the libraries take about 150


def test_a_long_row_of_a_table_is_rejected_and_the_others_are_kept(tmp_path: Path) -> None:
    rows = [*ROWS[:3], {"instruction": "long", "response": "x" * (MAX_ROW + 1)}, *ROWS[3:]]
    for format in ("parquet", "arrow", "arrows", "json", "jsonl", "csv"):
        path = tmp_path / f"rows.{format}"
        path.write_bytes(ALL[format](rows))
        result = run(path)
        assert [reject["reason"] for reject in result.rejects] == ["over_long"]
        assert len(result.records) == len(ROWS)


def test_a_quote_that_nothing_closes_ends_a_csv_row_at_the_limit(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    lines = [f"question {number},{'answer ' * 500}" for number in range(2000)]
    path.write_text('question,answer\na,b\n"' + "\n".join(lines), encoding="utf-8")
    result = run(path)
    assert {reject["reason"] for reject in result.rejects} == {"over_long"}
    assert [reject["position"] for reject in result.rejects] == list(range(3, 3 + len(result.rejects)))
    assert len(result.records) > 500
    assert result.counts["rows"] == 2001


def test_each_line_behind_a_quote_that_is_closed_too_late_is_a_rejected_row(tmp_path: Path) -> None:
    lines = [f"question {number}\tanswer" for number in range(300)]
    lines[20], lines[220] = '"He said\tanswer', '"She" said\tanswer'
    (tmp_path / "rows.tsv").write_text("\n".join(["question\tanswer", *lines]), encoding="utf-8")
    result = run(tmp_path / "rows.tsv")
    assert [(reject["position"], reject["reason"]) for reject in result.rejects] == [
        (position, "wrong_type") for position in range(22, 223)
    ]
    assert (result.counts["rows"], result.counts["records"]) == (300, 99)


def test_a_quote_that_is_open_where_a_csv_ends_refuses_the_file(tmp_path: Path) -> None:
    """What stands behind it would be one rejected row of thousands."""
    lines = [f"question {number},answer" for number in range(5000)]
    lines[20] = '"question 20,answer'
    (tmp_path / "rows.csv").write_text("\n".join(["question,answer", *lines]), encoding="utf-8")
    with pytest.raises(DataError) as caught:
        run(tmp_path / "rows.csv")
    assert_one_line(caught.value, "rows.csv", "begins on line 22: a quote in it is not closed")
    lines[20] = '"question 20","answer"'
    (tmp_path / "rows.csv").write_text("\n".join(["question,answer", *lines]), encoding="utf-8")
    assert len(run(tmp_path / "rows.csv").records) == 5000


def test_deep_nesting_rejects_only_its_row(tmp_path: Path) -> None:
    deep = b'{"text": ' + b"[" * 200_000 + b"]" * 200_000 + b"}"
    good = json.dumps(ROWS[0]).encode()
    for name, content in (("rows.jsonl", b"\n".join([good, deep])), ("rows.json", b"[" + good + b"," + deep + b"]")):
        (tmp_path / name).write_bytes(content)
        result = run(tmp_path / name)
        assert (len(result.records), result.rejects[0]["position"]) == (1, 2)


def test_a_nested_column_of_a_table_is_no_text(tmp_path: Path) -> None:
    nested: Any = "deep"
    for _ in range(50):
        nested = [nested]
    pq.write_table(pa.table({"instruction": ["a", "b"], "response": [nested, None]}), tmp_path / "rows.parquet")
    assert attempt(tmp_path / "rows.parquet") is None


def test_encodings_are_told_row_by_row(tmp_path: Path) -> None:
    good, bad = (json.dumps({**ROWS[0], "response": word}, ensure_ascii=False) for word in ("naïve", "café"))
    path = tmp_path / "rows.jsonl"
    spoilt = [bad.encode("latin-1"), bad.encode("utf-8-sig"), bad.encode("utf-16-le")]
    path.write_bytes(b"\n".join([jsonl(ROWS).rstrip(), good.encode(), *spoilt]))
    assert [(reject["position"], reject["reason"]) for reject in run(path).rejects] == [
        (42, "invalid_text"),
        (43, "not_json"),
        (44, "invalid_text"),
    ]


def test_a_parquet_footer_that_lies_is_refused(tmp_path: Path) -> None:
    content = bytearray(ALL["parquet"](ROWS))
    for change in (slice(-8, -4), slice(-60, -20), slice(-200, -150)):
        broken = content.copy()
        broken[change] = b"\xff" * (change.stop - change.start)
        path = tmp_path / "rows.parquet"
        path.write_bytes(broken)
        assert attempt(path) is None


@pytest.mark.parametrize("name", ["", "/*.jsonl", "/**/*.jsonl", "/*/*.jsonl"])
def test_links_that_go_in_circles_are_not_followed(tmp_path: Path, name: str) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "rows.jsonl").write_bytes(jsonl(ROWS))
    (data / "real.jsonl").symlink_to(data / "rows.jsonl")
    for link in ("loop", "again"):
        (data / link).symlink_to(data)
    result = attempt(f"{data}{name}", tmp_path / "out")
    if name == "/*.jsonl":
        assert result
        assert {record["source"] for record in result.records} == {"real.jsonl"}
    else:
        assert result is None


def test_many_lines_with_nothing_in_them(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(jsonl(ROWS[:1]) + b"\n" * 2_000_000 + jsonl(ROWS[1:2]) + b"{\n" * 20_000)
    result = run(path)
    assert (len(result.records), len(result.rejects), result.rejects[0]["position"]) == (2, 20_000, 2_000_003)


def test_a_long_conversation_does_not_grow_beyond_all_measure(tmp_path: Path) -> None:
    turns = [{"role": ("user", "assistant")[number % 2], "content": f"{number} words"} for number in range(20_000)]
    path = tmp_path / "rows.jsonl"
    brief = [{**turn, "content": "a"} for turn in turns[:7_000]]  # its frames, not its words, would be gigabytes
    path.write_bytes(jsonl([{"messages": turns}, {"messages": turns[:40]}, {"messages": brief}]))
    result = run(path)
    assert [(reject["position"], reject["reason"]) for reject in result.rejects] == [(1, "over_long"), (3, "over_long")]
    assert len(result.records) == 20


def test_a_table_with_a_column_twice_is_refused_as_csv_is(tmp_path: Path) -> None:
    columns = [pa.array([text]) for text in ("a", SECRET, "c")]
    table = pa.Table.from_arrays(columns, names=["instruction", "response", "response"])
    pq.write_table(table, tmp_path / "rows.parquet")
    with pa.OSFile(str(tmp_path / "rows.arrow"), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)
    for name in ("rows.parquet", "rows.arrow"):
        with pytest.raises(DataError, match="two columns of a table have the name 'response'"):
            run(tmp_path / name)


def test_a_csv_of_very_many_columns_takes_no_longer_than_its_size_explains(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text(",".join(f"column{number}" for number in range(100_000)) + "\n" + "x," * 99_999 + "x\n")
    started = time.process_time()
    assert attempt(path) is None
    assert time.process_time() - started < 20


def test_a_link_to_itself_or_to_nothing_is_named(tmp_path: Path) -> None:
    for number, target in enumerate(("rows.jsonl", "gone.jsonl")):
        data = tmp_path / str(number)
        data.mkdir()
        (data / "rows.jsonl").symlink_to(target)
        for dataset in (data, data / "rows.jsonl", f"{data}/*.jsonl"):
            with pytest.raises(DataError) as caught:
                run(dataset, tmp_path / "out")
            assert_one_line(caught.value, "rows.jsonl")


def test_a_folder_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    """One goes away while the search is on its way to it: root, who runs the tests, may read every other."""
    for name in ("a.jsonl", "gone/b.jsonl", ".hidden/c.jsonl"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(jsonl(ROWS))
    walk = files.walk(tmp_path, lambda folder: True)
    assert next(walk)[0] == "a.jsonl"
    shutil.rmtree(tmp_path / ".hidden")  # holds no data
    shutil.rmtree(tmp_path / "gone")
    with pytest.raises(DataError) as caught:
        list(walk)
    assert_one_line(caught.value, "dataset: cannot read the folder", str(tmp_path / "gone"))


def test_a_glob_minds_only_the_folders_that_it_leads_into(tmp_path: Path) -> None:
    """Beside them may stand a link to the latest, or what nobody may read."""
    (tmp_path / "data" / "2026-11").mkdir(parents=True)
    (tmp_path / "data" / "2026-11" / "rows.jsonl").write_bytes(jsonl(ROWS))
    (tmp_path / "data" / "latest").symlink_to("2026-11")
    for name in ("2026-*/rows.jsonl", "2026-*/*", "2026-*/**"):
        assert attempt(f"{tmp_path}/data/{name}", tmp_path / "out"), name
    for name in ("*/rows.jsonl", "**/rows.jsonl", "l*/**/rows.jsonl", ""):
        with pytest.raises(DataError, match="latest is a link to a folder"):
            run(f"{tmp_path}/data/{name}", tmp_path / "out")


def test_two_stars_that_are_not_alone_are_told_how_to_stand(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_bytes(jsonl(ROWS))
    with pytest.raises(DataError) as caught:
        run(f"{tmp_path}/**.jsonl", tmp_path / "out")
    assert_one_line(caught.value, f"dataset: {tmp_path}/**.jsonl", "**/*.jsonl")


@pytest.mark.parametrize("evil", ["/bucket/data/../../../evil.jsonl", "/bucket/data/a/../../../../evil.jsonl"])
def test_a_name_in_a_store_cannot_lead_out_of_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, evil: str
) -> None:
    monkeypatch.setenv("PRIVATE_LLM_CACHE", str(tmp_path / "a" / "cache"))
    store = fsspec.filesystem("memory")
    try:
        store.store[evil] = MemoryFile(store, evil, jsonl(ROWS))
        for dataset in ("memory://bucket/data", "memory://bucket/data/**"):
            assert attempt(dataset, tmp_path / "out") is None
    finally:
        store.store.clear()
    assert not list(tmp_path.rglob("evil*"))


FRAGMENTS = (
    *(b'"', b"'", b",", b"\t", b";", b"\n", b"\r\n", b"\r", b"\x00", b"\\", b"\\u", b"\xff", b"\xef\xbb\xbf", b" "),
    *(b"[", b"]", b"{", b"}", b":", b"null", b"NaN", b"1e999", b"#", b"```", b"a", "é🦩".encode(), b"\xed\xa0\x80"),
    *(b'"instruction"', b'"response"', b'"messages"', b'"role": "user"', b"instruction,response", b'{"text": "a"}'),
)
wild = st.lists(st.sampled_from(FRAGMENTS), max_size=40).map(b"".join) | st.binary(max_size=200)
NAMES = [f"rows.{format}{packing}" for format in ALL for packing in PACKINGS]


@settings(max_examples=100)
@given(content=wild, name=st.sampled_from(NAMES), packing=st.sampled_from(list(PACKINGS)))
@example(b"[" + b'{"a":1},' * 3, "rows.json", "")
@example(b'a;b\n"', "rows.csv", "")
def test_any_bytes_under_any_name(tmp_path: Path, content: bytes, name: str, packing: str) -> None:
    path = tmp_path / name
    path.write_bytes(PACKINGS[packing](content))
    attempt(path)


@pytest.mark.parametrize("format", ALL)
@settings(max_examples=20)
@given(
    place=st.floats(0, 1, exclude_max=True), junk=wild, packing=st.sampled_from(list(PACKINGS)), outside=st.booleans()
)
def test_a_damaged_file_of_any_format(
    tmp_path: Path, format: str, place: float, junk: bytes, packing: str, outside: bool
) -> None:
    if format in ("parquet", "arrow"):
        packing = ""
    content = bytearray(ALL[format](ROWS) if not outside else PACKINGS[packing](ALL[format](ROWS)))
    start = int(place * len(content))
    content[start : start + len(junk)] = junk
    path = tmp_path / f"rows.{format}{packing}"
    path.write_bytes(content if outside else PACKINGS[packing](bytes(content)))
    try:
        attempt(path)
    finally:
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
