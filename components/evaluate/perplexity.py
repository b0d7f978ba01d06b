"""The one exact perplexity: exp of the sum of NLL over target tokens over their number.

Sums are kept per record in float64, so that figures by category and bootstrap intervals come from the same pass.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from components import progress
from components.errors import PipelineError
from components.packing import flatten, target_nll


@dataclass(frozen=True, kw_only=True)
class Scores:
    """What a model gave each record: arrays of one length, in the records' order."""

    nll: np.ndarray  # nats, summed over the record's targets, float64
    tokens: np.ndarray  # target tokens, int64
    bytes: np.ndarray  # UTF-8 bytes of the response, int64

    def select(self, chosen: np.ndarray) -> "Scores":
        """The scores of some records."""
        return Scores(nll=self.nll[chosen], tokens=self.tokens[chosen], bytes=self.bytes[chosen])

    @property
    def perplexity(self) -> float:
        """exp(total NLL / total target tokens)."""
        return math.exp(self.nll.sum() / self.tokens.sum())

    @property
    def bits_per_byte(self) -> float:
        """Total NLL in bits over the responses' bytes: comparable between tokenizers."""
        return float(self.nll.sum() / math.log(2) / self.bytes.sum())


@torch.inference_mode()
def score(model: Any, rows: Sequence[dict[str, Any]], *, batch_size: int, description: str = "evaluate") -> Scores:
    """Scores token rows.

    Args:
        model: a causal language model, loaded by components.models.
        rows: rows of the tokens contract.
        batch_size: rows a forward pass takes; it changes the speed, not the result.

    Raises:
        PipelineError: a loss is not finite; with the record's id.
    """
    model.eval()
    device = next(model.parameters()).device
    nll = np.zeros(len(rows))
    tokens = np.zeros(len(rows), dtype=np.int64)
    with progress.bar(description, len(rows), "records") as bar:
        for chosen in _batches(rows, batch_size):
            batch = [rows[index] for index in chosen]
            inputs = {name: _to(value, device) for name, value in flatten(batch).items()}
            values = target_nll(model, inputs).double().cpu().numpy()
            lengths = [len(row["input_ids"]) - max(1, row["loss_start"]) for row in batch]
            borders = np.cumsum([0, *lengths])
            for position, index in enumerate(chosen):
                nll[index] = values[borders[position] : borders[position + 1]].sum()
                tokens[index] = lengths[position]
                if not math.isfinite(nll[index]):
                    raise PipelineError(f"the loss of record {rows[index]['id']} is {nll[index]}")
            bar.update(len(chosen))
    return Scores(nll=nll, tokens=tokens, bytes=np.array([row["target_bytes"] for row in rows], dtype=np.int64))


def bootstrap(models: Sequence[Scores], *, samples: int = 1000, seed: int = 0) -> np.ndarray:
    """Perplexities of each model on records drawn with replacement, the same draws for all.

    Returns:
        shape (models, samples); a column is one draw, so differences within a column are paired.
    """
    generator = np.random.default_rng(seed)
    count = len(models[0].nll)
    draws = np.stack([np.bincount(generator.integers(count, size=count), minlength=count) for _ in range(samples)])
    return np.stack([np.exp((draws @ scores.nll) / (draws @ scores.tokens)) for scores in models])


def interval(values: np.ndarray) -> list[float]:
    """The central 95 % of bootstrap values."""
    low, high = np.quantile(values, [0.025, 0.975])
    return [float(low), float(high)]


def _batches(rows: Sequence[dict[str, Any]], batch_size: int) -> Iterator[list[int]]:
    """Row numbers, rows of like length together."""
    order = sorted(range(len(rows)), key=lambda index: (len(rows[index]["input_ids"]), index))
    for start in range(0, len(order), batch_size):
        yield order[start : start + batch_size]


def _to(value: Any, device: torch.device) -> Any:
    return value.to(device) if isinstance(value, torch.Tensor) else value
