"""python -m benchmarks.data: the data steps against plain ways to do the same, on dolly-15k.

tokenize_raw      records file to token rows, against raw `tokenizers` encode_batch of the same rendered strings
tokenize_dolly    the same, against Dolly's preprocessing: datasets.map to text, map to tokens, filter, shuffle
ingest            jsonl to records, against json.loads, the same checks and ids, and datasets.Dataset.to_parquet
ingest_many       the same for 50 dollys, so that starting processes on all cores hardly counts
ingest_redacting  the same with personal data redacted, against the same plain loop, which does not
near_duplicates   is each record a near-duplicate of an earlier half, against rensa's LSH asked text by text

Each side runs in a process of its own, in turn. It first works on a few records, so that imports and first calls do
not count; loading the tokenizer does. Rates are told by the clock and by the processor time of all processes of a side:
the second hardly depends on what else the machine does.
"""

import argparse
import json
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import unicodedata
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.vary import DOLLY

LENGTH, SEED, FEW = 2048, 42, 200
COPIES = 50  # of dolly-15k in "many"
BASELINES = {
    "tokenize_raw": ("tokenize", "raw_encode_batch", "records/s"),
    "tokenize_dolly": ("tokenize", "dolly_preprocessing", "records/s"),
    "ingest": ("ingest", "plain_ingest", "records/s"),
    "ingest_many": ("ingest_many", "plain_ingest_many", "records/s"),
    "ingest_redacting": ("ingest_redacting", "plain_ingest", "records/s"),
    "near_duplicates": ("near", "rensa_near", "records/s"),
}


def main() -> int:
    """Prints what was measured; its last line is one JSON object."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.data", description="Benchmark the data steps.")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each side (default: %(default)s)")
    parser.add_argument("--only", nargs="+", choices=sorted(SIDES), help="sides to run (default: all)")
    parser.add_argument("--side", choices=sorted(SIDES), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        print(*measure(SIDES[arguments.side], arguments.folder))
        return 0
    if not DOLLY.exists():
        print(f"benchmark: {DOLLY} is not there", file=sys.stderr)
        return 2
    rates: dict[str, list[Rate]] = {side: [] for side in SIDES if not arguments.only or side in arguments.only}
    with tempfile.TemporaryDirectory() as scratch:
        for size, lines in (("few", FEW), ("all", None)):
            prepare(Path(scratch) / size, lines)
        prepare_many(Path(scratch) / "many")
        for _ in range(arguments.rounds):
            for side, measured in rates.items():
                measured.append(worker(side, Path(scratch)))
                print(f"{side:<20}{measured[-1].clock:>10,.0f} records/s {measured[-1].cpu:>10,.0f} /CPU s", flush=True)
    report(rates)
    return 0


def prepare(folder: Path, lines: int | None) -> None:
    """The dataset, a base model's folder without weights, the records and the strings that they are rendered to."""
    from components.ingest.ingest import ingest
    from components.records import read_table, write_json
    from components.rendering import Renderer, load_tokenizer, user_message
    from components.templates import apply_template

    folder.mkdir()
    rows = DOLLY.read_bytes().splitlines(keepends=True)[:lines]
    (folder / "data.jsonl").write_bytes(b"".join(rows))
    shutil.copytree(DOLLY.parents[1] / "tokenizers" / "gpt-neox", folder / "base", copy_function=shutil.copyfile)
    (folder / "base" / "config.json").write_text('{"model_type": "gpt_neox"}', encoding="utf-8")
    data, records, rejects = (folder / name for name in ("data.jsonl", "records", "rejects"))
    ingest(dataset=str(data), records=records, rejects=rejects, metrics=folder / "metrics")
    tokenizer = load_tokenizer(folder / "base")
    apply_template(tokenizer, "dolly")
    tokenizer.save_pretrained(folder / "with_template")
    rendered = [
        tokenizer.apply_chat_template(
            [
                {"role": "user", "content": user_message(record["instruction"], record["context"])},
                {"role": "assistant", "content": record["response"]},
            ],
            tokenize=False,
        )
        for record in read_table(folder / "records")
    ]
    write_json(folder / "rendered.json", rendered)
    assert_the_same_ids(Renderer(tokenizer), list(read_table(folder / "records")), rendered)


