"""The NLL of targets without the (targets x vocabulary) matrix.

The trunk runs once, the head over chunks of its output. Memory is bounded whatever the vocabulary:
CHUNK_LOGITS logits stand in memory at a time.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from components.packing import IGNORED, flatten, inputs_of, labelled

CHUNK_LOGITS = 2**23  # 32 MiB in float32
SLICE_LOGITS = 2**19  # 2 MiB in float32: what a CPU sums while it is in cache


def lay_out(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Rows of at least two tokens as one sequence, without the last token of each, from which nothing is predicted.

    Returns:
        what packing.flatten makes, but with each label, and so each target, at the position that predicts it.
    """
    batch = flatten([{**row, "input_ids": row["input_ids"][:-1]} for row in rows])
    starts = [max(1, row["loss_start"]) for row in rows]
    labels = [[IGNORED] * (start - 1) + row["input_ids"][start:] for row, start in zip(rows, starts, strict=True)]
    return {**batch, **labelled(labels)}


@torch.inference_mode()
def chunked_nll(model: Any, batch: dict[str, Any]) -> Tensor:
    """Negative log-likelihood of each target token, in nats and float32.

    Each chunk goes through the model's own forward, whose trunk answers with what it computed once; so whatever an
    architecture does to its logits (scaling, soft caps) is done here too.

    Args:
        model: a causal language model whose forward takes position_ids and logits_to_keep.
        batch: what lay_out made.

    Returns:
        shape (targets,), in the order of the sequence.
    """
    labels, positions, inputs = batch["labels"][0], batch["targets"], inputs_of(batch)
    rows = max(1, CHUNK_LOGITS // model.get_output_embeddings().weight.shape[0])
    output = model.base_model(**inputs, use_cache=False)
    output["last_hidden_state"] = output["last_hidden_state"].to(labels.device)  # from the last GPU to the first
    with _computed_once(model.base_model, output):
        return torch.cat([_nll(model, inputs, chunk, labels[chunk]) for chunk in positions.split(rows)])


def _nll(model: Any, inputs: dict[str, Any], positions: Tensor, targets: Tensor) -> Tensor:
    logits = model(**inputs, logits_to_keep=positions, use_cache=False).logits[0]
    rows = max(1, SLICE_LOGITS // logits.shape[1]) if logits.device.type == "cpu" else len(logits)
    sums = torch.cat([part.float().logsumexp(dim=-1) for part in logits.split(rows)])
    nll: Tensor = sums - logits.gather(1, targets[:, None])[:, 0].float()
    return nll


@contextmanager
def _computed_once(trunk: Any, output: Any) -> Iterator[None]:
    """Inside, the trunk answers every call with an output that is there already."""
    own = vars(trunk).get("forward")  # what spreads a model over GPUs puts one there
    trunk.forward = lambda *_, **__: output
    try:
        yield
    finally:
        if own is None:
            del trunk.forward
        else:
            trunk.forward = own
