"""The sides of the training benchmark, each for a process of its own: ours, Dolly's recipe, trl's SFTTrainer."""

import contextlib
import io
import json
import os
import resource
import time
from pathlib import Path
from typing import Any

from benchmarks.flops import mfu, model_flops, multiplied, peak_rate
from benchmarks.training_data import SEED

BATCH = 8
TRL_BATCH = 2  # packed sequences of max_length: about as many records a step as the others
WARM_UP = {"cpu": 0, "cuda": 3}  # steps before the clock starts: a GPU loads its kernels in the first


def measure(side: str, folder: Path) -> dict[str, float]:
    """Trains one epoch: useful tokens and targets a second, padding, memory, loss on the same held-out records."""
    import torch
    import transformers

    from components.models import load_model
    from components.perplexity import row_nll
    from components.records import read_table

    transformers.logging.set_verbosity_error()
    settings = json.loads((folder / "settings.json").read_text(encoding="utf-8"))
    rows, held_out = list(read_table(folder / "train")), list(read_table(folder / "test"))
    run = {"ours": ours, "dolly": dolly, "trl": trl}[side](folder, rows, settings)
    tuned = load_model(folder / side, 0, torch.float32).to(settings["device"])
    nll = row_nll(tuned, held_out, batch_size=1, description="held out", unit="records")
    useful = sum(len(row["input_ids"]) for row in rows)
    speed = useful * run["share"] / run["seconds"]  # of the measured steps
    flops = model_flops(sum(multiplied(tuned)), *_shape(tuned), [len(row["input_ids"]) for row in rows])
    peak = peak_rate(settings["device"], tuned.config.hidden_size, getattr(torch, DTYPES[settings["precision"]]))
    return {
        "tokens_per_second": speed,
        "targets_per_second": speed * sum(map(targets, rows)) / useful,
        "mfu": mfu(flops * run["share"], run["seconds"], peak),
        "padding": 1 - useful / max(useful, run["computed"]),
        "peak_mib": run["peak_mib"],
        "seconds": run["seconds"],
        "tokens_per_cpu_second": useful * run["share"] / run["cpu_seconds"],
        "seconds_per_step": run["seconds"] / run["steps"],
        "held_out_loss": float(nll.sum() / sum(map(targets, held_out))),
    }


DTYPES = {"bf16": "bfloat16", "fp32": "float32"}


def targets(row: dict[str, Any]) -> int:
    """The number of a row's target tokens."""
    return int(len(row["input_ids"]) - max(1, row["loss_start"]))


def _shape(model: Any) -> tuple[int, int]:
    return model.config.num_hidden_layers, model.config.hidden_size


class Memory:
    """The most memory that the process takes beyond its libraries: made before anything is loaded.

    On a GPU what is allocated, else what is resident.
    """

    def __init__(self, device: str) -> None:
        self.device = device
        self.before = self._peak(reset=True)

    def mib(self) -> float:
        """MiB above what there was at first."""
        return self._peak() - self.before

    def _peak(self, reset: bool = False) -> float:
        if self.device == "cpu":
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        import torch

        if reset:
            torch.cuda.reset_peak_memory_stats()
        return float(torch.cuda.max_memory_allocated()) / 2**20


def ours(folder: Path, _: list[dict[str, Any]], settings: dict[str, Any]) -> dict[str, float]:
    """The train step's loop on one rank."""
    from components.train.config import TrainConfig
    from components.train.engine import save
    from components.train.interruption import Interruption
    from components.train.loop import Loop
    from components.train.worker import Worker

    class Timed(Loop):
        """Counts the processor's time as the loop counts the clock's: in steps alone, without evaluations."""

        cpu_seconds = 0.0

        def _step(self) -> None:
            before = time.process_time()
            super()._step()
            self.cpu_seconds += time.process_time() - before

    os.environ.update(RANK="0", LOCAL_RANK="0", WORLD_SIZE="1", MASTER_ADDR="localhost", MASTER_PORT="0")
    if settings["device"] == "cpu":
        os.environ["DS_ACCELERATOR"] = "cpu"
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
        gradient_checkpointing=settings["gradient_checkpointing"],
        precision=settings["precision"],
        zero_stage=0,
        logging_steps=1000,
        eval_steps=0,
        seed=SEED,
    )
    memory = Memory(settings["device"])
    with contextlib.redirect_stdout(io.StringIO()):
        worker = Worker(config)
        state, engine = worker.begin(None)
        loop = Timed(config, engine, worker.rows, worker.held_out, state, None, Interruption())
        every = loop.total_steps
        if warm := WARM_UP[settings["device"]]:
            loop.total_steps = warm
            loop.run()
        seconds, tokens, steps, loop.cpu_seconds = state.seconds, state.tokens, state.step, 0.0
        loop.total_steps = every
        loop.run()
    result = {
        "seconds": state.seconds - seconds,
        "cpu_seconds": loop.cpu_seconds,
        "steps": state.step - steps,
        "share": (state.tokens - tokens) / state.tokens,
        "computed": state.tokens,
        "peak_mib": memory.mib(),
    }
    save(engine, worker.tokenizer, config)
    return result


