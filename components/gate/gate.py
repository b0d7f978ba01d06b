"""Decides whether the tuned model may be registered: it must beat the base model and not fall behind the champion."""

from pathlib import Path
from typing import Any

from components.errors import ParameterError
from components.records import read_json, write_json

ACCEPTED, REJECTED = "accepted", "rejected"


def gate(
    *, evaluation: Path, min_improvement: float = 0.0, max_regression: float = 0.0, verdict: Path
) -> dict[str, Any]:
    """Compares the tuned model with the base model and the champion, and writes the verdict with its reasons.

    Args:
        evaluation: The figures that evaluate wrote.
        min_improvement: The share by which the tuned model's bits per byte must be below the base model's, at least.
        max_regression: The share by which its bits per byte may be above the champion's, at most.
        verdict: Where to write the verdict (JSON).

    Raises:
        ParameterError: a share outside [0, 1).
    """
    for name, share in (("min_improvement", min_improvement), ("max_regression", max_regression)):
        if not 0 <= share < 1:
            raise ParameterError(f"{name}={share:g} must be a share from 0 to below 1")
    models = read_json(evaluation)["models"]
    tuned, base, champion = (models.get(name) for name in ("tuned", "base", "champion"))
    limit = base["bits_per_byte"] * (1 - min_improvement)
    rules = [
        _rule(
            "improves on the base model",
            tuned["bits_per_byte"],
            "<",
            limit,
            f"base {base['bits_per_byte']:.4f} less {min_improvement:.1%}",
        ),
    ]
    if champion:
        limit = champion["bits_per_byte"] * (1 + max_regression)
        reason = f"champion {champion['bits_per_byte']:.4f} plus {max_regression:.1%}"
        rules.append(_rule("does not fall behind the champion", tuned["bits_per_byte"], "<=", limit, reason))
    decision = {
        "verdict": ACCEPTED if all(rule["passed"] for rule in rules) else REJECTED,
        "reasons": [rule["reason"] for rule in rules],
        "rules": rules,
    }
    write_json(verdict, decision)
    print(f"gate: {decision['verdict']}; " + "; ".join(decision["reasons"]))
    return decision


def _rule(name: str, value: float, sign: str, limit: float, origin: str) -> dict[str, Any]:
    passed = value < limit if sign == "<" else value <= limit
    outcome = name if passed else name.replace("improves", "does not improve").replace("does not fall", "falls")
    reason = f"{outcome}: {value:.4f} bits per byte, must be {sign} {limit:.4f} ({origin})"
    return {"rule": name, "passed": passed, "value": value, "limit": limit, "reason": reason}
