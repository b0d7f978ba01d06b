"""One rule against the figures of evaluate: passed or not, with the numbers, and what would have passed."""

import math
from dataclasses import dataclass, replace
from typing import Any

from components.errors import ParameterError
from components.rules import PARAMETER, Rule


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """What became of a rule in one place: on the records, on one text, on one task, on the answers."""

    rule: str
    data: str
    against: str
    metric: str
    passed: bool | None  # None: there was nothing to judge
    value: float | None  # the tuned model's figure
    other: float | None  # that of the model it is compared with
    change: float | None  # how much the figure is above the other's, as a share
    interval: list[float] | None  # the paired 95 % interval of the change
    limit: float
    would_pass: str  # for a rule that failed: the loosest setting that it would have met
    reason: str


def judge(rule: Rule, evaluation: dict[str, Any], shares: dict[str, float]) -> list[Judgement]:
    """A rule's judgements, one a place; one that says why where there is nothing to judge.

    Args:
        evaluation: what evaluate wrote.
        shares: the run's min_improvement and max_regression.
    """
    if rule.against and rule.against not in evaluation["models"]:
        return [_nothing(rule, f"there is no {rule.against}")]
    if rule.data == "generation":
        models = evaluation["generation"]["models"]
        return [_limited(rule, "answers", models["tuned"])] if models else [_nothing(rule, "there are no answers")]
    if rule.data == "tasks" or rule.data in evaluation["tasks"]:
        return _on_tasks(rule, evaluation["tasks"], shares)
    if rule.data == "records":
        places = {"records": evaluation}
    else:
        places = {name: part for name, part in evaluation["corpora"].items() if rule.data in ("corpora", name)}
    if not places:
        return [_nothing(rule, "there are no texts")]
    return [
        _compared(rule, place, part, shares) if rule.against else _limited(rule, place, part["models"]["tuned"])
        for place, part in places.items()
    ]


def _on_tasks(rule: Rule, tasks: dict[str, Any], shares: dict[str, float]) -> list[Judgement]:
    """On the named task, or on each task that has the metric."""
    places = {name: metrics for name, metrics in tasks.items() if rule.data in ("tasks", name)}
    found = {name: metrics[rule.metric] for name, metrics in places.items() if rule.metric in metrics}
    if not places:
        return [_nothing(rule, "there are no tasks")]
    if not found:
        has = ", ".join(sorted({metric for metrics in places.values() for metric in metrics}))
        raise ParameterError(f"gate_rules: rule {rule.rule!r}: no task has the metric {rule.metric!r}, only {has}")
    return [
        _task_compared(rule, name, part, shares)
        if rule.against
        else _limited(rule, name, {rule.metric: part["models"]["tuned"]["value"]})
        for name, part in found.items()
    ]


def _compared(rule: Rule, place: str, part: dict[str, Any], shares: dict[str, float]) -> Judgement:
    """Bits per byte on records or a text."""
    tuned, other = (part["models"][name]["bits_per_byte"] for name in ("tuned", rule.against))
    over = part["tuned_over"][rule.against]
    if over["bits_per_byte_ratio"] is None:
        why = f"{rule.against} is certain of every token there, and tuned is not"
        return replace(
            _nothing(rule, why, place), passed=False, value=tuned, other=other, reason=f"{rule.rule}: no: {why}"
        )
    return _against(rule, place, shares, "bits_per_byte", (tuned, other), over["bits_per_byte_ratio"], over["interval"])


def _task_compared(rule: Rule, place: str, part: dict[str, Any], shares: dict[str, float]) -> Judgement:
    """A task's metric; changes are shares of the other model's figure, as everywhere."""
    tuned, other = (part["models"][name]["value"] for name in ("tuned", rule.against))
    found = part["tuned_minus"][rule.against]
    if not other:
        return _nothing(rule, f"{rule.metric} of {rule.against} is 0, of which there are no shares", place)
    interval = found["interval"] and sorted(1 + end / other for end in found["interval"])
    higher = part["higher_is_better"] == (other > 0)
    return _against(rule, place, shares, rule.metric, (tuned, other), tuned / other, interval, higher=higher)


