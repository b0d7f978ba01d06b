"""Shards: four pods side by side make the bytes that one makes, and the default pipeline knows nothing of them."""

import gzip
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from kfp import dsl, local
from kfp.dsl import Artifact, Dataset, Metrics

from components.errors import DataError, ParameterError, PipelineError
from components.ingest.cleaning import SWITCHES
from components.ingest.component import ingest as ingest_task
from components.ingest.ingest import ingest
from components.join.component import join as join_task
from components.join.join import join
from components.merge.component import merge as merge_task
from components.merge.merge import merge
from components.records import path_digest
from components.split.component import split as split_task
from components.split.split import split
from components.tokenize.component import tokenize as tokenize_task
from components.tokenize.tokenize import tokenize
from pipeline.compile import compile_profile
from pipeline.kfp_glue import Placement, in_shards
from pipeline.settings import Settings, load
from tests.conftest import make_record, write_records

NAMES = ("tokens", "tokenizer", "metrics")
RULES = {
    "columns": "",
    "max_reject_fraction": 0.1,
    "cleaning": ",".join(SWITCHES),
    "pii": "redact",
    "pii_names": "",
    "near_duplicates": 0.7,
    "decontaminate": "",
    "decontaminate_digest": "",
}


class Made(NamedTuple):
    ingest_records: Dataset
    ingest_rejects: Dataset
    ingest_metrics: Metrics
    tokens: Dataset
    tokenizer: Artifact
    metrics: Metrics
    train: Dataset
    test: Dataset


def files(folder: Path, suffix: str = "") -> dict[str, Any]:
    """Where tokenize writes."""
    return {name: folder / f"{name}{suffix}" for name in NAMES}


def make(folder: Path, records: Path, base_model: Path, shards: int = 1, **rules: Any) -> list[str]:
    """Tokenizes records here, in shards if there are several; digests of tokens, tokenizer and metrics."""
    parts = [files(folder, f"_of_{shard}") for shard in range(shards)] if shards > 1 else [files(folder)]
    for shard, paths in enumerate(parts):
        values = {**rules, **paths, "shard": shard, "shards": shards}
        tokenize(records=records, base_model=str(base_model), base_model_digest="", **values)
    if shards > 1:
        join_parts(folder, parts[1:] + parts[:1])  # the order in which they come must not matter
    return [path_digest(path) for path in files(folder).values()]


def join_parts(folder: Path, parts: list[dict[str, Any]]) -> None:
    tokens, tokenizers, metrics = ([part[name] for part in parts] for name in NAMES)
    join(token_shards=tokens, tokenizer_shards=tokenizers, metric_shards=metrics, **files(folder))


@pytest.mark.long
def test_four_pods_make_the_bytes_of_one(
    dolly: Path, stories: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On KFP's local runner, each pod with five encoding threads; the one, with one thread, runs here."""
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "true")
    monkeypatch.setenv("RAYON_NUM_THREADS", "5")
    on = Placement(Settings(data_image="python:local", train_image="python:local"))
    source = sources_of(dolly, tmp_path)
    rules: dict[str, Any] = {"columns": "", "license": "x", "max_reject_fraction": 0.1, "near_duplicates": 0.7}

    def data_steps(dataset: str, base_model: str) -> Made:
        data = in_shards(
            *(on, 4, ingest_task, merge_task),
            {"prepared_shards": "records"},
            dataset=dataset,
            dataset_digest="",
            cleaning="control,whitespace,references,nfc",
            pii="redact",
            pii_names="",
            decontaminate="",
            decontaminate_digest="",
            ingest_cache="",
            **rules,
        )
        made = in_shards(
            *(on, 4, tokenize_task, join_task),
            {"token_shards": "tokens", "tokenizer_shards": "tokenizer", "metric_shards": "metrics"},
            records=data["records"],
            base_model=base_model,
            base_model_digest="",
            template="dolly",
            template_digest="",
            max_length=0,
            too_long="drop",
            trust_remote_code=False,
        )
        sides = on(split_task(records=data["records"], tokens=made["tokens"], test_size=0.1, seed=42)).outputs
        return Made(
            **{name: made[name] for name in NAMES},
            **{f"ingest_{name}": data[name] for name in ("records", "rejects", "metrics")},
            train=sides["train"],
            test=sides["test"],
        )

    local.init(local.SubprocessRunner(use_venv=False), pipeline_root=str(tmp_path / "root"))
    outputs = dsl.pipeline(data_steps)(dataset=str(source), base_model=str(stories)).outputs
    paths: dict[str, Any] = {name: tmp_path / f"ingest_{name}" for name in ("records", "rejects", "metrics")}
    counts = ingest(dataset=str(source), workers=1, **rules, **paths)
    assert min(counts.values()) > 0, "each outcome is there to be compared"
    make(tmp_path, paths["records"], stories)
    sides: dict[str, Any] = {side: tmp_path / side for side in ("train", "test")}
    split(records=paths["records"], tokens=tmp_path / "tokens", metrics=tmp_path / "s", **sides)
    for name in Made._fields:
        assert path_digest(Path(outputs[name].path)) == path_digest(tmp_path / name), name


