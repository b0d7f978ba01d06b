"""python -m benchmarks.train: our training against Dolly's recipe and trl's SFTTrainer, in one process each, in turn.

Same model, records (dolly-15k's first after a seeded shuffle), number format, AdamW and learning rate, one epoch.
dolly: transformers' Trainer over random batches of 8 padded to a multiple of 8, logits at every position.
trl: SFTTrainer with packing and completion-only loss. Ours: the train step's own loop with DeepSpeed, batches of 8.
Each run is a process of its own; start-up and evaluation are outside the measured time.

--device cuda takes Pythia-1b's and 2.8b's shapes with random weights in bf16, on dolly's records and on rows of 2,048
random tokens, where padding plays no part and MFU can be compared with published figures.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.training_data import MODELS, ROOT, SHARED, prepare

TRL = "trl==1.16.0"
TRL_FOLDER = ROOT / "build" / "trl"  # beside our environment, because nothing else needs it
# By device: models, kinds of rows, sides, records, the longest row.
DEFAULTS: dict[str, dict[str, Any]] = {
    "cpu": {
        "models": ["pythia-14m", "smollm2-135m"],
        "rows": ["dolly"],
        "sides": ["ours", "dolly", "trl"],
        "records": 200,
        "max_length": 1024,
    },
    "cuda": {
        "models": ["pythia-1b", "pythia-2.8b"],
        "rows": ["dolly", "full"],
        "sides": ["ours", "dolly"],
        "records": 400,
        "max_length": 2048,
    },
}
# What is reported; whether more is better, and None where sides do not mean the same.
FIGURES = (
    ("tokens_per_second", "useful tokens/s", True),
    ("tokens_per_cpu_second", "useful tokens per second of a processor", True),  # says more where others work too
    ("targets_per_second", "target tokens/s", True),
    ("mfu", "share of the peak rate", True),
    ("peak_mib", "MiB above the libraries", False),
    ("seconds_per_step", "s", None),  # trl's steps hold other records
    ("padding", "share of computed tokens", None),
    ("held_out_loss", "nats per target token", False),
)


def main() -> int:
    """Prints what was measured; its last line is one JSON object."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.train", description="Benchmark the training.")
    parser.add_argument("--device", choices=DEFAULTS, default="cpu", help="where to train (default: %(default)s)")
    parser.add_argument("--models", nargs="+", choices=MODELS, help="which models; the default depends on the device")
    parser.add_argument("--rows", nargs="+", choices=("dolly", "full"), help="records of dolly-15k, or full rows")
    parser.add_argument("--sides", nargs="+", choices=("ours", "dolly", "trl"), help="who trains; ours is needed")
    parser.add_argument("--records", type=int, help="records to train on")
    parser.add_argument("--max_length", type=int, help="the longest row, in tokens")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each side (default: %(default)s)")
    parser.add_argument("--side", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        from benchmarks.training_sides import measure

        print(json.dumps(measure(arguments.side, arguments.folder)))
        return 0
    for name, value in DEFAULTS[arguments.device].items():
        setattr(arguments, name, getattr(arguments, name) or value)
    if why := missing(arguments):
        print(f"benchmark: {why}", file=sys.stderr)
        return 2
    if "trl" in arguments.sides:
        install_trl()
    results: list[dict[str, Any]] = []
    for model in arguments.models:
        for rows in arguments.rows:
            results += compare(model, rows, arguments)
    print(json.dumps({"results": results}))
    return 0


def missing(arguments: argparse.Namespace) -> str | None:
    """What the benchmark lacks here, or None."""
    import torch

    if not SHARED.exists():
        return f"{SHARED} is not there"
    if arguments.device == "cuda" and not torch.cuda.is_available():
        return "no GPU is there; --device cpu trains smaller models on the processor"
    return None if "ours" in arguments.sides else "--sides must hold ours"


def install_trl() -> None:
    """trl alone; all that it needs is in our environment."""
    if not TRL_FOLDER.exists():
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(TRL_FOLDER), TRL]
        subprocess.run(pip, check=True)  # noqa: S603  # our own command


def compare(model: str, rows: str, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Trains one model on one kind of rows with every side in turn; prints figures and gives the ratios."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        settings = prepare(folder, model, rows, arguments.records, arguments.max_length, arguments.device)
        runs: dict[str, list[dict[str, float]]] = {side: [] for side in arguments.sides}
        for _ in range(arguments.rounds):
            for side, measured in runs.items():
                measured.append(worker(side, folder, arguments.device))
                print(model, rows, side, json.dumps(measured[-1]), flush=True)
        floor(folder, settings, statistics.median(run["seconds"] for run in runs["ours"]))
        return report(f"{model}/{rows}", runs)


def worker(side: str, folder: Path, device: str) -> dict[str, float]:
    """One run of one side in a fresh process."""
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.train", "--side", side, "--folder", str(folder)]
    path = os.pathsep.join([str(ROOT), *([str(TRL_FOLDER)] if side == "trl" else []), os.environ.get("PYTHONPATH", "")])
    # threads that wait do not spin: it would count as work
    environment = os.environ | {"PYTHONPATH": path, "HF_HUB_OFFLINE": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    if device == "cpu":
        environment["CUDA_VISIBLE_DEVICES"] = ""
    finished = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)  # noqa: S603
    if finished.returncode:
        raise SystemExit(f"benchmark: {side} failed: {finished.stderr.strip().splitlines()[-1]}")
    result: dict[str, float] = json.loads(finished.stdout.splitlines()[-1])
    return result


def report(workload: str, runs: dict[str, list[dict[str, float]]]) -> list[dict[str, Any]]:
    """Medians, spreads and ratios; a ratio above 1 means that we are better."""
    results = []
    for name, unit, more_is_better in FIGURES:
        values = {side: [run[name] for run in side_runs] for side, side_runs in runs.items()}
        for side, measured in values.items():
            middle = statistics.median(measured)
            print(f"{workload:<20}{name:<20}{side:<8}median {middle:.4g}, {min(measured):.4g} to {max(measured):.4g}")
        for baseline in [side for side in values if side != "ours" and more_is_better is not None]:
            mine, other = (statistics.median(values[side]) for side in ("ours", baseline))
            ratio = mine / other if more_is_better else other / mine
            entry = {"name": f"{workload}/{baseline}/{name}", "ours": mine, "baseline": other, "ratio": ratio}
            results.append(entry | {"unit": unit})
    return results


def floor(folder: Path, settings: dict[str, Any], seconds: float) -> None:
    """How far we are from what the multiplications alone would take at this device's rate."""
    import torch

    from benchmarks.flops import needed_flops, peak_rate
    from components.models import load_model
    from components.records import read_table

    dtype = torch.bfloat16 if settings["precision"] == "bf16" else torch.float32
    model = load_model(Path(settings["base"]), 0, dtype)
    needed = needed_flops(model, [(len(row["input_ids"]), row["loss_start"]) for row in read_table(folder / "train")])
    rate = peak_rate(settings["device"], model.config.hidden_size, dtype)
    print(
        f"floor: {needed / 1e12:.2f} TFLOP at {rate / 1e9:.0f} GFLOP/s ({settings['precision']}) take "
        f"{needed / rate:.1f} s; ours took {seconds:.1f} s, so {needed / rate / seconds:.0%} of it is multiplication"
    )


if __name__ == "__main__":
    raise SystemExit(main())
