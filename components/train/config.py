"""What one training is told: every dial of Dolly's train() that still means something, by its present name."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from components.errors import ParameterError

METHODS = ("full", "lora")
NO_NEW_TOKENS = "adapters that train new tokens cannot be partitioned; use zero_stage 2, or template=base"
PRECISIONS = ("bf16", "fp16", "fp32")
POSITIVE = (
    "epochs",
    "learning_rate",
    "per_device_batch_size",
    "per_device_eval_batch_size",
    "gradient_accumulation_steps",
    "lora_rank",
    "logging_steps",
    "save_steps",
    "save_total_limit",
)
SCHEDULES = ("constant", "constant_with_warmup", "linear", "cosine", "polynomial", "inverse_sqrt")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Fine-tunes a causal language model with torchrun and DeepSpeed.

    Args:
        train: Training rows (Parquet, from split).
        test: Held-out rows for the loss curve (Parquet, from split).
        tokenizer: The tokenizer's folder (from tokenize).
        base_model: Local folder, fsspec URI or pinned hub id of the base model.
        base_model_digest: What resolve found for it.
        model: Where to write the tuned model (folder).
        curves: Where to write the loss curves (JSON).
        metrics: Where to write throughput and sizes (JSON).
        checkpoints: Where checkpoints live and are resumed from; without it none is written.
        method: full (every weight) or lora (adapters, merged at the end).
        epochs: Passes over the training rows.
        learning_rate: The peak learning rate.
        lr_scheduler: Its schedule, by transformers' name.
        warmup_steps: Optimizer steps until the peak.
        weight_decay: AdamW's decay.
        per_device_batch_size: Rows a process takes at a time.
        per_device_eval_batch_size: Held-out rows a process takes at a time.
        gradient_accumulation_steps: Batches a process takes before an optimizer step.
        gradient_checkpointing: Recompute activations in the backward pass: less memory, about a third more time.
        precision: bf16, fp16 (V100) or fp32.
        zero_stage: DeepSpeed ZeRO stage, 0 to 3.
        lora_rank: Rank of the adapters.
        lora_alpha: Scale of the adapters.
        seed: Seed of order and initialisation.
        logging_steps: Optimizer steps between two points of the loss curve.
        eval_steps: Optimizer steps between two points of the held-out curve; 0: only at the end of each epoch.
        save_steps: Optimizer steps between two checkpoints.
        save_total_limit: How many checkpoints to keep.
        nproc_per_node: Processes on this node; 0: one a GPU, or one without a GPU.
    """

    train: Path
    test: Path
    tokenizer: Path
    base_model: str
    base_model_digest: str = ""
    model: Path
    curves: Path
    metrics: Path
    checkpoints: Path | None = None
    method: str = "full"
    epochs: float = 2
    learning_rate: float = 5e-6
    lr_scheduler: str = "constant_with_warmup"
    warmup_steps: int = 50
    weight_decay: float = 0.0
    per_device_batch_size: int = 6
    per_device_eval_batch_size: int = 6
    gradient_accumulation_steps: int = 1
    gradient_checkpointing: bool = True
    precision: str = "bf16"
    zero_stage: int = 3
    lora_rank: int = 16
    lora_alpha: int = 32
    seed: int = 42
    logging_steps: int = 10
    eval_steps: int = 50
    save_steps: int = 200
    save_total_limit: int = 3
    nproc_per_node: int = 0

    def __post_init__(self) -> None:
        for name, allowed in (
            ("method", METHODS),
            ("precision", PRECISIONS),
            ("lr_scheduler", SCHEDULES),
            ("zero_stage", (0, 1, 2, 3)),
        ):
            if getattr(self, name) not in allowed:
                raise ParameterError(
                    f"{name}={getattr(self, name)!r} is unknown; allowed: {', '.join(map(str, allowed))}"
                )
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name in POSITIVE and value <= 0:
                raise ParameterError(f"{field.name}={value} must be greater than 0")
            if isinstance(value, int | float) and value < 0:
                raise ParameterError(f"{field.name}={value} must not be negative")

    @classmethod
    def from_settings(cls, settings: dict[str, Any], **paths: Any) -> "TrainConfig":
        """From a pipeline's parameters, which KFP hands over as text inside a dict."""
        types = {field.name: field.type for field in fields(cls)}
        return cls(**{name: _cast(types[name], value) for name, value in settings.items()}, **paths)


def _cast(kind: Any, value: Any) -> Any:
    if kind is bool:
        return str(value).lower() == "true"
    if kind is int:
        return int(float(value))
    return kind(value)


PATHS = ("train", "test", "tokenizer", "base_model", "base_model_digest", "model", "curves", "metrics", "checkpoints")
# What a pipeline hands over as a run's parameters: everything but what is read and written.
TRAINING_PARAMETERS = tuple(field.name for field in fields(TrainConfig) if field.name not in PATHS)