def sources_of(dolly: Path, folder: Path) -> Path:
    """A list of two sources of several blocks, which repeat each other, with rejects and a weight."""
    lines = dolly.read_bytes().splitlines(keepends=True)
    (folder / "first.jsonl").write_bytes(b"".join([*lines[:2000], b"{\n" * 50]))
    (folder / "second.jsonl.gz").write_bytes(gzip.compress(b"".join(lines[1500:2500])))
    source = folder / "sources.yaml"
    source.write_text("sources:\n  - dataset: first.jsonl\n  - {dataset: second.jsonl.gz, weight: 0.5, license: y}\n")
    return source


@settings(max_examples=12)
@given(lengths=st.lists(st.integers(0, 300), min_size=1, max_size=40), shards=st.integers(2, 9))
def test_any_number_of_shards_makes_the_bytes_of_one(
    stories: Path, tmp_path: Path, lengths: list[int], shards: int
) -> None:
    records = write_records(
        tmp_path / "records",
        [
            make_record(f"Say {number}", "It is.", "long " * length, ["a", "b"][number % 2])
            for number, length in enumerate(lengths)
        ],
    )
    whole = make(tmp_path / "whole", records, stories, max_length=200, too_long="truncate_context")
    assert make(tmp_path / "joined", records, stories, shards, max_length=200, too_long="truncate_context") == whole


def test_what_fails_in_one_pod_fails_when_the_shards_are_joined(stories: Path, tmp_path: Path) -> None:
    records = write_records(tmp_path / "records", [make_record(f"{n}", "word " * 9 * n) for n in range(9)])
    messages = []
    for shards in (1, 4):
        with pytest.raises(DataError) as caught:
            make(tmp_path / str(shards), records, stories, shards, max_length=100, too_long="error")
        messages.append(str(caught.value))
    assert messages[0] == messages[1]
    with pytest.raises(DataError, match="none of 9 records is shorter"):
        make(tmp_path / "none", records, stories, 4, max_length=5)


def test_a_missing_or_foreign_shard_is_named(stories: Path, tmp_path: Path) -> None:
    records = write_records(tmp_path / "records", [make_record(f"{n}", "word") for n in range(9)])
    make(tmp_path, records, stories, 3)
    make(tmp_path / "other", records, stories, 3, max_length=100)
    parts = [files(tmp_path, f"_of_{shard}") for shard in range(3)]
    foreign = files(tmp_path / "other", "_of_2")
    for came, message in (
        (parts[:2], "missing or twice"),
        ([*parts[:2], parts[1]], "missing or twice"),
        ([*parts[:2], foreign], "same tokenizer and rules"),
    ):
        with pytest.raises(PipelineError, match=message):
            join_parts(tmp_path / "out", came)
    fourth = {**files(tmp_path / "out"), "shard": 3, "shards": 3}
    with pytest.raises(ParameterError, match="shard=3 is not one of 3 shards"):
        tokenize(records=records, base_model=str(stories), base_model_digest="", **fourth)


