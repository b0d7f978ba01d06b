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

CHUNK_LOGITS = 1 << 23  # logits that exist at a time: 32 MiB of float32
TOLERANCE = 0.01  # relative; a layer whose logits are changed after it is off by far more


class SummedNLL(torch.autograd.Function):
    """Sum of the negative log-likelihoods of targets, with the gradients made on the way."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor) -> Tensor:
        """hidden (targets, size), weight (vocabulary, size), labels (targets,); gives a float32 scalar."""
        to_hidden, to_weight, to_bias, _ = ctx.needs_input_grad
        grads = [
            torch.empty_like(hidden) if to_hidden else None,
            # sums over chunks, so rounded once at the end
            torch.zeros_like(weight, dtype=torch.float32) if to_weight else None,
            torch.zeros_like(bias, dtype=torch.float32) if to_bias and bias is not None else None,
        ]
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        rows = max(1, CHUNK_LOGITS // len(weight))
        for start in range(0, len(hidden), rows):
            part, wanted = hidden[start : start + rows], labels[start : start + rows]
            logits = linear(part, weight, bias).float()
            highest = torch.logsumexp(logits, 1)
            total += (highest - logits.gather(1, wanted[:, None])[:, 0]).sum()
            if any(grad is not None for grad in grads):
                # softmax less one at the target: the loss's gradient
                error = logits.sub_(highest[:, None]).exp_()
                error[torch.arange(len(part), device=error.device), wanted] -= 1
                _add_gradients(grads, start, part, weight, error)
        ctx.save_for_backward(*(grad if grad is None else grad.to(weight.dtype) for grad in grads))
        return total

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients times the one from above, which is the same for every target."""
        return (*(None if grad is None else grad * upstream[0].to(grad.dtype) for grad in ctx.saved_tensors), None)


def _add_gradients(grads: list[Tensor | None], start: int, part: Tensor, weight: Tensor, error: Tensor) -> None:
    to_hidden, to_weight, to_bias = grads
    if to_bias is not None:
        to_bias += error.sum(0)
    error = error.to(weight.dtype)
    if to_hidden is not None:
        to_hidden[start : start + len(part)] = error @ weight
    if to_weight is not None and to_weight.dtype == weight.dtype:
        to_weight.addmm_(error.T, part)
    elif to_weight is not None:
        to_weight += error.T @ part


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
