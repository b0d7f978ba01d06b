"""python -m benchmarks.train: our training against Dolly's recipe written plainly, on one CPU process.

Same model (GPT-NeoX of Pythia-14m's shape, random weights), records (dolly-15k's first 200 after a seeded shuffle),
batches of 8, float32 and AdamW. The baseline is transformers' Trainer over random batches padded to a multiple of 8,
with logits at every position. Each runs in a process of its own, in turn; ours with DeepSpeed, as always.
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

SHARED = Path(__file__).parents[2] / "shared" / "data"
RECORDS, BATCH, SEED = 200, 8, 42


def main() -> int:
    """Prints what was measured; its last line is one JSON object."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.train", description="Benchmark the training.")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each side (default: %(default)s)")
    parser.add_argument("--side", choices=["ours", "baseline"], help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        print(json.dumps(measure(arguments.side, arguments.folder)))
        return 0
    if not SHARED.exists():
        print(f"benchmark: {SHARED} is not there", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        prepare(folder)
        runs: dict[str, list[dict[str, float]]] = {"ours": [], "baseline": []}
        for _ in range(arguments.rounds):
            for side, results in runs.items():
                results.append(worker(side, folder))
                print(side, json.dumps(results[-1]), flush=True)
    report(runs)
    return 0


def prepare(folder: Path) -> None:
    """The records as token rows, and the model, on disk for both sides."""
    import torch
    from transformers import AutoTokenizer, GPTNeoXConfig, GPTNeoXForCausalLM

    from components.ingest.ingest import ingest
    from components.split.split import split
    from components.tokenize.tokenize import tokenize

    lines = (SHARED / "instruct/databricks-dolly-15k.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    random.Random(SEED).shuffle(lines)  # noqa: S311  # which records, not a secret
    (folder / "data.jsonl").write_text("".join(lines[:RECORDS]), encoding="utf-8")
    torch.manual_seed(SEED)
    config = GPTNeoXConfig(
        vocab_size=50304, hidden_size=128, num_hidden_layers=6, num_attention_heads=4, intermediate_size=512
    )
    GPTNeoXForCausalLM(config).save_pretrained(folder / "base")
    AutoTokenizer.from_pretrained(SHARED / "tokenizers/gpt-neox").save_pretrained(folder / "base")
    records, tokens = folder / "records", folder / "tokens"
    ingest(dataset=str(folder / "data.jsonl"), records=records, rejects=folder / "rejects", metrics=folder / "i.json")
    tokenize(
        records=records,
        base_model=str(folder / "base"),
        base_model_digest="",
        tokens=tokens,
        tokenizer=folder / "tokenizer",
        metrics=folder / "t.json",
    )
    split(records=records, tokens=tokens, train=folder / "train", test=folder / "test", metrics=folder / "s.json")


def worker(side: str, folder: Path) -> dict[str, float]:
    """One run of one side in a fresh process."""
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.train", "--side", side, "--folder", str(folder)]
    finished = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603  # our own command
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
    rows, held_out = list(read_table(folder / "train")), list(read_table(folder / "test"))
    seconds, steps, computed, peak = (ours if side == "ours" else baseline)(folder, rows)
    tuned = load_model(folder / side, 0, torch.float32)
    scores = score(tuned, held_out, batch_size=BATCH)
    useful = sum(len(row["input_ids"]) for row in rows)
    return {
        "tokens_per_second": useful / seconds,
        "targets_per_second": sum(len(row["input_ids"]) - row["loss_start"] for row in rows) / seconds,
        "padding": 1 - useful / max(useful, computed),
        "peak_mib": peak,
        "seconds_per_step": seconds / steps,
        "held_out_loss": float(scores.nll.sum() / scores.tokens.sum()),
    }


def arguments_for(folder: Path) -> Any:
    """The baseline's, which ours has as well."""
    from transformers import TrainingArguments

    return TrainingArguments(
        output_dir=str(folder / "unused"),
        use_cpu=True,
        num_train_epochs=1,
        learning_rate=1e-3,
        lr_scheduler_type="constant",
        per_device_train_batch_size=BATCH,
        seed=SEED,
        save_strategy="no",
        logging_strategy="no",
        report_to=[],
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
    )


def peak_mib() -> float:
    """The most memory that this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def ours(folder: Path, _: list[dict[str, Any]]) -> tuple[float, int, int, float]:
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
        base_model=str(folder / "base"),
        model=folder / "ours",
        curves=folder / "curves.json",
        metrics=folder / "metrics.json",
        epochs=1,
        learning_rate=1e-3,
        lr_scheduler="constant",
        per_device_batch_size=BATCH,
        per_device_eval_batch_size=BATCH,
        gradient_checkpointing=False,
        precision="fp32",
        zero_stage=0,
        logging_steps=1000,
        eval_steps=0,
        seed=SEED,
    )
    worker = Worker(config)
    state, engine = worker.begin(None)
    loop = Loop(config, engine, worker.rows, worker.held_out, state, None, Interruption())
    before = peak_mib()
    with contextlib.redirect_stdout(io.StringIO()):
        loop.run()
    peak = peak_mib() - before
    save(engine, worker.tokenizer, config)
    return state.seconds, state.step, state.tokens, peak


def baseline(folder: Path, rows: list[dict[str, Any]]) -> tuple[float, int, int, float]:
    """Dolly's recipe: padded random batches, labels of -100 before the answer, the model's own loss."""
    import torch
    from transformers import AutoModelForCausalLM, Trainer

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

    model = AutoModelForCausalLM.from_pretrained(folder / "base", dtype=torch.float32)
    trainer = Trainer(model=model, args=arguments_for(folder), train_dataset=rows, data_collator=pad)
    before = peak_mib()
    started = time.perf_counter()
    trainer.train()
    seconds, peak = time.perf_counter() - started, peak_mib() - before
    trainer.save_model(str(folder / "baseline"))
    return seconds, trainer.state.global_step, computed, peak


def report(runs: dict[str, list[dict[str, float]]]) -> None:
    """Medians, spreads and ratios; a ratio above 1 means that we are better."""
    results = []
    for name, unit, more_is_better in (
        ("tokens_per_second", "useful tokens/s", True),
        ("peak_mib", "MiB above the loaded model", False),
        ("held_out_loss", "nats per target token", False),
    ):
        values = {side: [run[name] for run in side_runs] for side, side_runs in runs.items()}
        mine, other = (statistics.median(values[side]) for side in ("ours", "baseline"))
        for side, measured in values.items():
            print(
                f"{name:<20}{side:<10}median {statistics.median(measured):.4g}, "
                f"{min(measured):.4g} to {max(measured):.4g}"
            )
        ratio = mine / other if more_is_better else other / mine
        results.append({"name": name, "ours": mine, "baseline": other, "ratio": ratio, "unit": unit})
    print(json.dumps({"results": results}))


if __name__ == "__main__":
    raise SystemExit(main())