def test_a_profile_with_shards_compiles_to_a_loop_and_a_join(tmp_path: Path) -> None:
    profile = tmp_path / "sharded.yaml"
    profile.write_text("extends: default\nshards: 4\nresources: {join: {cpu: '2', memory: 8Gi}, ingest: {cpu: '3'}}\n")
    pipeline = yaml.safe_load(compile_profile(str(profile)).partition("\n---\n")[0])
    groups = [group["dag"]["tasks"] for group in pipeline["components"].values() if "dag" in group]
    tasks = [task for group in groups for task in group.values()]
    assert [task["parameterIterator"]["items"]["raw"] for task in tasks if "parameterIterator" in task] == [
        "[0, 1, 2, 3]"
    ] * 2
    for step, cores in (("join", 2), ("merge", 3)):  # its own, or those of ingest
        container = pipeline["deploymentSpec"]["executors"][f"exec-{step}"]["container"]
        assert float(container["resources"]["resourceCpuLimit"]) == cores
        assert f"exec-{step}" not in compile_profile("default")


@pytest.mark.parametrize("shards", [0, -1, 1001])
def test_a_number_of_shards_that_is_none_is_named(tmp_path: Path, shards: int) -> None:
    profile = tmp_path / "bad.yaml"
    profile.write_text(f"extends: default\nshards: {shards}\n")
    with pytest.raises(ParameterError, match=f"shards={shards} is not allowed; it must be from 1 to 1000"):
        load(str(profile))


def prepare_shards(folder: Path, dataset: Path, shards: int, **rules: Any) -> list[Path]:
    """Ingests a dataset here in shards; what each left for merge."""
    parts = []
    for shard in range(shards):
        paths: dict[str, Any] = {name: folder / f"{name}_of_{shard}" for name in ("records", "rejects", "metrics")}
        ingest(dataset=str(dataset), shard=shard, shards=shards, **rules, **paths)
        parts.append(paths["records"])
    return parts


def merged(folder: Path, parts: list[Path]) -> list[str]:
    paths = {name: folder / name for name in ("records", "rejects", "metrics")}
    merge(prepared_shards=parts, **paths)
    return [path_digest(path) for path in paths.values()]


@pytest.mark.parametrize("shards", [2, 5, 30])
def test_rows_prepared_in_shards_make_the_records_of_one(dolly: Path, tmp_path: Path, shards: int) -> None:
    source = sources_of(dolly, tmp_path)
    paths: dict[str, Any] = {name: tmp_path / "whole" / name for name in ("records", "rejects", "metrics")}
    ingest(dataset=str(source), workers=1, **paths)
    parts = prepare_shards(tmp_path, source, shards)
    assert merged(tmp_path, parts[1:] + parts[:1]) == [path_digest(path) for path in paths.values()]


def test_too_many_rejects_fail_when_shards_are_merged(dolly: Path, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_bytes(dolly.read_bytes()[:2_000_000] + b"\n{" * 2000)
    parts = prepare_shards(tmp_path, tmp_path / "rows.jsonl", 3)
    with pytest.raises(DataError, match=r"2001 of .* rows of .*rows.jsonl were rejected"):
        merged(tmp_path, parts)


def test_prepared_shards_that_are_missing_or_foreign_are_named(dolly: Path, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_bytes(dolly.read_bytes()[:2_000_000])
    parts = prepare_shards(tmp_path, tmp_path / "rows.jsonl", 3)
    (foreign, *_) = prepare_shards(tmp_path / "other", tmp_path / "rows.jsonl", 3, pii="off")
    cut_off = tmp_path / "cut_off"
    cut_off.write_bytes(parts[0].read_bytes()[:-1000])
    for came, message in (
        (parts[:2], "missing or twice"),
        ([*parts[:2], parts[1]], "missing or twice"),
        ([foreign, *parts[1:]], "the same dataset with the same rules"),
        ([cut_off, *parts[1:]], "cut_off is no prepared shard"),
    ):
        with pytest.raises(PipelineError, match=message):
            merged(tmp_path / "out", came)
