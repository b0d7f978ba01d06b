"""The training loop: exact over global batches, the same wherever it was interrupted.

All that a step depends on besides the weights is a function of its number: the rows, the learning rate and the
random numbers. So a checkpoint needs no more than DeepSpeed's state and a few counts.
"""

import math
import sys
import time
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
import torch.distributed as dist

from components import progress
from components.errors import ResumableError, TrainingError
from components.packing import summed_nll
from components.train.batches import GlobalBatches, flattened
from components.train.board import Board
from components.train.checkpoints import Checkpoints
from components.train.config import TrainConfig
from components.train.engine import schedule
from components.train.interruption import Interruption
from components.train.rows import Rows

SHOWN_IDS = 8


@dataclass(kw_only=True)
class State:
    """How far a training is; what a checkpoint keeps beside the weights."""

    step: int = 0
    global_batch: int
    world_size: int
    tokens: int = 0  # input tokens of all ranks
    seconds: float = 0.0  # in optimizer steps
    accelerator_seconds: float = 0.0  # of every rank of every attempt, with its start-up
    attempts: int = 1
    best_step: int | None = None
    kept_step: int | None = None  # the best one that has a checkpoint, which stays
    best_loss: float = math.inf
    evaluations_since_best: int = 0
    history: list[dict[str, float]] = field(default_factory=list)
    unlogged: list[tuple[float, float | None]] = field(default_factory=list)  # loss and gradient norm of each step
    logged_tokens: int = 0
    logged_seconds: float = 0.0


