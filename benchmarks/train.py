"""python -m benchmarks.train: our training against Dolly's recipe and trl's SFTTrainer, on one CPU process, in turn.

Same model, records (dolly-15k's first after a seeded shuffle), number format, AdamW and learning rate, one epoch.
dolly: transformers' Trainer over random batches of 8 padded to a multiple of 8, logits at every position.
trl: SFTTrainer with packing and completion-only loss. Ours: the train step's own loop with DeepSpeed, batches of 8.
Each run is a process of its own; start-up and evaluation are outside the measured time.
"""

import argparse
import contextlib
import io
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared" / "data"
TRL = "trl==1.16.0"
TRL_FOLDER = ROOT / "build" / "trl"  # beside our environment, because nothing else needs it
MODELS, SIDES = ("pythia-14m", "smollm2-135m"), ("ours", "dolly", "trl")
BATCH, SEED, LEARNING_RATE = 8, 42, {"pythia-14m": 1e-3, "smollm2-135m": 2e-5}
PACKED = 1024  # tokens of trl's packed sequences, two a step: about as many records a step as the others


def main() -> int:
    """Prints what was measured; its last line is one JSON object."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.train", description="Benchmark the training.")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=MODELS)
    parser.add_argument("--rounds", type=int, default=3, help="runs of each side (default: %(default)s)")
    parser.add_argument("--records", type=int, default=200, help="records to train on (default: %(default)s)")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        print(json.dumps(measure(arguments.side, arguments.folder)))
        return 0
    if not SHARED.exists():
        print(f"benchmark: {SHARED} is not there", file=sys.stderr)
        return 2
    install_trl()
    results: list[dict[str, Any]] = []
    for model in arguments.models:
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            prepare(folder, model, arguments.records)
            runs: dict[str, list[dict[str, float]]] = {side: [] for side in SIDES}
            for _ in range(arguments.rounds):
                for side, measured in runs.items():
                    measured.append(worker(side, folder))
                    print(model, side, json.dumps(measured[-1]), flush=True)
            results += report(model, runs)
            floor(folder, statistics.median(run["seconds"] for run in runs["ours"]))
    print(json.dumps({"results": results}))
    return 0


def install_trl() -> None:
    """trl alone; all that it needs is in our environment."""
    if not TRL_FOLDER.exists():
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(TRL_FOLDER), TRL]
        subprocess.run(pip, check=True)  # noqa: S603  # our own command


def prepare(folder: Path, model: str, count: int) -> None:
    """The records as token rows, and the model, on disk for all sides."""
    from components.ingest.ingest import ingest
    from components.split.split import split
    from components.tokenize.tokenize import tokenize

    lines = (SHARED / "instruct/databricks-dolly-15k.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    random.Random(SEED).shuffle(lines)  # noqa: S311  # which records, not a secret
    (folder / "data.jsonl").write_text("".join(lines[:count]), encoding="utf-8")
    base, template = (pythia(folder), "dolly") if model == "pythia-14m" else (smollm2(), "base")
    settings = {"base": str(base), "learning_rate": LEARNING_RATE[model], "precision": precision(model)}
    (folder / "settings.json").write_text(json.dumps(settings), encoding="utf-8")
    records, tokens = folder / "records", folder / "tokens"
    ingest(
        dataset=str(folder / "data.jsonl"),
        records=records,
        rejects=folder / "rejects",
        metrics=folder / "i.json",
        pii="off",
        near_duplicates=0,
    )
    tokenize(
        records=records,
        base_model=str(base),
        base_model_digest="",
        template=template,
        max_length=PACKED,
        tokens=tokens,
        tokenizer=folder / "tokenizer",
        metrics=folder / "t.json",
    )
    split(records=records, tokens=tokens, train=folder / "train", test=folder / "test", metrics=folder / "s.json")


def pythia(folder: Path) -> Path:
    """GPT-NeoX of Pythia-14m's shape, with random weights and room for Dolly's control tokens."""
    import torch
    from transformers import AutoTokenizer, GPTNeoXConfig, GPTNeoXForCausalLM

    torch.manual_seed(SEED)
    config = GPTNeoXConfig(
        vocab_size=50304, hidden_size=128, num_hidden_layers=6, num_attention_heads=4, intermediate_size=512
    )
    GPTNeoXForCausalLM(config).save_pretrained(folder / "base")
    AutoTokenizer.from_pretrained(SHARED / "tokenizers/gpt-neox").save_pretrained(folder / "base")
    return folder / "base"


def smollm2() -> Path:
    """SmolLM2-135M-Instruct, as the demo takes it."""
    from pipeline.bundled_model import prepare as bundled

    return bundled()


def precision(model: str) -> str:
    """bf16 for SmolLM2 where the processor has instructions for it; else all sides take float32."""
    import torch

    native = torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return "bf16" if model == "smollm2-135m" and native else "fp32"


def worker(side: str, folder: Path) -> dict[str, float]:
    """One run of one side in a fresh process."""
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.train", "--side", side, "--folder", str(folder)]
    path = os.pathsep.join([str(ROOT), *([str(TRL_FOLDER)] if side == "trl" else []), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"PYTHONPATH": path, "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1"}
    finished = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)  # noqa: S603
    if finished.returncode:
        raise SystemExit(f"benchmark: {side} failed: {finished.stderr.strip().splitlines()[-1]}")
    result: dict[str, float] = json.loads(finished.stdout.splitlines()[-1])
    return result


def measure(side: str, folder: Path) -> dict[str, float]:
    """Trains one epoch: useful tokens and targets a second, padding, memory, loss on the same held-out records."""
    import torch
    import transformers

    from components.evaluate.perplexity import score
    from components.models import load_model
    from components.records import read_table

    transformers.logging.set_verbosity_error()
    settings = json.loads((folder / "settings.json").read_text(encoding="utf-8"))
    rows, held_out = list(read_table(folder / "train")), list(read_table(folder / "test"))
    seconds, steps, computed, peak = {"ours": ours, "dolly": dolly, "trl": trl}[side](folder, rows, settings)
    tuned = load_model(folder / side, 0, torch.float32)
    scores = score(tuned, held_out, batch_size=BATCH)
    useful = sum(len(row["input_ids"]) for row in rows)
    return {
        "tokens_per_second": useful / seconds,
        "targets_per_second": sum(len(row["input_ids"]) - max(1, row["loss_start"]) for row in rows) / seconds,
        "padding": 1 - useful / max(useful, computed),
        "peak_mib": peak,
        "seconds": seconds,
        "seconds_per_step": seconds / steps,
        "held_out_loss": float(scores.nll.sum() / scores.tokens.sum()),
    }


def peak_mib() -> float:
    """The most memory that this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def ours(folder: Path, _: list[dict[str, Any]], settings: dict[str, Any]) -> tuple[float, int, int, float]:
    """The train step's loop on one rank; seconds, steps, tokens computed on, MiB above the loaded model."""
    from components.train.config import TrainConfig
    from components.train.engine import save
    from components.train.interruption import Interruption
    from components.train.loop import Loop
    from components.train.worker import Worker

    os.environ.update(
        RANK="0", LOCAL_RANK="0", WORLD_SIZE="1", MASTER_ADDR="localhost", MASTER_PORT="0", DS_ACCELERATOR="cpu"
    )
    config = TrainConfig(
        train=folder / "train",
        test=folder / "test",
        tokenizer=folder / "tokenizer",
        base_model=settings["base"],
        model=folder / "ours",
        curves=folder / "curves.json",
        metrics=folder / "metrics.json",
        epochs=1,
        learning_rate=settings["learning_rate"],
        lr_scheduler="constant",
        per_device_batch_size=BATCH,
        per_device_eval_batch_size=1,
        gradient_checkpointing=False,
        precision=settings["precision"],
        zero_stage=0,
        logging_steps=1000,
        eval_steps=0,
        seed=SEED,
    )
    with contextlib.redirect_stdout(io.StringIO()):
        worker = Worker(config)
        state, engine = worker.begin(None)
        loop = Loop(config, engine, worker.rows, worker.held_out, state, None, Interruption())
        before = peak_mib()
        loop.run()
    peak = peak_mib() - before
    save(engine, worker.tokenizer, config)
    return state.seconds, state.step, state.tokens, peak


