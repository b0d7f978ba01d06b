"""Ingest of data that grows: what was prepared before is used again, and nothing tells the result from a fresh one."""

import io
import json
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.errors import ParameterError, PipelineError
from components.ingest.ingest import ingest
from components.ingest.rows import Block
from components.ingest.text import line_blocks
from components.records import path_digest
from tests.components.ingesting import assert_one_line

WORDS = ["größe", "delta[1]", "ann@example.org", "x\u00a0y", "one two", "\u200b"]
SYLLABLES = [
    first + second for first in "bdfgklmnprstvz" for second in ("a", "ek", "ist", "oln", "urd", "ym", "ov", "ir")
]
Told = Callable[[], tuple[int, ...]]
TOLD = re.compile(r"ingest: (\d+) of (\d+) blocks prepared, (\d+) kept from earlier runs")


def lines(number: int, seed: int = 1) -> list[bytes]:
    """Records of about 4 KB, a tenth of which repeat an earlier one or are none."""
    pick = random.Random(seed)
    made: list[bytes] = []
    for place in range(number):
        answer = " ".join(pick.choices(WORDS, k=12) + pick.choices(SYLLABLES, k=900))
        row = {"instruction": f"{seed} asks {place}?", "response": answer, "category": pick.choice("ab")}
        made.append(pick.choice(made) if made and pick.random() < 0.05 else json.dumps(row).encode())
        if pick.random() < 0.05:
            made.append(b'{"instruction": 7}')
    return made


def digests(folder: Path, dataset: Path, **arguments: Any) -> list[str]:
    """The digests of what ingest makes of a dataset."""
    paths: dict[str, Any] = {name: folder / name for name in ("records", "rejects", "metrics")}
    ingest(dataset=str(dataset), **arguments, **paths)
    assert sorted(path.name for path in folder.iterdir()) == sorted(paths)
    return [path_digest(path) for path in paths.values()]


@pytest.fixture
def told(capfd: pytest.CaptureFixture[str]) -> Told:
    """What ingest has told since it was last asked: blocks prepared, all blocks, blocks kept."""

    def tell() -> tuple[int, ...]:
        *_, last = TOLD.findall(capfd.readouterr().out)
        return tuple(map(int, last))

    return tell


def written(path: Path, content: list[bytes]) -> Path:
    path.write_bytes(b"\n".join(content) + b"\n")
    return path


def test_a_column_whose_name_is_no_text_is_kept_like_any_other(tmp_path: Path) -> None:
    (tmp_path / "data.csv").write_bytes("Größe\none\ntwo\n".encode("latin-1"))
    cached = digests(tmp_path / "out", tmp_path / "data.csv", ingest_cache=str(tmp_path / "cache"))
    assert cached == digests(tmp_path / "fresh", tmp_path / "data.csv")


def test_only_what_is_new_is_prepared_and_the_result_is_that_of_a_fresh_ingest(tmp_path: Path, told: Told) -> None:
    (tmp_path / "data").mkdir()
    first, second = tmp_path / "data" / "a.jsonl", tmp_path / "data" / "b.csv"
    content, kept = lines(600), {"ingest_cache": str(tmp_path / "kept" / "here"), "pii": "off"}
    steps = {
        "begun": lambda: written(first, content),
        "same": lambda: None,
        "appended": lambda: written(first, content + lines(40, 2)),
        "another file": lambda: second.write_text("question,answer\nWhy?,Because.\n"),
        "left out": lambda: written(first, content[:200] + content[201:]),
        "in front": lambda: written(first, lines(10, 3) + content),
    }
    prepared = {}
    for number, (name, change) in enumerate(steps.items()):
        change()
        grown = digests(tmp_path / f"{number} kept", tmp_path / "data", **kept)
        prepared[name], blocks, _ = told()
        assert grown == digests(tmp_path / f"{number} fresh", tmp_path / "data", pii="off"), name
    assert blocks > 4
    assert prepared["begun"] > 3
    assert prepared["same"] == 0
    assert 1 <= prepared["appended"] <= 2
    assert prepared["another file"] == 1
    assert 1 <= prepared["left out"] <= 4
    assert 1 <= prepared["in front"] <= 4


def test_what_other_rules_made_is_not_used_and_what_weighs_rows_does_not_matter(tmp_path: Path, told: Told) -> None:
    source = written(tmp_path / "rows.jsonl", lines(200))
    held_out = tmp_path / "exam.txt"
    held_out.write_text("one two three four five six seven eight nine ten eleven twelve thirteen fourteen")
    kept = str(tmp_path / "kept")
    for rules, reused in (
        ({}, False),
        ({"license": "x", "max_reject_fraction": 0.2}, True),
        ({"near_duplicates": 0.9}, True),
        ({"near_duplicates": 0}, False),
        ({"pii": "drop"}, False),
        ({"cleaning": "nfc"}, False),
        ({"columns": "instruction=instruction,response=response"}, True),
        ({"decontaminate": f"exam={held_out}"}, False),
        ({"pii_names": "tests.components.test_pii:capitals"}, False),
    ):
        made = digests(tmp_path / "out", source, ingest_cache=kept, **rules)
        assert (told()[0] == 0) == reused, rules
        assert made == digests(tmp_path / "fresh", source, **rules)
    held_out.write_text("one two three")  # under the same name
    digests(tmp_path / "out", source, ingest_cache=kept, decontaminate=f"exam={held_out}")
    assert told()[0] > 0


