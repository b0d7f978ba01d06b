"""From scores to what evaluation.json says: figures with intervals, groups of records, the worst ones."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from components.perplexity import Scores, bootstrap, interval

GROUPINGS = ("category", "source", "length")
WORST = 20


def compare(scores: dict[str, Scores]) -> dict[str, Any]:
    """Figures of each model on the same records or documents, and of tuned against each other one.

    Returns:
        models: the figures by model, with perplexity_interval; tuned_minus: the interval of the paired difference in
        perplexity by other model; tuned_over: the ratio of bits per byte with its paired interval, likewise.
        Intervals are None where there are fewer than two records, or an end is more than float64 can hold; a ratio is
        None where the other model is certain of every token, as one may be of a few learnt answers, and tuned is not.
    """
    draws = dict(zip(scores, bootstrap(list(scores.values())), strict=True))
    several = len(next(iter(scores.values())).nll) > 1
    others = [name for name in scores if name != "tuned"]

    def between(values: np.ndarray) -> list[float] | None:
        with np.errstate(invalid="ignore"):
            ends = interval(values) if several else None
        return ends if ends and np.isfinite(ends).all() else None

    # a model that diverged has perplexities beyond float64, and one that is certain of every token has no NLL
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        perplexities = {name: np.exp(drawn.nll / drawn.tokens) for name, drawn in draws.items()}
        minus = {name: perplexities["tuned"] - perplexities[name] for name in others}
        over = {name: draws["tuned"].nll / draws[name].nll for name in others}

    return {
        "models": {
            name: {**scored.figures(), "perplexity_interval": between(perplexities[name])}
            for name, scored in scores.items()
        },
        "tuned_minus": {name: between(minus[name]) for name in others},
        "tuned_over": {
            # the bytes are the same for both, so the ratio of bits per byte is that of the NLLs
            name: {
                "bits_per_byte_ratio": _ratio(float(scores["tuned"].nll.sum()), float(scores[name].nll.sum())),
                "interval": between(over[name]),
            }
            for name in others
        },
    }


def length_bucket(tokens: int) -> str:
    """Where a record of this many tokens belongs: `0001-0063`, `0064-0127`, … doubling; sorted as text, by length."""
    low, high = 1, 63
    while tokens > high:
        low, high = high + 1, 2 * high + 1
    return f"{low:04d}-{high:04d}"


def grouped(scores: dict[str, Scores], labels: dict[str, list[str]]) -> dict[str, dict[str, Any]]:
    """The comparison within each category, source and length bucket, with the number of records.

    Args:
        labels: for each grouping, each record's group.
    """
    found: dict[str, dict[str, Any]] = {}
    for grouping, groups in labels.items():
        found[grouping] = {}
        for group in sorted(set(groups)):
            chosen = np.array([other == group for other in groups])
            parts = {name: scored.select(chosen) for name, scored in scores.items()}
            found[grouping][group] = {"records": int(chosen.sum()), **compare(parts)}
    return found


def worst(scores: dict[str, Scores], ids: Sequence[str], labels: dict[str, list[str]]) -> list[dict[str, Any]]:
    """The records that the tuned model expects least, by its NLL per target token; worst first."""
    return [
        {
            "id": ids[index],
            **{grouping: groups[index] for grouping, groups in labels.items()},
            "target_tokens": int(scores["tuned"].tokens[index]),
            "perplexity": {
                name: scored.select(np.array([index])).figures()["perplexity"] for name, scored in scores.items()
            },
        }
        for index in _order(scores["tuned"])[:WORST]
    ]


def errors(scores: dict[str, Scores], ids: Sequence[str], labels: dict[str, list[str]]) -> dict[str, Any]:
    """Where to collect more data: the groups that the tuned model does worst on, each with its worst records.

    Returns:
        for each grouping, groups sorted by the tuned model's NLL per target token, highest first. `share_of_nll`
        above `share_of_tokens` says that a group costs more than its size; `gain` is what tuning brought there, in
        nats a target token.
    """
    return {grouping: _worst_groups(scores, ids, groups) for grouping, groups in labels.items()}


def _worst_groups(scores: dict[str, Scores], ids: Sequence[str], groups: list[str]) -> list[dict[str, Any]]:
    tuned, base = scores["tuned"], scores["base"]
    order = _order(tuned)
    found = []
    for group in sorted(set(groups)):
        chosen = np.array([other == group for other in groups])
        part, before = tuned.select(chosen), base.select(chosen)
        found.append(
            {
                "group": group,
                "records": int(chosen.sum()),
                "nll_per_token": float(part.nll.sum() / part.tokens.sum()),
                "gain": float((before.nll.sum() - part.nll.sum()) / part.tokens.sum()),
                "share_of_nll": float(part.nll.sum() / (tuned.nll.sum() or 1)),
                "share_of_tokens": float(part.tokens.sum() / tuned.tokens.sum()),
                "worst": [ids[index] for index in order if chosen[index]][:WORST],
            }
        )
    return sorted(found, key=lambda entry: (-entry["nll_per_token"], entry["group"]))


def _ratio(tuned: float, other: float) -> float | None:
    if other:
        return tuned / other
    return None if tuned else 1.0


def _order(scores: Scores) -> list[int]:
    return [int(index) for index in np.argsort(-scores.nll / scores.tokens, kind="stable")]
