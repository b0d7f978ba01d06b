"""The gate's rules: what resolve checks in the first minute, and gate judges by hours later.

A rule compares the tuned model with another one by a share of bits per byte or of a task's metric, or limits a figure
of the tuned model:

    - rule: as good as the champion
      against: champion           # base or champion
      data: records                 # the test records (default), corpora (each text), or a text by its name
      max_regression: 0.01        # or min_improvement; or `parameter`: the run's parameter of that name

    - rule: still reads
      against: base
      data: boolq                 # a task by its name, or tasks (each one); then with a metric
      metric: acc
      max_regression: 0.05

    - rule: it stops
      data: generation              # or records, corpora, a text, tasks, a task
      metric: stop_rate
      at_least: 0.9               # or at_most
"""

import math
from collections.abc import Collection
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from components.errors import ParameterError
from components.yaml_text import parse_yaml

MODELS = ("base", "champion")
SHARES = ("min_improvement", "max_regression")
LIMITS = ("at_least", "at_most")
PLACES = ("records", "corpora", "generation", "tasks")
TEXT_METRICS = ("bits_per_byte", "perplexity", "word_perplexity", "byte_perplexity")
GENERATION_METRICS = ("mean_tokens", "repetition_rate", "empty_rate", "stop_rate")
PARAMETER = "parameter"  # instead of a share: the run's own


@dataclass(frozen=True, kw_only=True)
class Rule:
    """One rule; the fields are the file's.

    Raises:
        ParameterError: it does not say one thing that can be judged.
    """

    rule: str
    data: str = "records"
    against: str = ""
    metric: str = ""
    min_improvement: float | str | None = None
    max_regression: float | str | None = None
    at_least: float | None = None
    at_most: float | None = None

    def __post_init__(self) -> None:
        asked = SHARES if self.against else LIMITS
        given = [name for name in (*SHARES, *LIMITS) if getattr(self, name) is not None]
        if len(given) != 1 or given[0] not in asked:
            self._fail(f"needs one of {' and '.join(asked)}, has {', '.join(given) or 'none'}")
        self._check_number(given[0], getattr(self, given[0]))
        if self.against:
            self._allow("against", self.against, MODELS)
        if not isinstance(self.data, str) or not isinstance(self.metric, str):
            self._fail("data and metric must be texts")

    @property
    def kind(self) -> str:
        """Which of SHARES and LIMITS it sets."""
        return next(name for name in (*SHARES, *LIMITS) if getattr(self, name) is not None)

    def check_metric(self, tasks: Collection[str]) -> None:
        """Raises ParameterError unless the metric is one of the rule's data, which may be a task."""
        if self.data == "tasks" or self.data in tasks:
            if not self.metric:
                self._fail("needs the task's metric, such as acc")
        elif not self.against:
            self._allow("metric", self.metric, GENERATION_METRICS if self.data == "generation" else TEXT_METRICS)
        elif self.data == "generation" or self.metric not in ("", "bits_per_byte"):
            self._fail("models are compared by bits per byte, on records or texts; leave out metric")

    def _check_number(self, name: str, value: Any) -> None:
        if name in SHARES and value == PARAMETER:
            return
        number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        if not number or (name in SHARES and not 0 <= value < 1):
            allowed = f"a share from 0 to below 1, or {PARAMETER}" if name in SHARES else "a number"
            self._fail(f"{name}={value!r} must be {allowed}")

    def _allow(self, name: str, value: str, allowed: Collection[str]) -> None:
        if value not in allowed:
            self._fail(f"{name}={value!r} is unknown; allowed: {', '.join(allowed)}")

    def _fail(self, message: str) -> None:
        raise ParameterError(f"gate_rules: rule {self.rule!r}: {message}")


def load_rules(path: Path, corpora: Collection[str], tasks: Collection[str] = ()) -> list[Rule]:
    """The rules of a YAML file.

    Args:
        corpora: the names of the run's texts, which rules may name.
        tasks: the names of its tasks, likewise.

    Raises:
        ParameterError: it is not YAML, or a rule is unknown, unclear or names a text or task that is not there.
    """
    try:
        content = parse_yaml(path.read_bytes())
    except ValueError as error:
        raise ParameterError(f"gate_rules: {path} is not YAML: {error}") from None
    if not isinstance(content, list):
        raise ParameterError(f"gate_rules: {path} must be a list of rules, each beginning with `- rule: its name`")
    rules = [_rule(entry, place) for place, entry in enumerate(content, start=1)]
    _check_together(rules, corpora, tasks)
    return rules


def _rule(entry: Any, place: int) -> Rule:
    known = [field.name for field in fields(Rule)]
    if not isinstance(entry, dict) or not isinstance(entry.get("rule"), str) or not entry["rule"].strip():
        raise ParameterError(f"gate_rules: entry {place} must be a mapping with a name behind `rule:`")
    unknown = [str(name) for name in entry if name not in known]
    if unknown:
        raise ParameterError(
            f"gate_rules: rule {entry['rule']!r}: {unknown[0]!r} is unknown; allowed: {', '.join(known)}"
        )
    return Rule(**entry)


def _check_together(rules: list[Rule], corpora: Collection[str], tasks: Collection[str]) -> None:
    names = [rule.rule for rule in rules]
    if shared := sorted(set(corpora) & set(tasks)):
        raise ParameterError(f"gate_rules: {shared[0]!r} is a text and a task; give the text another name")
    for rule in rules:
        if names.count(rule.rule) > 1:
            raise ParameterError(f"gate_rules: two rules have the name {rule.rule!r}")
        if rule.data not in (*PLACES, *corpora, *tasks):
            raise ParameterError(
                f"gate_rules: rule {rule.rule!r}: data={rule.data!r} is no text of evaluation_corpora and no task of "
                f"evaluation_tasks; allowed: {', '.join((*PLACES, *corpora, *tasks))}"
            )
        rule.check_metric(tasks)
    if not any(rule.data == "records" and rule.against == "base" and rule.kind == "min_improvement" for rule in rules):
        raise ParameterError(
            "gate_rules: one rule must ask for min_improvement against base on records: "
            "nothing is registered that is not better than the base model"
        )
