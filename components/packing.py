"""Token rows laid end to end in one sequence, and the loss over their targets alone.

Rows are never padded. Positions restart at each row and attention stays inside it, so a row's loss is what it is
alone; logits are computed only where there is a target. Training and evaluation share this, so they mean the same.
"""

from collections.abc import Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, scaled_dot_product_attention

from components.errors import ModelError
from components.head import can_hold_loss, loss_in_head

IGNORED = -100
ATTENTION = "rows"
SHORT = 128  # tokens
# In transformers 5.23 these hand their sliding window on to the attention function; of others, some only mask it.
HAND_ON_WINDOW = (
    *("cohere2", "cohere2_moe", "cwm", "dots1", "exaone4", "exaone_moe", "gemma3_text", "gemma4_text", "ministral"),
    *("ministral3", "mistral", "mixtral", "olmo3", "phi3", "qwen2", "qwen3", "qwen3_moe", "smollm3", "starcoder2"),
)
CHANGES_SCORES = ("softcap", "s_aux", "position_bias")  # what transformers passes for soft caps, sinks and biases
HOLDS_LOSS = "_private_llm_holds_loss"  # on a model: whether its output layer can be lent to the loss


def flatten(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Rows of the tokens contract as one sequence; no rows at all give one token that is no target.

    Returns:
        input_ids, position_ids and labels, each of shape (1, total tokens), labels IGNORED before loss_start; targets,
        the places of the labels that count; and row_lengths, which attend_rows needs.
    """
    ids = [row["input_ids"] for row in rows] or [[0]]
    starts = [max(1, row["loss_start"]) for row in rows] or [1]  # nothing predicts a first token
    labels = [[IGNORED] * start + row[start:] for row, start in zip(ids, starts, strict=True)]
    return {
        "input_ids": torch.tensor([[*chain.from_iterable(ids)]]),
        "position_ids": torch.cat([torch.arange(len(row)) for row in ids])[None],
        "row_lengths": [len(row) for row in ids],
        **labelled(labels),
    }


def labelled(rows: list[list[int]]) -> dict[str, Tensor]:
    """Rows of labels end to end, and which of them count: found here, because on a GPU one would wait for that."""
    labels = torch.tensor([[*chain.from_iterable(rows)]])
    return {"labels": labels, "targets": (labels[0] != IGNORED).nonzero()[:, 0]}


def inputs_of(batch: dict[str, Any]) -> dict[str, Any]:
    """What a model's forward takes of a batch."""
    return {name: value for name, value in batch.items() if name not in ("labels", "targets")}


def target_nll(model: Any, batch: dict[str, Any]) -> Tensor:
    """Negative log-likelihood of each target token, in nats and float32, in the order of the sequence.

    Args:
        model: a causal language model whose forward takes position_ids and logits_to_keep.
        batch: what flatten made.

    Returns:
        shape (targets,), with the graph to the model's parameters.
    """
    labels, targets = batch["labels"][0], batch["targets"]
    logits = model(**inputs_of(batch), logits_to_keep=targets - 1, use_cache=False).logits[0]
    return cross_entropy(logits.float(), labels[targets], reduction="none")


def summed_nll(model: Any, batch: dict[str, Any]) -> Tensor:
    """The sum of target_nll, without the (targets x vocabulary) matrix where the model's output layer allows it.

    Args:
        model: as for target_nll, or DeepSpeed's engine around one.
        batch: what flatten made.

    Returns:
        a float32 scalar, with the graph to the model's parameters.
    """
    labels, targets = batch["labels"][0], batch["targets"]
    module = getattr(model, "module", model)
    if not hasattr(module, HOLDS_LOSS) and len(targets):
        try_loss(model, batch)
    if not getattr(module, HOLDS_LOSS, False):
        return target_nll(model, batch).sum()
    with loss_in_head(module.get_output_embeddings(), labels[targets]):
        total: Tensor = model(**inputs_of(batch), logits_to_keep=targets - 1, use_cache=False).logits
    return total


def try_loss(model: Any, batch: dict[str, Any]) -> None:
    """Finds out on a batch whether a model's output layer can be lent to the loss.

    Ranks among which ZeRO-3 divides the weights try it together, on the same batch: each pass is one for all of them.
    """
    labels, targets = batch["labels"][0], batch["targets"]
    holds = can_hold_loss(model, inputs_of(batch), targets - 1, labels[targets])
    setattr(getattr(model, "module", model), HOLDS_LOSS, holds)


def attention_for(config: Any) -> str:
    """The attention implementation that keeps packed rows apart at the least cost for a model's configuration.

    Ours calls the causal kernel row by row, so its cost is the sum of the rows' squares, or of their lengths times a
    sliding window's. Models that need more (soft-capped scores, a window that only a mask knows) get a mask over the
    whole sequence instead.
    """
    text = config.get_text_config()  # of a model that also sees, what it reads by
    special = ["attn_logit_softcapping", "attention_chunk_size"]
    if text.model_type not in HAND_ON_WINDOW:
        special.append("sliding_window")
    return "eager" if any(getattr(text, name, None) for name in special) else ATTENTION


def attend_rows(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: None,  # noqa: ARG001  # part of the interface
    *,
    row_lengths: list[int],
    **options: Any,
) -> tuple[Tensor, None]:
    """Causal attention inside each row of a packed sequence.

    Args:
        query, key, value: shape (1, heads, tokens, head size); key and value may have fewer heads.
        row_lengths: the rows' numbers of tokens, in their order.
        options: scaling, dropout and sliding_window, as transformers passes them.

    Returns:
        shape (1, tokens, heads, head size).

    Raises:
        ModelError: the model asks for scores that this does not make.
    """
    if other := next((name for name in CHANGES_SCORES if options.get(name) is not None), None):
        raise ModelError(f"base_model: its attention needs {other}, which packed rows do not have; use another model")
    scale, dropout = options.get("scaling"), options.get("dropout", 0.0) if module.training else 0.0
    grouped = query.shape[1] != key.shape[1]
    settings: dict[str, Any] = {"scale": scale, "dropout_p": dropout, "enable_gqa": grouped}
    window = options.get("sliding_window") or max(row_lengths)
    # On a CPU, torch goes back through short rows of bf16 twice as fast in float32.
    widened = query.device.type == "cpu" and query.dtype == torch.bfloat16 and query.requires_grad
    rows = []
    for qkv in zip(*(torch.split(tensor, row_lengths, 2) for tensor in (query, key, value)), strict=True):
        q, k, v = (part.float() for part in qkv) if widened and qkv[0].shape[2] <= SHORT else qkv
        if q.shape[2] <= window:
            row = scaled_dot_product_attention(q, k, v, is_causal=True, **settings)
        else:
            row = _attend_window(q, k, v, window, settings)
        rows.append(row.to(query.dtype).transpose(1, 2))
    return torch.cat(rows, dim=1), None


def _attend_window(query: Tensor, key: Tensor, value: Tensor, window: int, settings: dict[str, Any]) -> Tensor:
    """Attention of each token of a row to the last `window` tokens, itself among them; as many queries at a time."""
    length, parts = query.shape[2], []
    places = torch.arange(length, device=query.device)
    for start in range(0, length, window):
        end, first = min(start + window, length), max(0, start - window + 1)
        back = places[start:end, None] - places[first:end]
        parts.append(
            scaled_dot_product_attention(
                query[:, :, start:end],
                key[:, :, first:end],
                value[:, :, first:end],
                attn_mask=(back >= 0) & (back < window),
                **settings,
            )
        )
    return torch.cat(parts, dim=2)


def register_attention() -> None:
    """Makes `attn_implementation="rows"` known to transformers.

    No mask is registered with it: then transformers makes none, and does not look for packed rows in the positions,
    for which a GPU would be waited for.
    """
    from transformers import AttentionInterface

    AttentionInterface.register(ATTENTION, attend_rows)
