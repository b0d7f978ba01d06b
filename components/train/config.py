"""What one training is told: every dial of Dolly's train() that still means something, by its present name."""

import os
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from components.errors import ParameterError

METHODS = ("full", "lora")
NO_NEW_TOKENS = "adapters that train new tokens cannot be partitioned; use zero_stage 2, or template=base"
NO_BEST_WEIGHTS = "early_stopping_patience needs checkpoints, a folder in which the best weights are kept"
PRECISIONS = ("bf16", "fp16", "fp32")
OFFLOADS = ("none", "optimizer", "parameters")
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
    "num_nodes",
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
        tensorboard: Where to write the curves for TensorBoard while training (folder); without it they are not.
        checkpoints: Folder where checkpoints live and are resumed from; without it none is written.
        checkpoint_store: Object store (fsspec URI) where they live instead; the folder is then this node's own, for
            what is on its way.
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
        save_adapters: LoRA: write the adapters by themselves too, into the model's folder adapters.
        seed: Seed of order and initialisation.
        logging_steps: Optimizer steps between two points of the loss curve.
        eval_steps: Optimizer steps between two points of the held-out curve; 0: only at the end of each epoch.
        save_steps: Optimizer steps between two checkpoints.
        save_total_limit: How many checkpoints to keep; the best one stays besides.
        early_stopping_patience: Held-out evaluations in a row without a lower loss that end the training, with the best
            weights; 0: never.
        offload: What ZeRO keeps in the host's memory: none, optimizer, or parameters (and the optimizer; ZeRO-3).
        grace_seconds: How long ranks may take for a last checkpoint after SIGTERM.
        num_nodes: Nodes that train together; more than one are a TrainJob's.
        nproc_per_node: Processes on this node; 0: one a GPU, or one without a GPU.
        trust_remote_code: Whether to run Python code that the base model's folder brings.
    """

    train: Path
    test: Path
    tokenizer: Path
    base_model: str
    base_model_digest: str = ""
    model: Path
    curves: Path
    metrics: Path
    tensorboard: Path | None = None
    checkpoints: Path | None = None
    checkpoint_store: str = ""
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
    save_adapters: bool = False
    seed: int = 42
    logging_steps: int = 10
    eval_steps: int = 50
    save_steps: int = 200
    save_total_limit: int = 3
    early_stopping_patience: int = 0
    offload: str = "none"
    grace_seconds: int = 120
    num_nodes: int = 1
    nproc_per_node: int = 0
    trust_remote_code: bool = False

    def __post_init__(self) -> None:
        for name, allowed in (
            ("method", METHODS),
            ("precision", PRECISIONS),
            ("lr_scheduler", SCHEDULES),
            ("offload", OFFLOADS),
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
        check_offload(self.offload, self.zero_stage)
        check_precision(self.precision, self.zero_stage)
        if self.early_stopping_patience and not (self.checkpoints or self.checkpoint_store):
            raise ParameterError(NO_BEST_WEIGHTS)

    @staticmethod
    def world_size(processes: int) -> int:
        """Ranks on all nodes, when each has that many."""
        return processes * int(os.environ.get("PET_NNODES", "1").split(":")[-1])

    def global_batch(self, world_size: int) -> int:
        """Rows an optimizer step, on that many ranks."""
        return self.per_device_batch_size * self.gradient_accumulation_steps * world_size

    def divided(self, global_batch: int, world_size: int) -> "TrainConfig":
        """The same training on another number of ranks: the same global batch in micro-batches that are no larger.

        Raises:
            ParameterError: the ranks cannot share the global batch evenly.
        """
        share, left = divmod(global_batch, world_size)
        if left or not share:
            raise ParameterError(
                f"the checkpoint's global batch of {global_batch} records cannot be shared evenly by {world_size} "
                f"processes; use a number of them that divides {global_batch}"
            )
        micro = max(size for size in range(1, self.per_device_batch_size + 1) if share % size == 0)
        return replace(self, per_device_batch_size=micro, gradient_accumulation_steps=share // micro)

    @classmethod
    def from_settings(cls, settings: dict[str, Any], checkpoints: str = "", **paths: Any) -> "TrainConfig":
        """From a pipeline's parameters, which KFP hands over as text inside a dict.

        Args:
            checkpoints: a folder or a URI; empty: none are written.
        """
        types = {field.name: field.type for field in fields(cls)}
        if "://" in checkpoints:
            paths["checkpoint_store"] = checkpoints
        elif checkpoints:
            paths["checkpoints"] = Path(checkpoints)
        return cls(**{name: _cast(types[name], value) for name, value in settings.items()}, **paths)

    @classmethod
    def from_plain(cls, values: dict[str, Any]) -> "TrainConfig":
        """From what plain() gave."""
        paths = {field.name for field in fields(cls) if field.type in (Path, Path | None)}
        typed: dict[str, Any] = {
            name: Path(value) if name in paths and value else value for name, value in values.items()
        }
        return cls(**typed)

    def plain(self) -> dict[str, Any]:
        """As JSON can hold it."""
        return {name: str(value) if isinstance(value, Path) else value for name, value in asdict(self).items()}


def check_offload(offload: str, zero_stage: int) -> None:
    """Raises ParameterError when a ZeRO stage has nothing of that kind to keep in the host's memory."""
    allowed = {"none": (0, 1, 2, 3), "optimizer": (1, 2, 3), "parameters": (3,)}[offload]
    if zero_stage not in allowed:
        raise ParameterError(
            f"offload={offload} is not allowed with zero_stage={zero_stage}; it needs {', '.join(map(str, allowed))}"
        )


def check_precision(precision: str, zero_stage: int) -> None:
    """Raises ParameterError for fp16 without ZeRO, where DeepSpeed 0.19 does not scale the loss that it unscales."""
    if precision == "fp16" and zero_stage == 0:
        raise ParameterError(
            "precision=fp16 is not allowed with zero_stage=0, which does not scale the loss; use zero_stage=1"
        )


def _cast(kind: Any, value: Any) -> Any:
    if kind is bool:
        return str(value).lower() == "true"
    if kind is int:
        return int(float(value))
    return kind(value)


OUTPUTS = ("model", "curves", "metrics", "tensorboard", "checkpoints", "checkpoint_store")
PATHS = ("train", "test", "tokenizer", "base_model", "base_model_digest", *OUTPUTS)
# What a pipeline hands over as a run's parameters: everything but what is read and written.
TRAINING_PARAMETERS = tuple(field.name for field in fields(TrainConfig) if field.name not in PATHS)
# What is written besides the weights, how often, and on how many processes, does not decide them.
NOT_DECIDING = (
    "num_nodes",
    "nproc_per_node",
    "save_steps",
    "save_total_limit",
    "save_adapters",
    "grace_seconds",
    "logging_steps",
)
DECIDING = tuple(name for name in TRAINING_PARAMETERS if name not in NOT_DECIDING)
