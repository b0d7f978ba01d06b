"""Decides by rules whether the tuned model may be registered: better than the base model, not behind the champion."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from components.errors import ParameterError, PipelineError
from components.gate.judge import judge
from components.records import read_json, write_json
from components.rules import load_rules
from components.sources import Pinned, fetch

ACCEPTED, REJECTED = "accepted", "rejected"
ON_REJECT = ("continue", "fail")
SHIPPED = Path(__file__).with_name("rules.yaml")


def gate(
    *,
    evaluation: Path,
    rules: str = "",
    rules_digest: str = "",
    min_improvement: float = 0.0,
    max_regression: float = 0.01,
    verdict: Path,
    panel: Path,
) -> dict[str, Any]:
    """Judges the tuned model by each rule, and writes the verdict with its reasons.

    Args:
        evaluation: The figures that evaluate wrote.
        rules: A YAML file of rules, by path or URI; empty: components/gate/rules.yaml.
        rules_digest: What resolve found for it.
        min_improvement: For rules that say `parameter`: the share by which bits per byte must fall, at worst.
        max_regression: For rules that say `parameter`: the share by which bits per byte may rise, at worst.
        verdict: Where to write the verdict (JSON).
        panel: Where to write it for people (Markdown).

    Raises:
        ParameterError: a share outside [0, 1), or rules that cannot be judged by.
    """
    shares = {"min_improvement": min_improvement, "max_regression": max_regression}
    for name, share in shares.items():
        if not 0 <= share < 1:
            raise ParameterError(f"{name}={share:g} must be a share from 0 to below 1")
    figures = {"tasks": {}, **read_json(evaluation)}  # figures from before there were tasks can still be judged
    path = fetch(Pinned(uri=rules, digest=rules_digest), "rules") if rules else SHIPPED
    judged = [
        found
        for rule in load_rules(path, figures["corpora"], figures["tasks"])
        for found in judge(rule, figures, shares)
    ]
    decision: dict[str, Any] = {
        "verdict": REJECTED if any(found.passed is False for found in judged) else ACCEPTED,
        "reasons": [found.reason for found in judged if found.passed is not None],
        "rules": [asdict(found) for found in judged],
    }
    write_json(verdict, decision)
    panel.parent.mkdir(parents=True, exist_ok=True)
    panel.write_text(markdown(decision), encoding="utf-8")
    print(f"gate: {decision['verdict']}; " + "; ".join(decision["reasons"]))
    return decision


def enforce(verdict: Path) -> None:
    """Raises PipelineError when the verdict is to reject: for users who want a run to fail then."""
    decision = read_json(verdict)
    if decision["verdict"] != ACCEPTED:
        failed = [rule["reason"] for rule in decision["rules"] if rule["passed"] is False]
        raise PipelineError(f"on_reject=fail: the gate rejected the model; {'; '.join(failed)}")


def markdown(decision: dict[str, Any]) -> str:
    """The verdict as a table: a line a rule."""
    lines = [
        f"# Model {decision['verdict']}",
        "",
        "| rule | data | met | tuned | other | change (95 %) | limit |",
        "|---|---|---|---|---|---|---|",
        *(_line(rule) for rule in decision["rules"]),
        "",
        *(f"- {rule['reason']}" for rule in decision["rules"]),
    ]
    return "\n".join(lines) + "\n"


def _line(rule: dict[str, Any]) -> str:
    met = {True: "yes", False: "**no**", None: "not judged"}[rule["passed"]]
    change = "" if rule["change"] is None else f"{rule['change']:+.1%}"
    if rule["interval"]:
        change += f" ({rule['interval'][0]:+.1%} to {rule['interval'][1]:+.1%})"
    limit = "" if rule["passed"] is None else f"{rule['limit']:+.1%}" if rule["against"] else f"{rule['limit']:.4g}"
    other = f"{rule['against']} {_number(rule['other'])}".strip()
    name = rule["rule"].replace("|", "\\|").replace("\n", " ")
    value = f"{rule['metric']} {_number(rule['value'])}"
    return f"| {name} | {rule['data']} | {met} | {value} | {other} | {change} | {limit} |"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"
