"""python -m benchmarks.scale: seconds and memory of each data step on 150,000 and on 1,500,000 records.

The records are dolly-15k varied (benchmarks/vary.py), the tokenizer is GPT-NeoX's. Each step runs as its own command,
as in a container; its memory is the largest sum of the resident sets of its processes, looked at ten times a second.
The baseline is linear growth: ten times what a tenth takes. CPU seconds are compared, for a shared machine makes
others wait.
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

import psutil

from benchmarks.vary import DOLLY, write_varied

SIZES = (150_000, 1_500_000)
STEPS = ("ingest", "tokenize", "split")


def main() -> int:
    """Prints a table; its last line is one JSON object."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description="Measure how the data steps grow.")
    parser.add_argument("--records", type=int, nargs=2, default=SIZES, help="records, few and many (%(default)s)")
    parser.add_argument("--scratch", type=Path, help="folder for about 8 GB (default: the system's temporary folder)")
    arguments = parser.parse_args()
    if not DOLLY.exists():
        print(f"benchmark: {DOLLY} is not there", file=sys.stderr)
        return 2
    few, many = (measure_all(records, arguments.scratch) for records in arguments.records)
    growth = arguments.records[1] / arguments.records[0]
    results = [
        {
            "name": f"{step}_cpu_seconds",
            "ours": many[step]["cpu_seconds"],
            "baseline": growth * few[step]["cpu_seconds"],
            "ratio": growth * few[step]["cpu_seconds"] / many[step]["cpu_seconds"],
            "unit": "CPU s",
        }
        for step in STEPS
    ]
    print(json.dumps({"results": results}))
    return 0


def measure_all(records: int, scratch: Path | None) -> dict[str, dict[str, float]]:
    """Each step's figures on so many records."""
    with tempfile.TemporaryDirectory(dir=scratch) as name:
        folder = Path(name)
        prepare(folder, records)
        figures = {}
        for step in STEPS:
            figures[step] = measure(step, folder)
            print(
                f"{records:>9} {step:<9}", *(f"{key} {value:,.0f}" for key, value in figures[step].items()), flush=True
            )
        return figures


def prepare(folder: Path, records: int) -> None:
    """The dataset, and the folder of a base model with no weights."""
    write_varied(folder / "data.jsonl", records)
    shutil.copytree(DOLLY.parents[1] / "tokenizers" / "gpt-neox", folder / "base", copy_function=shutil.copyfile)
    (folder / "base" / "config.json").write_text('{"model_type": "gpt_neox"}', encoding="utf-8")


def measure(step: str, folder: Path) -> dict[str, float]:
    """Runs a step's command and waits for it."""
    data: dict[str, Path | str] = {"records": folder / "records", "tokens": folder / "tokens"}
    files: dict[str, Path | str] = {
        "ingest": {"dataset": folder / "data.jsonl", "records": data["records"], "rejects": folder / "rejects"},
        "tokenize": {**data, "base_model": folder / "base", "base_model_digest": "", "tokenizer": folder / "tokenizer"},
        "split": {**data, "train": folder / "train", "test": folder / "test"},
    }[step]
    paths: dict[str, Path | str] = {**files, "metrics": folder / f"{step}.json"}
    command = [sys.executable, "-m", f"components.{step}", *(f"--{name}={path}" for name, path in paths.items())]
    started = time.perf_counter()
    quiet = [(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)]
    process = os.posix_spawn(command[0], command, os.environ, file_actions=quiet)
    peak = 0
    while not (waited := os.wait4(process, os.WNOHANG))[0]:
        peak = max(peak, held(process))
        time.sleep(0.1)
    _, status, used = waited
    if status:
        raise SystemExit(f"benchmark: {step} failed")
    return {
        "seconds": time.perf_counter() - started,
        "cpu_seconds": used.ru_utime + used.ru_stime,
        "peak_mib": peak / 2**20,
    }


def held(process: int) -> int:
    """The bytes that a process and its children have in memory now; what they share counts for each."""
    try:
        first = psutil.Process(process)
        return sum(part.memory_info().rss for part in (first, *first.children(recursive=True)))
    except psutil.NoSuchProcess:  # one ended meanwhile
        return 0


if __name__ == "__main__":
    raise SystemExit(main())
