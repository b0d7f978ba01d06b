"""Cross-entropy inside the output layer, in chunks, so that the (targets x vocabulary) matrix never exists.

The layer's logits serve nothing but the loss. So its forward is lent to a function that makes them for a few targets
at a time, turns them into loss and gradients at once, and lets go of them. The same idea is behind the fused linear
cross-entropy of Liger Kernel (Hsu et al. 2024, arXiv:2410.10989).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, linear

CHUNK_LOGITS = 1 << 25  # logits that exist at a time, in the weights' format: 64 MiB of bf16
SLICE_LOGITS = 1 << 23  # those of them that are float32 at a time: 32 MiB
TOLERANCE = 0.01  # relative; a layer whose logits are changed after it is off by far more


class SummedNLL(torch.autograd.Function):
    """Sum of the negative log-likelihoods of targets, with the gradients made on the way."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor) -> Tensor:
        """hidden (targets, size), weight (vocabulary, size), labels (targets,); gives a float32 scalar."""
        to_hidden, to_weight, to_bias, _ = ctx.needs_input_grad
        wanted = to_hidden or to_weight or to_bias
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        chunks = list(zip(*(torch.split(rows, _rows(CHUNK_LOGITS, weight)) for rows in (hidden, labels)), strict=True))
        of_hidden = torch.empty_like(hidden) if to_hidden else None
        of_weight = Sum(weight, len(chunks)) if to_weight else None
        of_bias = Sum(bias, len(chunks)) if bias is not None and to_bias else None
        done = 0
        for part, targets in chunks:
            logits = linear(part, weight, bias)
            total += _nll(logits, targets, error=wanted)
            if of_bias is not None:
                of_bias.add(logits.sum(0, dtype=torch.float32))
            if of_hidden is not None:
                torch.mm(logits, weight, out=of_hidden[done : done + len(part)])
            if of_weight is not None:
                of_weight.add_product(logits.T, part)
            done += len(part)
        ctx.save_for_backward(of_hidden, *(None if sum is None else sum.value() for sum in (of_weight, of_bias)))
        return total

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients times the one from above, which is the same for every target."""
        # in place, because the largest is as large as the layer
        return (*(None if grad is None else grad.mul_(upstream[0]) for grad in ctx.saved_tensors), None)


class Sum:
    """A gradient that chunks add up to: in float32 and rounded once, and without a sum where one chunk is all."""

    def __init__(self, weight: Tensor, chunks: int) -> None:
        self._dtype = weight.dtype
        self._total = torch.zeros_like(weight, dtype=torch.float32) if chunks > 1 else None

    def add(self, part: Tensor) -> None:
        """Adds what a chunk gives."""
        self._total = part if self._total is None else self._total.add_(part)

    def add_product(self, left: Tensor, right: Tensor) -> None:
        """Adds left @ right."""
        if self._total is not None and self._total.dtype == right.dtype:
            self._total.addmm_(left, right)
        else:
            self.add(left @ right)

    def value(self) -> Tensor | None:
        """The sum, in the weight's format."""
        return None if self._total is None else self._total.to(self._dtype)


def _rows(logits: int, weight: Tensor) -> int:
    return max(1, logits // len(weight))


def _nll(logits: Tensor, targets: Tensor, *, error: bool) -> Tensor:
    """The summed loss of logits; on request puts its gradient, softmax less one at the target, in their place."""
    rows = _rows(SLICE_LOGITS, logits.T)
    total = torch.zeros((), dtype=torch.float32, device=logits.device)
    for piece, wanted in zip(torch.split(logits, rows), torch.split(targets, rows), strict=True):
        values = torch.log_softmax(piece, 1, dtype=torch.float32)
        total -= values.gather(1, wanted[:, None]).sum()
        if error:
            values.exp_()
            values[torch.arange(len(wanted), device=values.device), wanted] -= 1
            piece.copy_(values)
    return total


@contextmanager
def loss_in_head(head: Any, labels: Tensor) -> Iterator[None]:
    """Inside, an output layer gives the summed loss of labels in place of logits."""

    def forward(hidden: Tensor) -> Tensor:
        return SummedNLL.apply(hidden[0], head.weight, head.bias, labels)  # type: ignore[no-untyped-call,no-any-return]

    head.forward = forward
    try:
        yield
    finally:
        del head.forward  # the class's own again


def can_hold_loss(model: Any, inputs: dict[str, Any], targets: Tensor, labels: Tensor) -> bool:
    """Whether a model's logits are its output layer's and nothing else: no cap, no scale, no adapter around it.

    Tried out on a batch rather than read from configurations, of which each model family has its own.
    """
    head = getattr(model, "module", model).get_output_embeddings()
    if type(head) is not torch.nn.Linear or not len(labels):
        return False
    # tokens that no model expects, so that the loss is far above any cap
    labels = (labels + head.out_features // 2) % head.out_features
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            logits = model(**inputs, logits_to_keep=targets, use_cache=False).logits[0]
            plain = cross_entropy(logits.float(), labels, reduction="sum")
            with loss_in_head(head, labels):
                held = model(**inputs, logits_to_keep=targets, use_cache=False).logits
    except (IndexError, RuntimeError, TypeError, ValueError):  # what comes after the layer does not expect a loss
        return False
    finally:
        model.train(training)
    return held.dim() == 0 and bool((held - plain).abs() <= TOLERANCE * plain.abs())
