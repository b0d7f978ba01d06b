"""Reads a dataset row by row into valid, unique records; every other row is counted with its reason."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from components import progress
from components.errors import DataError, ParameterError
from components.ingest.readers import Row, read_rows
from components.records import (
    RECORDS,
    REJECTS,
    Reject,
    Removal,
    record_ids,
    write_json,
    write_table,
)
from components.sources import Pinned, fetch, pin, where

FIELDS = ("instruction", "context", "response", "category")
OPTIONAL = {"context": "", "category": "unknown"}


def ingest(
    *,
    dataset: str,
    dataset_digest: str = "",
    columns: str = "",
    license: str = "unknown",
    max_reject_fraction: float = 0.1,
    records: Path,
    rejects: Path,
    metrics: Path,
) -> dict[str, float]:
    """Validates every row of a dataset and writes records, rejects and their counts.

    Args:
        dataset: Local path, fsspec URI or hub id of a jsonl, json, csv or parquet dataset.
        dataset_digest: What resolve found; the bytes must still be these. Empty: not checked.
        columns: Where the fields stand when they have other names: instruction=question,response=answer.
        license: The dataset's licence, carried with each record to the model card.
        max_reject_fraction: The share of rows that may be rejected before the run fails.
        records: Where to write the records (Parquet).
        rejects: Where to write what was rejected, with source, position and reason but no text (Parquet).
        metrics: Where to write the counts (JSON).

    Returns:
        The counts that a run is judged by: rows, records, rejected, removed.

    Raises:
        ParameterError: max_reject_fraction is no share, or columns is not field=column pairs.
        DataError: unreadable, changed since it was resolved, no valid record, or too many rejects.
    """
    if not 0 <= max_reject_fraction <= 1:
        raise ParameterError(f"max_reject_fraction={max_reject_fraction:g} must be a share from 0 to 1")
    pinned = pin(dataset, "dataset")
    if dataset_digest and pinned.digest != dataset_digest:
        raise DataError(f"dataset: {dataset} changed after it was resolved; start the run again")
    mapping = parse_columns(columns)
    reader = _Reader(pinned, mapping, license)
    kept = write_table(records, RECORDS, progress.track(reader.records(), "ingest", None, "records"))
    write_table(rejects, REJECTS, iter(reader.rejected))
    total = reader.rows
    report = {
        "rows": total,
        "records": kept,
        "rejected": _counts(reader.reject_reasons),
        "removed": _counts(reader.removal_reasons),
        "categories": _counts(reader.categories),
        "license": license,
    }
    write_json(metrics, report)
    _check(pinned.uri, total, kept, reader, max_reject_fraction)
    removed = reader.removal_reasons.total()
    print(f"ingest: {total} rows = {kept} records + {len(reader.rejected)} rejected + {removed} removed")
    return {"rows": total, "records": kept, "rejected": len(reader.rejected), "removed": removed}


def parse_columns(columns: str) -> dict[str, str]:
    """`field=column,…` as a mapping for every field.

    Raises:
        ParameterError: it is not of this form, or names an unknown field.
    """
    mapping = {field: field for field in FIELDS}
    for pair in filter(None, (part.strip() for part in columns.split(","))):
        field, separator, column = (part.strip() for part in pair.partition("="))
        if not separator or not column or field not in FIELDS:
            raise ParameterError(f"columns: {pair!r} is not field=column; fields are {', '.join(FIELDS)}")
        mapping[field] = column
    return mapping


class _Reader:
    """One pass over the rows; what it drops is counted on the way."""

    def __init__(self, pinned: Pinned, mapping: dict[str, str], license: str) -> None:
        self.source = Path(pinned.uri).name if where(pinned.uri) != "hub" else pinned.uri
        self.data = fetch(pinned, "dataset") if where(pinned.uri) != "hub" else pinned.uri
        self.mapping = mapping
        self.license = license
        self.rows = 0
        self.rejected: list[dict[str, Any]] = []
        self.reject_reasons: Counter[str] = Counter()
        self.removal_reasons: Counter[str] = Counter()
        self.categories: Counter[str] = Counter()

    def records(self) -> Iterator[dict[str, Any]]:
        """Valid records, the first of each prompt in source order."""
        ids: set[str] = set()
        prompts: set[str] = set()
        for row in read_rows(self.data):
            self.rows += 1
            fields = validate(row, self.mapping)
            if isinstance(fields, Reject):
                self._reject(row, fields)
                continue
            identity, prompt = record_ids(fields["instruction"], fields["context"], fields["response"])
            if identity in ids:
                self.removal_reasons[Removal.DUPLICATE] += 1
            elif prompt in prompts:
                self.removal_reasons[Removal.REPEATED_PROMPT] += 1
            else:
                self.categories[fields["category"]] += 1
                yield {"id": identity, **fields, "source": self.source, "license": self.license, "history": ""}
            ids.add(identity)
            prompts.add(prompt)

    def _reject(self, row: Row, reason: Reject) -> None:
        self.reject_reasons[reason] += 1
        self.rejected.append(
            {"source": self.source, "position": row.position, "reason": str(reason), "digest": row.digest}
        )


def validate(row: Row, mapping: dict[str, str]) -> dict[str, str] | Reject:
    """The row's fields, stripped, or the reason why it is no record."""
    if isinstance(row.value, Reject):
        return row.value
    if not isinstance(row.value, dict):
        return Reject.NOT_AN_OBJECT
    fields: dict[str, str] = {}
    for field in FIELDS:
        value = row.value.get(mapping[field])
        if value is None and field in OPTIONAL:
            value = OPTIONAL[field]
        if value is None:
            return Reject.MISSING_FIELD
        if not isinstance(value, str):
            return Reject.WRONG_TYPE
        if not is_text(value):
            return Reject.INVALID_TEXT
        text = value.strip() or OPTIONAL.get(field, "")
        if not text and field not in OPTIONAL:
            return Reject.EMPTY_FIELD
        fields[field] = text
    return fields


def is_text(value: str) -> bool:
    """Whether a string is text: no NUL, no unpaired surrogate."""
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return "\x00" not in value


def _check(uri: str, total: int, kept: int, reader: _Reader, max_reject_fraction: float) -> None:
    if total != kept + len(reader.rejected) + reader.removal_reasons.total():
        raise AssertionError("a row was lost between reading and writing")
    reasons = ", ".join(f"{reason} {count}" for reason, count in reader.reject_reasons.most_common())
    if kept == 0:
        raise DataError(
            f"dataset: {uri} has no valid record in {total} rows" + (f" (rejected: {reasons})" if reasons else "")
        )
    if len(reader.rejected) > max_reject_fraction * total:
        first = reader.rejected[0]
        raise DataError(
            f"dataset: {len(reader.rejected)} of {total} rows of {uri} were rejected ({reasons}; "
            f"the first at row {first['position']}), more than max_reject_fraction={max_reject_fraction:g}; "
            "mend them, or raise the limit"
        )


def _counts(counter: Counter[str]) -> dict[str, int]:
    return {str(name): counter[name] for name in sorted(counter)}