def test_what_is_kept_by_half_is_prepared_again(tmp_path: Path, told: Told) -> None:
    source, kept = written(tmp_path / "rows.jsonl", lines(200)), tmp_path / "kept"
    made = digests(tmp_path / "out", source, ingest_cache=str(kept))
    told()
    for damage in (lambda data: data[:-7], lambda data: b"", lambda data: data[:-1] + bytes([data[-1] ^ 1])):
        entries = [path for path in kept.rglob("*") if path.is_file()]
        for path in entries:
            path.write_bytes(damage(path.read_bytes()))
        assert digests(tmp_path / "out", source, ingest_cache=str(kept)) == made
        assert told()[0] == len(entries)
    assert digests(tmp_path / "out", source, ingest_cache=str(kept)) == made
    assert told()[0] == 0


def test_rows_are_kept_in_a_store_and_no_record_s_text_stands_in_a_name(tmp_path: Path, told: Told) -> None:
    import fsspec

    source = written(tmp_path / "rows.jsonl", lines(200))
    try:
        for _ in range(2):
            digests(tmp_path / "out", source, ingest_cache="memory://growth/kept")
        assert told()[0] == 0
        names = fsspec.filesystem("memory").find("growth")
        assert names
        assert all(re.fullmatch(r"/growth/kept/[0-9a-f]{2}/[0-9a-f]{62}", name) for name in names)
    finally:
        fsspec.filesystem("memory").store.clear()


def test_a_place_to_keep_rows_that_is_none_is_named(tmp_path: Path) -> None:
    source = written(tmp_path / "rows.jsonl", lines(5))
    for place in (str(source), "nosuch://place/kept"):
        with pytest.raises(ParameterError) as caught:
            digests(tmp_path / "out", source, ingest_cache=place)
        assert_one_line(caught.value, f"ingest_cache={place} cannot be used")


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json", "rows.csv"])
def test_any_number_of_processes_gives_the_same_bytes(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    rows = [json.loads(line) for line in lines(300)]
    if name.endswith("csv"):
        cells = ([str(row.get(column, "")) for column in ("instruction", "response")] for row in rows)
        path.write_text(
            "instruction,response\n" + "".join(",".join(f'"{cell}"' for cell in row) + "\n" for row in cells)
        )
    else:
        written = [
            *map(json.dumps, rows),
            '{"instruction": "deep", "response": "a", "more": ' + "[" * 900 + "]" * 900 + "}",
        ]
        path.write_text(f"[{','.join(written)}]" if name.endswith("json") else "\n".join(written))
    assert digests(tmp_path / "one", path, workers=1) == digests(tmp_path / "three", path, workers=3)


def test_a_finder_of_names_that_fails_in_another_process_is_named(tmp_path: Path) -> None:
    source = written(tmp_path / "rows.jsonl", lines(200))
    with pytest.raises(PipelineError, match="failed on a record: RuntimeError"):
        digests(tmp_path / "out", source, workers=2, pii_names="tests.components.test_pii:broken")


def test_a_process_that_is_killed_is_told(tmp_path: Path) -> None:
    source = written(tmp_path / "rows.jsonl", lines(200))
    with pytest.raises(PipelineError, match="a process that prepared rows ended before its time") as caught:
        digests(tmp_path / "out", source, workers=2, pii_names=f"{__name__}:killing")
    assert_one_line(caught.value, "memory")  # type: ignore[arg-type]


def killing(text: str) -> list[tuple[int, int]]:
    """A finder of names that the kernel ends, as it does when memory runs out."""
    import os
    import signal

    os.kill(os.getpid(), signal.SIGKILL)
    return []


@pytest.mark.parametrize("workers", [-1])
def test_a_number_of_processes_that_is_none_is_named(tmp_path: Path, workers: int) -> None:
    with pytest.raises(ParameterError, match="workers=-1 must be at least 0"):
        digests(tmp_path / "out", tmp_path / "rows.jsonl", workers=workers)


sizes = st.lists(st.sampled_from([0, 1, 7, 1000, 60_000, 300_000, 5_000_000]), max_size=14)


@settings(max_examples=15)
@given(sizes=sizes, seed=st.integers(0, 9), ended=st.booleans())
def test_blocks_are_the_lines_of_the_file(sizes: list[int], seed: int, ended: bool) -> None:
    pick = random.Random(seed)
    content = [bytes([pick.randrange(97, 123)]) * size for size in sizes or [0]]
    data = b"\n".join(content) + b"\n" * ended
    place = 0
    for block in line_blocks(io.BytesIO(data)):
        assert block.start == place
        if isinstance(block.content, tuple):
            assert len(content[place]) > 4 << 20
            place += 1
        else:
            *whole, rest = block.content.split(b"\n")
            assert whole == content[place : place + len(whole)]
            place += len(whole)
            assert rest in (b"", content[place] if place < len(content) else b"")
    assert place >= len(content) - 1


def blocks(content: list[bytes]) -> list[str]:
    return [block.digest() for block in line_blocks(io.BytesIO(b"\n".join(content)))]


def test_a_change_in_one_place_leaves_the_blocks_of_others() -> None:
    content = lines(2000)
    before = blocks(content)
    for place in (0, 1000, 1999):
        for changed in (content[:place] + content[place + 1 :], [*content[:place], b'{"new": 1}', *content[place:]]):
            assert len(set(before) - set(blocks(changed))) <= 3
    assert blocks([*content, *lines(500, 2)])[: len(before) - 1] == before[:-1]


def test_blocks_of_rows_tell_their_content_apart() -> None:
    assert Block(start=0, content=b"1").digest() == Block(start=5, content=b"1").digest()
    assert len({Block(start=0, content=content).digest() for content in (b"1", b"2", ())}) == 3
