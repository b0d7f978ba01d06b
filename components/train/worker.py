"""One rank of a training, as torchrun starts it."""

import json
import os
import sys
import time
from dataclasses import replace
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import deepspeed
import psutil
import torch
import torch.distributed as dist
import transformers
from transformers.integrations import HfDeepSpeedConfig

from components.errors import ResumableError
from components.heap import keep_freed_memory
from components.packing import try_loss
from components.records import write_json
from components.rendering import load_tokenizer
from components.store import Store
from components.train.batches import flattened
from components.train.board import Board
from components.train.checkpoints import STATE, Checkpoints, universal
from components.train.config import TrainConfig
from components.train.deepspeed import deepspeed_config
from components.train.engine import load, make_engine, parameter_count, prepare, save
from components.train.interruption import Interruption
from components.train.launcher import STOPPED_FILE, die_with_parent
from components.train.loop import Loop, State, memory_gib
from components.train.rows import Rows
from components.train.stored import StoredCheckpoints

PATIENCE = timedelta(hours=2)  # for rank 0 to check, convert or gather what is large
DEAD_PEER_SECONDS = 5.0
TRIED_TARGETS = 32


def work(config: TrainConfig) -> None:
    """Trains on this rank; rank 0 writes the model, the curves and the metrics."""
    die_with_parent()
    try:
        Worker(config).run()
    except ResumableError as stopped:
        Path(os.environ[STOPPED_FILE]).write_text(str(stopped), encoding="utf-8")
    except RuntimeError as error:
        if isinstance(error, dist.DistBackendError) or "peer" in str(error).lower():
            time.sleep(DEAD_PEER_SECONDS)  # another rank died: torchrun shall see that one first, and end this one
        raise
    dist.destroy_process_group()  # ends gloo's threads, which would else abort some processes on their way out