def arguments_for(folder: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """What the baselines share with ours."""
    return {
        "output_dir": str(folder / "unused"),
        "use_cpu": settings["device"] == "cpu",
        "bf16": settings["precision"] == "bf16",
        "gradient_checkpointing": settings["gradient_checkpointing"],
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
        "dataloader_pin_memory": settings["device"] == "cuda",
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


def train(
    trainer: Any, batches: list[int], settings: dict[str, Any], memory: "Memory", model: Path
) -> dict[str, float]:
    """Trains with a trainer of transformers, by the clock from its first step's begin to its last one's end.

    Args:
        batches: the useful tokens of each batch, in order; filled while it trains.
    """
    import torch
    from transformers import TrainerCallback

    warm, moments = WARM_UP[settings["device"]], {}

    def now() -> tuple[float, float]:
        if settings["device"] == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter(), time.process_time()

    class Clock(TrainerCallback):  # type: ignore[misc]  # Any to mypy
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            moments["begin"] = now()

        def on_step_end(self, _: Any, state: Any, *__: Any, **___: Any) -> None:
            if state.global_step == warm:
                moments["begin"] = now()

        def on_train_end(self, *_: Any, **__: Any) -> None:
            moments["end"] = now()

    trainer.add_callback(Clock())
    trainer.train()
    peak, steps = memory.mib(), trainer.state.global_step
    trainer.save_model(str(model))
    seconds, cpu_seconds = (end - begin for begin, end in zip(moments["begin"], moments["end"], strict=True))
    return {
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
        "steps": steps - warm,
        "share": sum(batches[warm:steps]) / sum(batches[:steps]) if warm else 1.0,
        "peak_mib": peak,
    }


def dolly(folder: Path, rows: list[dict[str, Any]], settings: dict[str, Any]) -> dict[str, float]:
    """Dolly's recipe: padded random batches, labels of -100 before the answer, the model's own loss."""
    import torch
    from transformers import Trainer, TrainingArguments

    computed, useful = 0, []

    def pad(batch: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        nonlocal computed
        width = -(-max(len(row["input_ids"]) for row in batch) // 8) * 8
        computed += width * len(batch)
        useful.append(sum(len(row["input_ids"]) for row in batch))
        filled = {"input_ids": 0, "attention_mask": 0, "labels": -100}
        tensors = {name: torch.full((len(batch), width), value) for name, value in filled.items()}
        for index, row in enumerate(batch):
            ids, start = torch.tensor(row["input_ids"]), row["loss_start"]
            tensors["input_ids"][index, : len(ids)] = ids
            tensors["attention_mask"][index, : len(ids)] = 1
            tensors["labels"][index, start : len(ids)] = ids[start:]
        return tensors

    memory = Memory(settings["device"])
    arguments = TrainingArguments(**arguments_for(folder, settings))
    model = load_base(settings, folder)
    trainer = Trainer(model=model, args=arguments, train_dataset=rows, data_collator=pad)
    return train(trainer, useful, settings, memory, folder / "dolly") | {"computed": computed}


def trl(folder: Path, rows: list[dict[str, Any]], settings: dict[str, Any]) -> dict[str, float]:
    """trl's SFTTrainer with its packing and its loss on completions."""
    from datasets import Dataset
    from transformers import AutoTokenizer
    from trl import SFTConfig, SFTTrainer  # type: ignore[import-not-found]  # in an environment of its own

    memory = Memory(settings["device"])
    data = Dataset.from_list(
        [
            {
                "input_ids": row["input_ids"],
                "completion_mask": [int(place >= row["loss_start"]) for place in range(len(row["input_ids"]))],
            }
            for row in rows
        ]
    )
    arguments = arguments_for(folder, settings)
    arguments |= {"per_device_train_batch_size": TRL_BATCH, "remove_unused_columns": True}
    config = SFTConfig(**arguments, packing=True, max_length=settings["max_length"], completion_only_loss=True)
    trainer = SFTTrainer(
        model=load_base(settings, folder),
        args=config,
        train_dataset=data,
        processing_class=AutoTokenizer.from_pretrained(folder / "tokenizer"),
    )
    sizes = [len(row["input_ids"]) for row in trainer.train_dataset]
    a_step = [sum(sizes) * TRL_BATCH // len(sizes)] * len(sizes)  # which are taken first is the trainer's to know
    return train(trainer, a_step, settings, memory, folder / "trl") | {"computed": sum(sizes)}
