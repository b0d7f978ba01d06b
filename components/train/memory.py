"""How much memory a training takes on each rank, told before it starts.

Weights, gradients and optimizer state follow ZeRO (Rajbhandari et al. 2020, arXiv:1910.02054, section 3); what the
backward pass needs is counted from the tensors that a decoder layer keeps (Korthikanti et al. 2022, arXiv:2205.05198,
section 4, without the scores, which fused attention does not keep).
"""

import json
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from components.errors import ModelError
from components.head import CHUNK_LOGITS, SLICE_LOGITS
from components.models import files_read
from components.train.batches import GlobalBatches
from components.train.config import TrainConfig
from components.train.deepspeed import BUCKET
from components.train.rows import Rows

GIB = 2**30
RUNTIME = {"cuda": 0.8 * GIB, "cpu": 0.5 * GIB}  # the process itself: libraries, context
LIVE = 1_000_000_000  # weights that ZeRO-3 keeps gathered at a time; DeepSpeed's default
SAMPLED_STEPS = 200


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What of a model decides its memory; numbers of weights and elements."""

    parameters: int
    trainable: int
    layers: int
    hidden: int
    intermediate: int
    key_value: int
    vocabulary: int

    @classmethod
    def read(cls, folder: Path, config: TrainConfig) -> "Shape":
        """From a model's config.json and the headers of its weights."""
        values = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        text: dict[str, Any] = values.get("text_config") or values
        hidden = int(text.get("hidden_size") or text["n_embd"])
        layers = int(text.get("num_hidden_layers") or text["n_layer"])
        intermediate = int(text.get("intermediate_size") or text.get("n_inner") or 4 * hidden)
        heads = int(text.get("num_attention_heads") or text["n_head"])
        key_value = int(text.get("num_key_value_heads") or heads) * int(text.get("head_dim") or hidden // heads)
        parameters = sum(_weights(folder / name) for name in files_read(folder) if name.endswith(".safetensors"))
        adapters = layers * config.lora_rank * (6 * hidden + 2 * key_value + 3 * (hidden + intermediate))
        trainable = adapters if config.method == "lora" else parameters
        return cls(
            parameters=parameters + (adapters if config.method == "lora" else 0),
            trainable=trainable,
            layers=layers,
            hidden=hidden,
            intermediate=intermediate,
            key_value=key_value,
            vocabulary=int(text["vocab_size"]),
        )


def _weights(path: Path) -> int:
    """The number of weights in a safetensors file."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="np") as file:
            return sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118  # no mapping
    except SafetensorError as error:
        raise ModelError(f"base_model: {path} is no whole safetensors file ({error}); fetch it again") from error


def estimate(shape: Shape, config: TrainConfig, world_size: int, tokens: int, device: str) -> dict[str, float]:
    """Bytes on one rank, by what they are for.

    Args:
        tokens: the most that a micro-batch has.
        device: cuda or cpu.
    """
    size = 4 if config.precision == "fp32" else 2
    stage, offloaded = config.zero_stage, config.offload != "none"
    # a master copy besides the two moments, save where nothing is partitioned and nothing rounded
    optimizer = shape.trainable * (8 if stage == 0 and size == 4 else 12)
    kept = 10 * shape.hidden + 2 * shape.key_value + 4 * shape.intermediate  # elements a token and layer
    layers = 1 if config.gradient_checkpointing else shape.layers
    inputs = shape.layers * shape.hidden if config.gradient_checkpointing else 0
    trains_head = config.method == "full"  # its gradient is summed in float32 over chunks
    parts = {
        "weights": shape.parameters * size / (world_size if stage == 3 else 1),
        "gathered weights": min(LIVE, shape.parameters) * size if stage == 3 else 0.0,
        "gradients": shape.trainable * size / (world_size if stage >= 2 else 1),
        "optimizer": optimizer / (world_size if stage >= 1 or size == 2 else 1),
        "buffers": min(BUCKET, shape.trainable) * size if stage else 0.0,
        "activations": tokens * size * (layers * kept + inputs)
        + min(CHUNK_LOGITS, tokens * shape.vocabulary) * size
        + min(SLICE_LOGITS, tokens * shape.vocabulary) * 8  # in float32, and a copy
        + (4 * shape.vocabulary * shape.hidden if trains_head else 0),
        "runtime": RUNTIME[device],
    }
    if device == "cuda" and offloaded:
        parts["optimizer"] = 0.0
        parts["gradients"] = 0.0
    if device == "cuda" and config.offload == "parameters":
        parts["weights"] = 0.0
    return parts


def report(folder: Path, config: TrainConfig, world_size: int, available: float, device: str) -> str:
    """The estimate in one line, with settings that would fit when it does not."""
    shape, rows = Shape.read(folder, config), Rows(config.train)

    def needed(candidate: TrainConfig) -> float:
        tokens = most_tokens(rows, candidate, world_size)
        return sum(estimate(Shape.read(folder, candidate), candidate, world_size, tokens, device).values())

    parts = estimate(shape, config, world_size, most_tokens(rows, config, world_size), device)
    told = ", ".join(f"{name} {part / GIB:.2f}" for name, part in parts.items() if part)
    line = f"about {sum(parts.values()) / GIB:.2f} of {available / GIB:.1f} GiB a process ({told})"
    if sum(parts.values()) <= available:
        return line
    smaller = next((change for change in leaner(config) if needed(replace(config, **change)) <= available), None)
    if smaller is None:
        return f"{line}; too little for any setting: use more processes, or a smaller model"
    return f"{line}; it may not fit, but with {' '.join(f'{name}={value}' for name, value in smaller.items())} it would"


def leaner(config: TrainConfig) -> list[dict[str, Any]]:
    """Changes that need less and less memory, each one on top of those before it."""
    steps: list[dict[str, Any]] = [{"gradient_checkpointing": True}, {"per_device_batch_size": 1}]
    if not (config.method == "lora" and config.zero_stage < 3):
        steps += [{"zero_stage": 3}, {"offload": "optimizer"}, {"offload": "parameters"}]
    changes: list[dict[str, Any]] = []
    total: dict[str, Any] = {}
    for step in steps:
        total = total | {name: value for name, value in step.items() if getattr(config, name) != value}
        changes.append(dict(total))
    return changes


def most_tokens(rows: Rows, config: TrainConfig, world_size: int) -> int:
    """The most tokens in a micro-batch of the first steps."""
    batches = GlobalBatches(
        lengths=rows.lengths,
        micro_batch=config.per_device_batch_size,
        accumulation=config.gradient_accumulation_steps,
        rank=0,
        world_size=world_size,
        seed=config.seed,
    )
    steps = range(min(SAMPLED_STEPS, batches.steps_per_epoch))
    cells = (cell for step in steps for cell in batches.micro_batches(step))
    return max((int(rows.lengths[cell].sum()) for cell in cells), default=0)
