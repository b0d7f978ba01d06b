"""The rules by which new data is judged: what resolve checks in the first minute, and drift judges by.

A rule limits one measure:

    - rule: the categories are as they were
      metric: category_psi
      at_most: 0.25
      min_records: 100            # with fewer new records it is not judged
"""

import math
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from components.errors import ParameterError
from components.yaml_text import parse_yaml

METRICS = (
    *("length_psi", "category_psi", "source_psi", "length_js", "category_js", "source_js"),
    *("near_duplicate_rate", "bits_per_byte_ratio", "new_share"),
)
MIN_RECORDS = 100


@dataclass(frozen=True, kw_only=True)
class DriftRule:
    """One rule; the fields are the file's.

    Raises:
        ParameterError: it does not say one thing that can be judged.
    """

    rule: str
    metric: str
    at_most: float
    min_records: int = MIN_RECORDS

    def __post_init__(self) -> None:
        if self.metric not in METRICS:
            self._fail(f"metric={self.metric!r} is unknown; allowed: {', '.join(METRICS)}")
        if not _number(self.at_most) or not math.isfinite(self.at_most) or self.at_most < 0:
            self._fail(f"at_most={self.at_most!r} must be a number of at least 0")
        if not isinstance(self.min_records, int) or isinstance(self.min_records, bool) or self.min_records < 1:
            self._fail(f"min_records={self.min_records!r} must be a whole number of at least 1")

    def _fail(self, message: str) -> None:
        raise ParameterError(f"drift_rules: rule {self.rule!r}: {message}")


def load_drift_rules(path: Path) -> list[DriftRule]:
    """The rules of a YAML file.

    Raises:
        ParameterError: it is not YAML, or a rule is unknown or unclear.
    """
    try:
        content = parse_yaml(path.read_bytes())
    except ValueError as error:
        raise ParameterError(f"drift_rules: {path} is not YAML: {error}") from None
    if not isinstance(content, list) or not content:
        raise ParameterError(f"drift_rules: {path} must be a list of rules, each beginning with `- rule: its name`")
    rules = [_rule(entry, place) for place, entry in enumerate(content, start=1)]
    names = [rule.rule for rule in rules]
    for name in names:
        if names.count(name) > 1:
            raise ParameterError(f"drift_rules: two rules have the name {name!r}")
    return rules


def _rule(entry: Any, place: int) -> DriftRule:
    known = [field.name for field in fields(DriftRule)]
    if not isinstance(entry, dict) or not isinstance(entry.get("rule"), str) or not entry["rule"].strip():
        raise ParameterError(f"drift_rules: entry {place} must be a mapping with a name behind `rule:`")
    unknown = [str(name) for name in entry if name not in known]
    if unknown:
        raise ParameterError(
            f"drift_rules: rule {entry['rule']!r}: {unknown[0]!r} is unknown; allowed: {', '.join(known)}"
        )
    missing = [name for name in ("metric", "at_most") if name not in entry]
    if missing:
        raise ParameterError(f"drift_rules: rule {entry['rule']!r}: {missing[0]} is missing")
    return DriftRule(**entry)


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