class Worker:
    """What one rank does, from the first collective to the saved model."""

    def __init__(self, config: TrainConfig) -> None:
        self.times = {"process": psutil.Process().create_time(), "imports": time.time()}  # what has ended when
        transformers.logging.set_verbosity_error()
        transformers.logging.disable_progress_bar()
        if not torch.cuda.is_available():
            leave_out_shared_memory_op()
            keep_freed_memory()
        deepspeed.init_distributed("nccl" if torch.cuda.is_available() else "gloo", timeout=PATIENCE, verbose=False)
        self.rank, self.world_size = dist.get_rank(), dist.get_world_size()
        # what ranks tell each other besides gradients goes over the CPU
        self.group = dist.new_group(backend="gloo", timeout=PATIENCE) if self.world_size > 1 else None
        self.checkpoints = checkpoints_of(config, self.group)
        self.times["meeting the ranks"] = time.time()
        self.tokenizer = load_tokenizer(config.tokenizer, config.trust_remote_code)
        self.rows, self.held_out = Rows(config.train), Rows(config.test)
        self.config = config

    def run(self) -> None:
        """Trains from the newest sound checkpoint, or from the base model."""
        checkpoint = self.checkpoints.newest_sound() if self.checkpoints else None
        state, engine = self.begin(checkpoint)
        interruption = Interruption(self.group)
        board = self.board(state)
        loop = Loop(
            *(self.config, engine, self.rows, self.held_out, state, self.checkpoints, interruption, board),
            started=self.times["process"],
        )
        if self.rank == 0:
            print(f"train: {startup(self.times)}", flush=True)
        loop.run()
        untrained = self.config.early_stopping_patience > 0 and not self.take_best(engine, state)
        self.write(engine, state, loop, untrained)

    def take_best(self, engine: Any, state: State) -> bool:
        """Puts the best weights that there still are into the engine; False if these are the base model's."""
        losses = {entry["step"]: entry["eval_loss"] for entry in state.history if "eval_loss" in entry}
        candidates = {step for step in (state.best_step, state.kept_step, state.step) if step is not None}
        for step in sorted(candidates, key=losses.__getitem__):
            if step in (0, state.step):
                return step > 0
            checkpoint = self.checkpoints.of_step(step) if self.checkpoints else None
            if checkpoint:
                self.read_weights(engine, checkpoint, self.read_state(checkpoint))
                return True
            if self.rank == 0:
                print(f"train: the weights of step {step}, held-out loss {losses[step]:.3f}, are lost", file=sys.stderr)
        raise AssertionError("the present weights are among the candidates")

    def board(self, state: State) -> Board | None:
        """TensorBoard's files, where they are asked for."""
        wanted = self.rank == 0 and self.config.tensorboard is not None
        return Board(Path(str(self.config.tensorboard)), state.history, state.step) if wanted else None

    def begin(self, checkpoint: Path | None) -> tuple[State, Any]:
        """The state and the engine of a checkpoint, or of the base model."""
        state = self.read_state(checkpoint)
        self.config = self.config.divided(state.global_batch, self.world_size)
        settings = deepspeed_config(self.config, self.world_size)
        # First DeepSpeed's configuration, then the model: only so is it partitioned on loading.
        partitioned = HfDeepSpeedConfig(settings)
        model = prepare(self.config, len(self.tokenizer))
        del partitioned
        self.times.setdefault("data and model", time.time())
        engine = make_engine(model, self.config, settings)
        try_loss(engine, self.first_batch(engine.device))  # by all ranks at once: later, some may have no rows
        self.times.setdefault("DeepSpeed's engine", time.time())
        if checkpoint:
            self.read_weights(engine, checkpoint, state)
            state = replace(state, world_size=self.world_size, attempts=state.attempts + 1)
            self.times.setdefault("checkpoint", time.time())
        return state, engine

    def read_weights(self, engine: Any, checkpoint: Path, state: State) -> None:
        """Loads a checkpoint that was written with a state."""
        converted = self.for_these_ranks(checkpoint, state)
        load(engine, converted or checkpoint, self.config, universal=converted is not None)
        if self.checkpoints:
            self.checkpoints.loaded()

    def first_batch(self, device: torch.device) -> dict[str, Any]:
        """A short row with enough targets to try the loss on, the same on all ranks."""
        targets = self.rows.targets
        enough = (targets >= min(TRIED_TARGETS, targets.max())).nonzero()[0]
        [batch] = flattened(self.rows, [[int(enough[targets[enough].argmin()])]], device)
        return batch

    def read_state(self, checkpoint: Path | None) -> State:
        """What a checkpoint says, or a beginning."""
        if checkpoint is None:
            return State(global_batch=self.config.global_batch(self.world_size), world_size=self.world_size)
        if self.rank == 0 and self.checkpoints:
            print(f"train: resuming from {self.checkpoints.shown(checkpoint)}", flush=True)
        return State(**json.loads((checkpoint / STATE).read_text(encoding="utf-8")))

    def for_these_ranks(self, checkpoint: Path | None, state: State) -> Path | None:
        """A checkpoint of another number of ranks in a form that these can load; None where that is not needed."""
        divided = self.config.zero_stage > 0  # else each rank has all of it, and only the first has written
        if checkpoint is None or self.checkpoints is None or state.world_size == self.world_size or not divided:
            return None
        converted = universal(checkpoint) if self.checkpoints.acts() else None
        path: Path = self.checkpoints.of_the_acting(converted)
        return path

    def write(self, engine: Any, state: State, loop: Loop, untrained: bool) -> None:
        """The model, the curves and the metrics."""
        sizes = {
            "parameters": parameter_count(engine.module),
            "trainable_parameters": parameter_count(engine.module, trainable=True),
        }
        save(engine, self.tokenizer, self.config, untrained)
        memory = torch.tensor([memory_gib(engine.device)], device=engine.device)
        dist.all_reduce(memory, op=dist.ReduceOp.MAX)
        if self.rank != 0:
            return
        write_json(self.config.curves, state.history)
        write_json(
            self.config.metrics,
            {
                "steps": state.step,
                "train_loss": next(entry["loss"] for entry in reversed(state.history) if "loss" in entry),
                "best_step": state.best_step,
                "tokens": state.tokens,
                "tokens_per_second": state.tokens / state.seconds,
                "train_seconds": state.seconds,
                "startup_seconds": max(self.times.values()) - self.times["process"],
                "accelerator_hours": loop.accelerator_seconds() / 3600,
                "peak_memory_gib": float(memory),
                "failed_checkpoints": self.checkpoints.failures if self.checkpoints else 0,
                "attempts": state.attempts,
                **sizes,
                "world_size": self.world_size,
                "device": engine.device.type,
            },
        )


def checkpoints_of(config: TrainConfig, group: Any) -> Checkpoints | None:
    """Where checkpoints are kept; None where none are written."""
    if config.checkpoints is None:
        return None
    folder, keep = config.checkpoints, config.save_total_limit
    if config.checkpoint_store:
        return StoredCheckpoints(folder, Store(config.checkpoint_store), keep, group)
    return Checkpoints(folder, keep, group)


def leave_out_shared_memory_op() -> None:
    """Has DeepSpeed exchange gradients between CPU ranks with gloo alone.

    Its own operator would be compiled on first use, for which a user needs a compiler, and a rank that is killed
    meanwhile leaves a lock behind on which every later training waits for ever.
    """
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False


def startup(times: dict[str, float]) -> str:
    """What the time from the process's start to the first step went to."""
    moments = list(times.items())
    parts = [f"{name} {end - begin:.1f}" for (_, begin), (name, end) in pairwise(moments)]
    return f"ready after {moments[-1][1] - moments[0][1]:.1f} s: {', '.join(parts)}"
