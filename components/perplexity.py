"""The one exact perplexity: exp of the sum of NLL over target tokens over their number.

Sums are kept per record or document in float64, so that figures by group and bootstrap intervals come from the same
pass.
"""

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from components import progress
from components.chunks import chunked_nll, lay_out
from components.errors import PipelineError
from components.ranks import rank, ranks, total

FORWARD_TOKENS = 2048  # a forward pass takes no more, unless one row alone is longer; on a CPU its layers stay in cache
NAMED = 5  # ids that an error lists


@dataclass(frozen=True, kw_only=True)
class Scores:
    """What a model gave each record or document: arrays of one length, in their order."""

    nll: np.ndarray  # nats, summed over the targets, float64
    tokens: np.ndarray  # target tokens, int64
    bytes: np.ndarray  # UTF-8 bytes of the text that the targets spell, int64
    words: np.ndarray  # its words, int64

    def select(self, chosen: np.ndarray) -> "Scores":
        """The scores of some of them."""
        return Scores(
            nll=self.nll[chosen], tokens=self.tokens[chosen], bytes=self.bytes[chosen], words=self.words[chosen]
        )

    @property
    def perplexity(self) -> float:
        """exp(total NLL / total target tokens)."""
        return math.exp(self.nll.sum() / self.tokens.sum())

    @property
    def bits_per_byte(self) -> float:
        """Total NLL in bits over the text's bytes: comparable between tokenizers."""
        return float(self.nll.sum() / math.log(2) / self.bytes.sum())

    def figures(self) -> dict[str, Any]:
        """All of them under the field's names; a perplexity that no float64 can hold is None."""
        nll = float(self.nll.sum())
        return {
            "perplexity": _exp(nll, self.tokens),
            "word_perplexity": _exp(nll, self.words),
            "byte_perplexity": _exp(nll, self.bytes),
            "bits_per_byte": self.bits_per_byte,
            "target_tokens": int(self.tokens.sum()),
            "nll": nll,
        }


def count_words(text: str) -> int:
    """A text's words as lm-evaluation-harness counts them: the pieces between runs of white space."""
    return len(re.split(r"\s+", text))


def score(model: Any, rows: Sequence[dict[str, Any]], *, batch_size: int, description: str = "evaluate") -> Scores:
    """Scores token rows.

    Args:
        model: a causal language model, loaded by components.models.
        rows: rows of the tokens contract; `target_words`, where they have it, gives the words.
        batch_size: rows a forward pass takes at most; it changes the speed, not the result.

    Raises:
        PipelineError: a loss is not finite; with the records' ids.
    """
    return Scores(
        nll=row_nll(model, rows, batch_size=batch_size, description=description, unit="records"),
        tokens=np.array([_targets(row) for row in rows], dtype=np.int64),
        bytes=np.array([row["target_bytes"] for row in rows], dtype=np.int64),
        words=np.array([row.get("target_words", 0) for row in rows], dtype=np.int64),
    )


@torch.inference_mode()
def row_nll(model: Any, rows: Sequence[dict[str, Any]], *, batch_size: int, description: str, unit: str) -> np.ndarray:
    """Each row's NLL in nats, float64: log-probabilities of its targets in float32, summed in float64.

    Args:
        rows: with id, input_ids and loss_start; the id is for errors alone.
        unit: what the progress bar counts.

    Raises:
        PipelineError: a loss is not finite; with the rows' ids.
    """
    model.eval()
    device = next(model.parameters()).device
    nll = np.zeros(len(rows))
    mine = list(_batches(rows, batch_size))[rank() :: ranks()]
    with progress.bar(description, sum(map(len, mine)), unit) as bar:
        for chosen in mine:
            batch = [rows[index] for index in chosen]
            inputs = {name: _to(value, device) for name, value in lay_out(batch).items()}
            values = chunked_nll(model, inputs).double().cpu().numpy()
            borders = np.cumsum([_targets(row) for row in batch])[:-1]
            nll[chosen] = [part.sum() for part in np.split(values, borders)]
            bar.update(len(chosen))
    nll = total(nll)
    _check_finite(nll, rows, unit)
    return nll


def bootstrap(models: Sequence[Scores], *, samples: int = 1000, seed: int = 0) -> list[Scores]:
    """Sums of each model's scores over records drawn with replacement, the same draws for all models.

    Returns:
        for each model, arrays with a sum a draw; so figures of the same draw are paired.
    """
    generator = np.random.default_rng(seed)
    count = len(models[0].nll)
    columns = np.stack([column for scores in models for column in vars(scores).values()], axis=1).astype(np.float64)
    sums = np.empty((samples, columns.shape[1]))
    for draw in range(samples):
        sums[draw] = np.bincount(generator.integers(count, size=count), minlength=count) @ columns
    parts = sums.T.reshape(len(models), -1, samples)
    return [Scores(**dict(zip(vars(models[0]), part, strict=True))) for part in parts]


def interval(values: np.ndarray) -> list[float]:
    """The central 95 % of bootstrap values."""
    low, high = np.quantile(values, [0.025, 0.975])
    return [float(low), float(high)]


def _exp(nll: float, counts: np.ndarray) -> float | None:
    total = counts.sum()
    try:
        return math.exp(nll / total) if total else None
    except OverflowError:
        return None


def _targets(row: dict[str, Any]) -> int:
    return len(row["input_ids"]) - max(1, int(row["loss_start"]))


def _check_finite(nll: np.ndarray, rows: Sequence[dict[str, Any]], unit: str) -> None:
    bad = np.flatnonzero(~np.isfinite(nll))
    if len(bad):
        named = ", ".join(f"{rows[index]['id']} ({nll[index]})" for index in bad[:NAMED])
        raise PipelineError(
            f"the loss of {len(bad)} of {len(nll)} {unit} is not finite: {named}{', …' if len(bad) > NAMED else ''}"
        )


def _batches(rows: Sequence[dict[str, Any]], batch_size: int) -> Iterator[list[int]]:
    """Row numbers, rows of like length together; a row of one token has nothing to score."""
    lengths = [len(row["input_ids"]) for row in rows]
    order = sorted((length, index) for index, length in enumerate(lengths) if length > 1)
    batch: list[int] = []
    tokens = 0
    for length, index in order:
        if batch and (len(batch) == batch_size or tokens + length > FORWARD_TOKENS):
            yield batch
            batch, tokens = [], 0
        batch.append(index)
        tokens += length
    if batch:
        yield batch


def _to(value: Any, device: torch.device) -> Any:
    return value.to(device) if isinstance(value, torch.Tensor) else value