class Loop:
    """One rank's side of a training.

    Args:
        engine: DeepSpeed's, around the model.
        checkpoints: None where none are written.
        board: None on all ranks but the one that writes TensorBoard's files.
        started: when this attempt began, in seconds since 1970; now, unless given.
    """

    def __init__(
        self,
        config: TrainConfig,
        engine: Any,
        rows: Rows,
        held_out: Rows,
        state: State,
        checkpoints: Checkpoints | None,
        interruption: Interruption,
        board: Board | None = None,
        started: float | None = None,
    ) -> None:
        self.board = board
        self.config, self.engine, self.state = config, engine, state
        self.rows, self.held_out = rows, held_out
        self.checkpoints, self.interruption = checkpoints, interruption
        self.rank, self.world_size = dist.get_rank(), dist.get_world_size()
        division = {"rank": self.rank, "world_size": self.world_size}
        self.batches = GlobalBatches(
            lengths=rows.lengths,
            micro_batch=config.per_device_batch_size,
            accumulation=config.gradient_accumulation_steps,
            seed=config.seed,
            **division,
        )
        self.held_out_batches = GlobalBatches(
            lengths=held_out.lengths,
            micro_batch=config.per_device_eval_batch_size,
            accumulation=1,
            seed=None,
            **division,
        )
        self.total_steps = math.ceil(config.epochs * self.batches.steps_per_epoch)
        self.schedule = schedule(config, self.total_steps)
        self._saved_at: int | None = state.step or None
        self._losses: list[torch.Tensor] = []  # this rank's part of each step's loss, left on the device
        self._norms: list[Any] = []
        self._started, self._spent_before = started or time.time(), state.accelerator_seconds
        self._latest = {name: value for point in state.history for name, value in point.items()}

    def run(self) -> None:
        """Trains to the end, or until held-out loss has stopped falling.

        Raises:
            TrainingError: a loss or gradient that is no number.
            ResumableError: asked to stop; a checkpoint has been written where there is a place for it.
        """
        bar = progress.bar("train", self.total_steps, "step") if self.rank == 0 else None
        if bar is not None:
            bar.update(self.state.step)
        try:
            self._boundary()
            while self.state.step < self.total_steps and not self._stale():
                self._step()
                if bar is not None:
                    bar.set_postfix(self._shown(), refresh=False)
                    bar.update()
                self._boundary()
            if self._losses or self.state.unlogged:  # ended early, between two points of the curve
                self._log()
        finally:
            if bar is not None:
                bar.close()
            if self.board is not None:
                self.board.close()

    def accelerator_seconds(self) -> float:
        """Seconds that this and earlier attempts have taken, each times its ranks."""
        return self._spent_before + (time.time() - self._started) * self.world_size

    def _step(self) -> None:
        started = time.perf_counter()
        step = self.state.step
        torch.manual_seed(self.config.seed * 1_000_003 + step * self.world_size + self.rank)
        self._set_learning_rate(self.schedule(step))
        rows = self.batches.rows(step)
        targets = max(1, int(self.rows.targets[rows].sum()))  # of all ranks
        loss = torch.zeros((), device=self.engine.device)
        for batch in flattened(self.rows, self.batches.micro_batches(step), self.engine.device):
            # DeepSpeed averages gradients over the ranks
            part = summed_nll(self.engine, batch) / targets * self.world_size
            self.engine.backward(part, scale_wrt_gas=False)
            self.engine.step()
            loss += part.detach() / self.world_size
        self._losses.append(loss)
        self._norms.append(self.engine.get_global_grad_norm())
        self.state.step += 1
        self.state.tokens += int(self.rows.lengths[rows].sum())
        self.state.seconds += time.perf_counter() - started

    def _boundary(self) -> None:
        """What happens between two steps. A checkpoint comes before the evaluation, which can be repeated."""
        step = self.state.step
        last = step == self.total_steps
        if (self._losses or self.state.unlogged) and (step % self.config.logging_steps == 0 or last):
            self._log()
        if self.interruption.agreed():
            self._stop()
        if step and step % self.config.save_steps == 0 and not last:
            self._save()
        if self._evaluation_due(step, last) and not any(
            entry["step"] == step and "eval_loss" in entry for entry in self.state.history
        ):
            self._judge(self._evaluate())

    def _evaluation_due(self, step: int, last: bool) -> bool:
        every = self.config.eval_steps or self.batches.steps_per_epoch
        return last or step % every == 0  # at step 0 as well: the curve begins with the base model

    def _settle(self) -> None:
        """Fetches the steps' losses from the device and checks them: the one wait for it."""
        if not self._losses:
            return
        started = time.perf_counter()
        losses = torch.stack(self._losses).double()
        dist.all_reduce(losses)
        norms = [None if norm is None else float(norm) for norm in self._norms]
        first = self.state.step - len(norms)
        for offset, (loss, norm) in enumerate(zip(losses.tolist(), norms, strict=True)):
            # under fp16 DeepSpeed skips a step whose gradients overflow, and scales the loss down
            overflow = norm is not None and not math.isfinite(norm) and self.config.precision != "fp16"
            if not math.isfinite(loss) or overflow:
                self._refuse(first + offset, loss, norm)
            self.state.unlogged.append((loss, norm))
        self._losses, self._norms = [], []
        self.state.seconds += time.perf_counter() - started

    def _log(self) -> None:
        self._settle()
        state, steps = self.state, self.state.unlogged
        norms = [norm for _, norm in steps if norm is not None]
        finite = [norm for norm in norms if math.isfinite(norm)]  # JSON has no other
        skipped = len(norms) - len(finite)
        self._record(
            loss=sum(loss for loss, _ in steps) / len(steps),
            **({"grad_norm": finite[-1]} if finite else {}),
            **({"skipped_steps": skipped} if skipped else {}),
            learning_rate=self.schedule(state.step - 1),
            tokens_per_second=(state.tokens - state.logged_tokens) / (state.seconds - state.logged_seconds),
            memory_gib=memory_gib(self.engine.device),
        )
        state.unlogged, state.logged_tokens, state.logged_seconds = [], state.tokens, state.seconds

    def _refuse(self, step: int, loss: float, norm: float | None) -> None:
        rows = self.batches.rows(step)
        ids = self.rows.ids(rows[:SHOWN_IDS])
        more = f" and {len(rows) - len(ids)} more" if len(rows) > len(ids) else ""
        last = self.checkpoints.last() if self.checkpoints else "none"
        raise TrainingError(
            f"step {step + 1}: the loss is {loss} and the gradient norm {norm}; lower learning_rate, or use bf16 or "
            f"fp32; records of the batch: {', '.join(ids)}{more}; last good checkpoint: {last}"
        )

    def _evaluate(self) -> float:
        """The exact mean loss over all held-out targets."""
        sums = torch.zeros(2, dtype=torch.float64, device=self.engine.device)
        self.engine.eval()
        with torch.no_grad():
            for step in range(self.held_out_batches.steps_per_epoch):
                for batch in flattened(self.held_out, self.held_out_batches.micro_batches(step), self.engine.device):
                    sums[0] += summed_nll(self.engine, batch)
                    sums[1] += len(batch["targets"])
                if self.interruption.agreed():
                    self._stop()
        self.engine.train()
        dist.all_reduce(sums)
        loss = float(sums[0] / sums[1])
        if not math.isfinite(loss):
            raise TrainingError(f"step {self.state.step}: the held-out loss is {loss}; lower learning_rate")
        return loss

    def _judge(self, loss: float) -> None:
        """Puts a held-out loss into the curve, and keeps the weights when it is the best and that matters."""
        self._record(eval_loss=loss)
        if loss < self.state.best_loss:
            self.state.best_loss, self.state.best_step = loss, self.state.step
            self.state.evaluations_since_best = 0
            if self.config.early_stopping_patience and self.state.step:
                self._save()
        else:
            self.state.evaluations_since_best += 1

    def _stale(self) -> bool:
        patience = self.config.early_stopping_patience
        return bool(patience) and self.state.evaluations_since_best >= patience

    def _save(self) -> None:
        """Writes a checkpoint, unless this step has one; only then does the best one before it lose its protection."""
        state, kept = self.state, self.state.kept_step
        if state.best_step == state.step:
            state.kept_step = state.step
        if self._saved_at != state.step and not self._written():
            state.kept_step = kept

    def _written(self) -> bool:
        if self.checkpoints is None:
            return False
        self._settle()  # nothing that is no number may stand in a checkpoint
        self.state.accelerator_seconds = self.accelerator_seconds()
        written = self.checkpoints.save(self.engine, asdict(self.state), frozen=self.config.method == "lora")
        self._saved_at = self.state.step if written else self._saved_at
        return written

    def _stop(self) -> None:
        self._save()
        raise ResumableError(f"stopped at step {self.state.step} of {self.total_steps}")

    def _record(self, **values: float) -> None:
        epoch = self.state.step / self.batches.steps_per_epoch
        point = {"step": self.state.step, "epoch": epoch, **values}
        self.state.history.append(point)
        self._latest |= point
        if self.board is not None:
            self.board.add(point)

    def _shown(self) -> dict[str, str]:
        latest = self._latest
        rate = self.state.tokens / max(self.state.seconds, 1e-9)
        shown: dict[str, str] = {name: f"{latest[name]:.3f}" for name in ("loss", "eval_loss") if name in latest}
        return shown | {"tokens/s": f"{rate:.0f}"}

    def _set_learning_rate(self, value: float) -> None:
        for group in self.engine.optimizer.param_groups:
            group["lr"] = value


def memory_gib(device: torch.device) -> float:
    """The most memory that this rank has used: on a GPU allocated, on a CPU resident."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**30 if sys.platform == "darwin" else 2**20)