def arguments_for(folder: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """What the baselines share with ours."""
    return {
        "output_dir": str(folder / "unused"),
        "use_cpu": True,
        "bf16": settings["precision"] == "bf16",
        "num_train_epochs": 1,
        "learning_rate": settings["learning_rate"],
        "lr_scheduler_type": "constant",
        "optim": "adamw_torch_fused",
        "per_device_train_batch_size": BATCH,
        "seed": SEED,
        "save_strategy": "no",
        "logging_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
        "remove_unused_columns": False,
        "dataloader_pin_memory": False,
    }


def load_base(settings: dict[str, Any], folder: Path) -> Any:
    """The base model with transformers' default attention and a row for each token."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(settings["base"], dtype=torch.float32)
    tokens = len(AutoTokenizer.from_pretrained(folder / "tokenizer"))
    if tokens > model.get_input_embeddings().weight.shape[0]:
        model.resize_token_embeddings(tokens)
    return model


def run(trainer: Any, model: Path) -> tuple[float, int, float]:
    """Trains; seconds, steps, MiB above the loaded model."""
    before, started = peak_mib(), time.perf_counter()
    trainer.train()
    seconds, peak = time.perf_counter() - started, peak_mib() - before
    trainer.save_model(str(model))
    return seconds, trainer.state.global_step, peak


def dolly(folder: Path, rows: list[dict[str, Any]], settings: dict[str, Any]) -> tuple[float, int, int, float]:
    """Dolly's recipe: padded random batches, labels of -100 before the answer, the model's own loss."""
    import torch
    from transformers import Trainer, TrainingArguments

    computed = 0

    def pad(batch: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        nonlocal computed
        width = -(-max(len(row["input_ids"]) for row in batch) // 8) * 8
        computed += width * len(batch)
        filled = {"input_ids": 0, "attention_mask": 0, "labels": -100}
        tensors = {name: torch.full((len(batch), width), value) for name, value in filled.items()}
        for index, row in enumerate(batch):
            ids, start = torch.tensor(row["input_ids"]), row["loss_start"]
            tensors["input_ids"][index, : len(ids)] = ids
            tensors["attention_mask"][index, : len(ids)] = 1
            tensors["labels"][index, start : len(ids)] = ids[start:]
        return tensors

    arguments = TrainingArguments(**arguments_for(folder, settings))
    model = load_base(settings, folder)
    trainer = Trainer(model=model, args=arguments, train_dataset=rows, data_collator=pad)
    seconds, steps, peak = run(trainer, folder / "dolly")
    return seconds, steps, computed, peak


def trl(folder: Path, rows: list[dict[str, Any]], settings: dict[str, Any]) -> tuple[float, int, int, float]:
    """trl's SFTTrainer with its packing and its loss on completions."""
    from datasets import Dataset
    from transformers import AutoTokenizer
    from trl import SFTConfig, SFTTrainer  # type: ignore[import-not-found]  # in an environment of its own

    data = Dataset.from_list(
        [
            {
                "input_ids": row["input_ids"],
                "completion_mask": [int(place >= row["loss_start"]) for place in range(len(row["input_ids"]))],
            }
            for row in rows
        ]
    )
    arguments = arguments_for(folder, settings) | {"per_device_train_batch_size": 2, "remove_unused_columns": True}
    config = SFTConfig(**arguments, packing=True, max_length=PACKED, completion_only_loss=True)
    trainer = SFTTrainer(
        model=load_base(settings, folder),
        args=config,
        train_dataset=data,
        processing_class=AutoTokenizer.from_pretrained(folder / "tokenizer"),
    )
    computed = sum(len(row["input_ids"]) for row in trainer.train_dataset)
    seconds, steps, peak = run(trainer, folder / "trl")
    return seconds, steps, computed, peak


def report(model: str, runs: dict[str, list[dict[str, float]]]) -> list[dict[str, Any]]:
    """Medians, spreads and ratios; a ratio above 1 means that we are better."""
    results = []
    for name, unit, more_is_better in (
        ("tokens_per_second", "useful tokens/s", True),
        ("targets_per_second", "target tokens/s", True),
        ("peak_mib", "MiB above the loaded model", False),
        ("seconds_per_step", "s", None),  # trl's steps hold other records
        ("padding", "share of computed tokens", None),
        ("held_out_loss", "nats per target token", False),
    ):
        values = {side: [run[name] for run in side_runs] for side, side_runs in runs.items()}
        for side, measured in values.items():
            middle = statistics.median(measured)
            print(f"{model:<14}{name:<20}{side:<8}median {middle:.4g}, {min(measured):.4g} to {max(measured):.4g}")
        for baseline in ("dolly", "trl"):
            if more_is_better is None:
                continue
            mine, other = (statistics.median(values[side]) for side in ("ours", baseline))
            ratio = mine / other if more_is_better else other / mine
            entry = {"name": f"{model}/{baseline}/{name}", "ours": mine, "baseline": other, "ratio": ratio}
            results.append(entry | {"unit": unit})
    return results


def floor(folder: Path, seconds: float) -> None:
    """How far we are from what the multiplications alone would take at this machine's measured rate."""
    import torch

    from components.models import load_model
    from components.records import read_table

    settings = json.loads((folder / "settings.json").read_text(encoding="utf-8"))
    dtype = torch.bfloat16 if settings["precision"] == "bf16" else torch.float32
    model = load_model(Path(settings["base"]), 0, dtype)
    head = model.get_output_embeddings().weight
    body = sum(p.numel() for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n and p is not head)
    rows = [(len(row["input_ids"]), row["loss_start"]) for row in read_table(folder / "train")]
    config = model.config
    attention = 2 * config.num_hidden_layers * config.hidden_size * sum(length**2 for length, _ in rows)  # causal half
    targets = sum(length - max(1, start) for length, start in rows)
    # a multiplication and an addition; forward, and twice that backward
    needed = 3 * (2 * body * sum(length for length, _ in rows) + 2 * head.numel() * targets + attention)
    left, right = torch.randn(1024, config.hidden_size, dtype=dtype), torch.randn(4096, config.hidden_size, dtype=dtype)
    best = min(_seconds(lambda: torch.nn.functional.linear(left, right)) for _ in range(20))
    rate = 2 * left.shape[0] * right.shape[0] * config.hidden_size / best
    print(
        f"floor: {needed / 1e12:.2f} TFLOP at {rate / 1e9:.0f} GFLOP/s ({settings['precision']}) take "
        f"{needed / rate:.1f} s; ours took {seconds:.1f} s, so {needed / rate / seconds:.0%} of it is multiplication"
    )


def _seconds(call: Any) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


if __name__ == "__main__":
    raise SystemExit(main())