def _against(
    rule: Rule,
    place: str,
    shares: dict[str, float],
    metric: str,
    values: tuple[float, float],
    ratio: float,
    interval: list[float] | None,
    *,
    higher: bool = False,
) -> Judgement:
    """By the worse end of the paired interval; by the ratio itself where there is no interval (a single document).

    Args:
        values: tuned's figure and the other's.
        ratio: tuned's over the other's.
        higher: whether more is better.
    """
    worst = interval[0 if higher else 1] if interval else ratio
    asked = getattr(rule, rule.kind)
    share = shares[rule.kind] if asked == PARAMETER else asked
    improve = rule.kind == "min_improvement"
    loss = 2 - worst if higher else worst
    passed = loss < 1 - share if improve else loss <= 1 + share
    limit = (share if improve == higher else -share) or 0.0
    bound = ("above" if higher else "below") if improve else ("at least" if higher else "at most")
    would_pass = "" if passed else _would_pass(rule.kind, loss)
    at_worst = f", at worst {worst - 1:+.1%}" if interval else ""
    tuned, other = values
    return Judgement(
        rule=rule.rule,
        data=place,
        against=rule.against,
        metric=metric,
        passed=passed,
        value=tuned,
        other=other,
        change=ratio - 1,
        interval=[end - 1 for end in interval] if interval else None,
        limit=limit,
        would_pass=would_pass,
        reason=(
            f"{_outcome(rule, place, passed)}: {tuned:.4f} {metric.replace('_', ' ')} against {other:.4f} of "
            f"{rule.against}, {ratio - 1:+.1%}{at_worst}; must be {bound} {limit:+.1%}"
            + (f"; {would_pass}" if would_pass else "")
        ),
    )


def _limited(rule: Rule, place: str, figures: dict[str, Any]) -> Judgement:
    value, limit = figures[rule.metric], float(getattr(rule, rule.kind))
    least = rule.kind == "at_least"
    reached = math.inf if value is None else value  # a perplexity that no number can hold
    passed = reached >= limit if least else reached <= limit
    would_pass = "" if passed or value is None else f"{rule.kind}: {value:.4g} would have passed"
    shown = "too large to say" if value is None else f"{value:.4g}"
    return Judgement(
        rule=rule.rule,
        data=place,
        against="",
        metric=rule.metric,
        passed=passed,
        value=value,
        other=None,
        change=None,
        interval=None,
        limit=limit,
        would_pass=would_pass,
        reason=(
            f"{_outcome(rule, place, passed)}: {rule.metric} {shown}, must be at {'least' if least else 'most'} "
            f"{limit:.4g}" + (f"; {would_pass}" if would_pass else "")
        ),
    )


def _outcome(rule: Rule, place: str, passed: bool) -> str:
    where = "" if place == "records" else f" ({place})"
    return f"{rule.rule}{where}: {'yes' if passed else 'no'}"


def _would_pass(kind: str, worst: float) -> str:
    """The loosest share that the worse end would have met, rounded to the safe side."""
    if kind == "max_regression":
        share = math.ceil((worst - 1) * 1e4) / 1e4
        return f"max_regression: {share:g} would have passed" if share < 1 else "no max_regression would have passed"
    share = math.ceil((1 - worst) * 1e4) / 1e4 - 1e-4
    return f"min_improvement: {share:.4g} would have passed" if share >= 0 else "no min_improvement would have passed"


def _nothing(rule: Rule, why: str, place: str = "") -> Judgement:
    return Judgement(
        rule=rule.rule,
        data=place or rule.data,
        against=rule.against,
        metric=rule.metric or "bits_per_byte",
        passed=None,
        value=None,
        other=None,
        change=None,
        interval=None,
        limit=0.0,
        would_pass="",
        reason=f"{rule.rule}: not judged, {why}",
    )
