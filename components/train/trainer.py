"""transformers' Trainer with an exact loss, exact batches and a progress bar that reads well in a log."""

import math
import time
from typing import Any

import torch
import torch.distributed as dist
from transformers import Trainer, TrainerCallback

from components import progress
from components.errors import TrainingError
from components.packing import target_nll
from components.train.batches import EpochLoader, GlobalBatches, Rows


class ExactTrainer(Trainer):
    """The loss is the sum over the global batch's target tokens over their number, whatever the ranks and batches."""

    def __init__(self, *, train_rows: Rows, eval_rows: Rows, **arguments: Any) -> None:
        super().__init__(train_dataset=train_rows, eval_dataset=eval_rows, **arguments)
        self.model_accepts_loss_kwargs = True  # Trainer counts the targets of all ranks and micro-batches for us
        self.tokens_seen = 0  # by this rank
        self.evaluation_seconds = 0.0

    def get_train_dataloader(self) -> EpochLoader:
        """This rank's share of every global batch."""
        return self._loader(
            self.train_dataset, self.args.per_device_train_batch_size, self.args.gradient_accumulation_steps
        )

    def compute_loss(
        self, model: Any, inputs: dict[str, torch.Tensor], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> torch.Tensor:
        """This rank's part of the global batch's mean loss, times the ranks, because DeepSpeed averages over them."""
        self.tokens_seen += inputs["input_ids"].numel()
        loss: torch.Tensor = target_nll(model, inputs).sum() / num_items_in_batch * self.args.world_size
        return loss

    def evaluate(self, *_: Any, metric_key_prefix: str = "eval", **__: Any) -> dict[str, float]:
        """The exact mean loss over all held-out targets."""
        started = time.perf_counter()
        loader = self._loader(self.eval_dataset, self.args.per_device_eval_batch_size, 1)
        sums = torch.zeros(2, dtype=torch.float64)
        model = self.model_wrapped
        model.eval()
        with torch.no_grad():
            for batch in loader:
                nll = target_nll(model, self._prepare_inputs(batch))
                sums += torch.tensor([nll.double().sum().item(), nll.numel()], dtype=torch.float64)
        model.train()
        if dist.is_initialized():
            sums = sums.to(self.args.device)
            dist.all_reduce(sums)
        metrics = {f"{metric_key_prefix}_loss": (sums[0] / sums[1]).item()}
        self.log(metrics)
        self.control: Any = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        self.evaluation_seconds += time.perf_counter() - started
        return metrics

    def _loader(self, rows: Any, micro_batch: int, accumulation: int) -> EpochLoader:
        batches = GlobalBatches(
            rows=len(rows),
            micro_batch=micro_batch,
            accumulation=accumulation,
            rank=self.args.process_index,
            world_size=self.args.world_size,
            seed=self.args.seed,
        )
        return EpochLoader(rows, batches, pin_memory=self.args.dataloader_pin_memory)


class Progress(TrainerCallback):
    """A bar of optimizer steps with loss, tokens a second and time left; stops on a loss that is no number."""

    def __init__(self) -> None:
        self.trainer: ExactTrainer | None = None
        self.bar: Any = None
        self.started = 0.0
        self.shown: dict[str, str] = {}

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.started = time.perf_counter()
        if state.is_world_process_zero:
            self.bar = progress.bar("train", state.max_steps, "step")
            self.bar.update(state.global_step)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self.bar is not None and self.trainer is not None:
            rate = (
                self.trainer.tokens_seen
                * args.world_size
                / (time.perf_counter() - self.started - self.trainer.evaluation_seconds)
            )
            self.bar.set_postfix({**self.shown, "tokens/s": f"{rate:.0f}"}, refresh=False)
            self.bar.update()

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
        for name in ("loss", "grad_norm", "eval_loss"):
            value = (logs or {}).get(name)
            if value is None:
                continue
            if not math.isfinite(value):
                raise TrainingError(
                    f"{name} is {value} at step {state.global_step}; lower learning_rate, or use bf16 or fp32"
                )
            if name != "grad_norm":
                self.shown[name] = f"{value:.3f}"

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self.bar is not None:
            self.bar.close()
