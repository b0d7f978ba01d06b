"""What tokenize counts: of all records, or of one shard's and then put together by join; the report is the same."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from components.errors import DataError
from components.records import Removal

HISTOGRAM_BINS = 40


@dataclass(frozen=True, kw_only=True)
class Rules:
    """What decided whether a record fits."""

    template: str
    limit: int
    too_long: str


@dataclass(kw_only=True)
class TokenCounts:
    """Counts of records and tokens; records by category where they were dropped or cut, by length before that."""

    records: int = 0
    tokens: int = 0
    targets: int = 0
    neutralised: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    truncated: Counter[str] = field(default_factory=Counter)
    lengths: Counter[int] = field(default_factory=Counter)

    def to_json(self) -> dict[str, Any]:
        """A shard's counts, exactly."""
        return dict(vars(self))

    @classmethod
    def merged(cls, shards: Iterable[dict[str, Any]]) -> "TokenCounts":
        """The sum of what to_json gave for each shard."""
        total = cls()
        for shard in shards:
            for name in ("records", "tokens", "targets", "neutralised"):
                setattr(total, name, getattr(total, name) + shard[name])
            total.dropped.update(shard["dropped"])
            total.truncated.update(shard["truncated"])
            total.lengths.update({int(length): count for length, count in shard["lengths"].items()})
        return total

    def report(self, rules: Rules) -> dict[str, Any]:
        """What stands in tokenize.json."""
        dropped = self.dropped.total()
        return {
            "records": self.records,
            "removed": {str(Removal.TOO_LONG): dropped} if dropped else {},
            "too_long_by_category": dict(sorted(self.dropped.items())),
            "truncated_by_category": dict(sorted(self.truncated.items())),
            "neutralised": self.neutralised,
            "max_length": rules.limit,
            "template": rules.template,
            "tokens": self.tokens,
            "target_tokens": self.targets,
            "lengths": histogram(self.lengths, rules.limit),
        }

    def summary(self) -> dict[str, float]:
        """The counts that a run is judged by."""
        return {
            "records": self.records,
            "tokens": self.tokens,
            "too_long": self.dropped.total(),
            "truncated": self.truncated.total(),
            "neutralised": self.neutralised,
        }

    def check(self, rules: Rules) -> None:
        """Raises DataError when no record fits, or one does not and that is an error."""
        limit, dropped = rules.limit, self.dropped.total()
        if rules.too_long == "error" and dropped:
            categories = ", ".join(f"{name} {count}" for name, count in sorted(self.dropped.items()))
            raise DataError(
                f"dataset: {dropped} of {self.records + dropped} records have max_length={limit} tokens or more "
                f"({categories}); raise it, shorten them, or set too_long to drop or truncate_context"
            )
        if not self.records:
            raise DataError(
                f"dataset: none of {dropped} records is shorter than max_length={limit} tokens; "
                "raise it or shorten them"
            )

    def line(self, rules: Rules) -> str:
        """The counts in words."""
        return (
            f"{self.records} records, {self.tokens} tokens ({self.targets} targets), {self.dropped.total()} of "
            f"{rules.limit} tokens or more dropped, the context of {self.truncated.total()} cut"
        )


def histogram(lengths: Counter[int], limit: int) -> dict[str, Any]:
    """Record counts by length in tokens, in bins of one width up to twice the limit; longer ones stand in `beyond`."""
    top = min(max(lengths, default=1), 2 * limit)
    width = -(-(top + 1) // HISTOGRAM_BINS)
    counts = [0] * -(-(top + 1) // width)
    beyond = 0
    for length, count in lengths.items():
        if length > top:
            beyond += count
        else:
            counts[length // width] += count
    return {"width": width, "counts": counts, "beyond": beyond}
