"""How many floating-point operations a training needs, and what share of a device's rate it reaches."""

import re
import time
from collections.abc import Callable, Sequence
from typing import Any

# Dense bf16 (V100: fp16) operations a second, from NVIDIA's data sheets; the first whose words a device's name has.
PEAKS = {
    "B200": 2250e12,
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "L4": 121e12,
    "A10": 125e12,
    "V100": 125e12,
}


def model_flops(parameters: int, layers: int, hidden: int, lengths: Sequence[int]) -> float:
    """Operations of a training step by llm-foundry's formula: forward, and twice that backward, nothing recomputed.

    Args:
        parameters: weights that every token is multiplied with.
        lengths: tokens of each sequence; attention is counted over the whole square.
    """
    of_weights = 2 * parameters * sum(lengths)
    of_attention = 4 * layers * hidden * sum(length**2 for length in lengths)
    return 3.0 * (of_weights + of_attention)


def mfu(flops: float, seconds: float, peak: float) -> float:
    """Model FLOPs utilisation: the share of the device's peak rate."""
    return flops / seconds / peak


def needed_flops(model: Any, rows: Sequence[tuple[int, int]]) -> float:
    """Operations without which the training of rows cannot be: logits at targets alone, half the attention square.

    Args:
        rows: length and loss_start of each.
    """
    body, head = multiplied(model)
    tokens = sum(length for length, _ in rows)
    targets = sum(length - max(1, start) for length, start in rows)
    attention = 2 * model.config.num_hidden_layers * model.config.hidden_size * sum(length**2 for length, _ in rows)
    return float(3 * (2 * body * tokens + 2 * head * targets + attention))


def multiplied(model: Any) -> tuple[int, int]:
    """Weights that a token is multiplied with: those of the layers, and those of the output layer."""
    head = model.get_output_embeddings().weight
    tables = {id(model.get_input_embeddings().weight), id(head)}  # looked up, not multiplied
    return sum(p.numel() for p in model.parameters() if p.ndim == 2 and id(p) not in tables), head.numel()


def peak_rate(device: str, hidden: int, dtype: Any) -> float:
    """Operations a second: a GPU's by its data sheet, else those measured of a multiplication of the model's shape."""
    import torch

    if device == "cuda":
        name = torch.cuda.get_device_name()
        known = next((rate for part, rate in PEAKS.items() if re.search(rf"\b{part}\b", name)), None)
        if known:
            return known
    left, right = (torch.randn(rows, hidden, dtype=dtype, device=device) for rows in (1024, 4096))
    best = min(_seconds(lambda: torch.nn.functional.linear(left, right)) for _ in range(20))
    return 2 * left.shape[0] * right.shape[0] * hidden / best


def _seconds(call: Callable[[], object]) -> float:
    import torch

    wait: Callable[[], object] = torch.cuda.synchronize if torch.cuda.is_available() else lambda: None
    wait()
    started = time.perf_counter()
    call()
    wait()
    return time.perf_counter() - started