def prepare_many(folder: Path) -> None:
    """Dolly many times over; a number behind the instruction tells one copy's records from another's."""
    folder.mkdir()
    records = [json.loads(line) for line in DOLLY.read_text(encoding="utf-8").splitlines()]
    with (folder / "data.jsonl").open("w", encoding="utf-8") as file:
        for copy in range(COPIES):
            for record in records:
                numbered = {**record, "instruction": f"{record['instruction']} {copy}"}
                file.write(json.dumps(numbered, ensure_ascii=False) + "\n")


def assert_the_same_ids(renderer: Any, records: list[dict[str, Any]], rendered: list[str]) -> None:
    """What we encode in parts is what the whole strings encode to; where prompt and answer meet is a control token."""
    backend = renderer.tokenizer.backend_tokenizer
    for record, ours, whole in zip(
        records, renderer.encode(records), backend.encode_batch_fast(rendered, add_special_tokens=False), strict=True
    ):
        if ours.input_ids != whole.ids and not ours.neutralised:
            raise AssertionError(f"record {record['id']} is encoded to other ids than the whole string")


def worker(side: str, folder: Path) -> "Rate":
    """Records a second of one side in a fresh process."""
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.data", "--side", side, "--folder", str(folder)]
    finished = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603  # our own command
    return Rate(*map(float, finished.stdout.splitlines()[-1].split()))


def measure(side: Callable[[Path], None], folder: Path) -> "Rate":
    """Records a second on all records, after a few."""
    side(folder / "few")
    data = folder / ("many" if side in MANY else "all")
    rows = (data / "data.jsonl").read_bytes().count(b"\n")
    started, used = time.perf_counter(), cpu_seconds()
    side(data)
    return Rate(rows / (time.perf_counter() - started), rows / (cpu_seconds() - used))


class Rate(NamedTuple):
    """Records a second, by the clock and by processor time."""

    clock: float
    cpu: float


def cpu_seconds() -> float:
    """Processor time of this process and of those that it has waited for."""
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(one.ru_utime + one.ru_stime for one in used)


def tokenize(folder: Path) -> None:
    """Our step."""
    from components.tokenize.tokenize import tokenize as run

    run(
        records=folder / "records",
        base_model=str(folder / "base"),
        base_model_digest="",
        max_length=LENGTH,
        tokens=folder / "our_tokens",
        tokenizer=folder / "our_tokenizer",
        metrics=folder / "our_metrics",
    )


def raw_encode_batch(folder: Path) -> None:
    """One call on strings that are ready; their ids are read, and nothing is written."""
    from tokenizers import Tokenizer

    texts = json.loads((folder / "rendered.json").read_text(encoding="utf-8"))
    tokenizer = Tokenizer.from_file(str(folder / "with_template" / "tokenizer.json"))
    for row in tokenizer.encode_batch(texts, add_special_tokens=False):
        _ = row.ids


def dolly_preprocessing(folder: Path) -> None:
    """databrickslabs/dolly's recipe in plain datasets and transformers, with an empty cache."""
    from datasets import load_dataset
    from transformers import AutoTokenizer

    from components.templates import INTRODUCTION

    tokenizer = AutoTokenizer.from_pretrained(folder / "with_template")

    def text(record: dict[str, str]) -> dict[str, str]:
        given = f"Input:\n{record['context']}\n\n" if record["context"] else ""
        asked = f"{INTRODUCTION}\n\n### Instruction:\n{record['instruction']}\n\n{given}"
        return {"text": f"{asked}### Response:\n{record['response']}\n\n### End"}

    with tempfile.TemporaryDirectory() as cache:
        data = load_dataset("parquet", data_files=str(folder / "records"), cache_dir=cache, split="train")
        data = data.map(text)
        data = data.map(
            lambda batch: tokenizer(batch["text"], max_length=LENGTH, truncation=True),
            batched=True,
            remove_columns=data.column_names,
        )
        data.filter(lambda row: len(row["input_ids"]) < LENGTH).shuffle(seed=SEED)


def ingest(folder: Path) -> None:
    """Our step: validation, cleaning, exact repeats."""
    _ingest(folder, pii="off", near_duplicates=0)


def ingest_many(folder: Path) -> None:
    """The same."""
    ingest(folder)


def ingest_redacting(folder: Path) -> None:
    """Our step as it is by default."""
    _ingest(folder)


def _ingest(folder: Path, **options: Any) -> None:
    from components.ingest.ingest import ingest as run

    data, records, rejects = (folder / name for name in ("data.jsonl", "our_records", "our_rejects"))
    run(dataset=str(data), records=records, rejects=rejects, metrics=folder / "our_metrics", **options)


def plain_ingest(folder: Path) -> None:
    """A loop that checks, identifies and removes repeats in the same way."""
    import hashlib

    from datasets import Dataset

    def squash(text: str) -> str:
        return " ".join(unicodedata.normalize("NFKC", text).casefold().split())

    rows, ids, prompts = [], set(), set()
    with (folder / "data.jsonl").open(encoding="utf-8") as file:
        for line in file:
            record = {name: str(value).strip() for name, value in json.loads(line).items()}
            if not (record["instruction"] and record["response"]) or "\x00" in line:
                continue
            prompt = f"{squash(record['instruction'])}\n{squash(record['context'])}"
            identity = hashlib.sha256(f"{prompt}\n{squash(record['response'])}".encode()).hexdigest()[:32]
            if identity not in ids and prompt not in prompts:
                rows.append({"id": identity, **record, "source": "data.jsonl", "license": "unknown"})
            ids.add(identity)
            prompts.add(prompt)
    Dataset.from_list(rows).to_parquet(folder / "plain_records")


def plain_ingest_many(folder: Path) -> None:
    """The same."""
    plain_ingest(folder)


def near(folder: Path) -> None:
    """Our index."""
    from components.near import NearDuplicates

    texts = _texts(folder)
    half = len(texts) // 2
    with tempfile.TemporaryDirectory() as scratch:
        index = NearDuplicates(Path(scratch))
        for start, end in pairwise([*range(0, half, 2048), half]):
            index.add(texts[start:end])
        for start, end in pairwise([*range(half, len(texts), 2048), len(texts)]):
            index.matches(texts[start:end])


def rensa_near(folder: Path) -> None:
    """The same with one MinHash object and one set of shingles a text."""
    from rensa import RMinHash, RMinHashLSH

    texts = _texts(folder)
    index, added = RMinHashLSH(0.7, 128, 32), []
    for row, text in enumerate(texts):
        words = text.split()
        shingles = frozenset(" ".join(words[at : at + 3]) for at in range(max(1, len(words) - 2)))
        signature = RMinHash(128, 1)
        signature.update(list(shingles))
        if row < len(texts) // 2:
            index.insert(row, signature)
            added.append(shingles)
        else:
            any(len(shingles & added[o]) >= 0.7 * len(shingles | added[o]) for o in index.query(signature))


def _texts(folder: Path) -> list[str]:
    from components.records import normalise, read_table

    return [normalise(f"{r['instruction']} {r['context']} {r['response']}") for r in read_table(folder / "records")]


SIDES: dict[str, Callable[[Path], None]] = {
    side.__name__: side
    for side in (
        tokenize,
        raw_encode_batch,
        dolly_preprocessing,
        ingest,
        ingest_many,
        ingest_redacting,
        plain_ingest,
        plain_ingest_many,
        near,
        rensa_near,
    )
}

MANY = (ingest_many, plain_ingest_many)


def report(rates: dict[str, list[Rate]]) -> None:
    """Medians, spreads and ratios; a ratio above 1 means that we are faster."""
    for side, measured in rates.items():
        for kind, values in zip(Rate._fields, zip(*measured, strict=True), strict=True):
            print(
                f"{side:<20}{kind:<6}median {statistics.median(values):,.0f}, {min(values):,.0f} to {max(values):,.0f}"
            )
    results = []
    for name, (ours, baseline, unit) in BASELINES.items():
        if not {ours, baseline} <= rates.keys():
            continue
        for place, (kind, label) in enumerate((("", unit), ("_cpu", "records/CPU s"))):
            mine, other = (statistics.median(rate[place] for rate in rates[side]) for side in (ours, baseline))
            result = {"name": f"{name}{kind}", "ours": mine, "baseline": other, "ratio": mine / other, "unit": label}
            results.append(result)
    print(json.dumps({"results": results}))


if __name__ == "__main__":
    raise SystemExit(main())
