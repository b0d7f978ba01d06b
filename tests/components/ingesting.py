"""ingest through its public door, for all tests of it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from components.errors import UserError
from components.ingest.ingest import ingest
from components.records import read_json, read_table


@dataclass(frozen=True, kw_only=True)
class Result:
    """What one call of ingest left behind."""

    counts: dict[str, float]
    records: list[dict[str, Any]]
    rejects: list[dict[str, Any]]
    metrics: dict[str, Any]


def run(dataset: Path | str, output: Path | None = None, **arguments: Any) -> Result:
    """Runs ingest, into a folder beside the dataset if no other is given.

    By default no reject is too many, and texts stay as they are.
    """
    folder = output or Path(dataset).parent / "out"
    records, rejects, metrics = folder / "records", folder / "rejects", folder / "metrics.json"
    values: dict[str, Any] = {
        "max_reject_fraction": 1.0,
        "cleaning": "",
        "pii": "off",
        "near_duplicates": 0.0,
        **arguments,
        "dataset": str(dataset),
    }
    counts = ingest(
        **values,
        records=records,
        rejects=rejects,
        metrics=metrics,
    )
    result = Result(
        counts=counts, records=list(read_table(records)), rejects=list(read_table(rejects)), metrics=read_json(metrics)
    )
    assert_accounted(result)
    return result


def assert_accounted(result: Result) -> None:
    """Every row is a record, a reject or a removal, in the counts of the whole and of each source."""
    metrics = result.metrics
    for counts in (metrics, *metrics["sources"].values()):
        assert counts["rows"] == counts["records"] + sum(counts["rejected"].values()) + sum(counts["removed"].values())
    assert sum(source["rows"] for source in metrics["sources"].values()) == metrics["rows"] == result.counts["rows"]
    assert len(result.records) == metrics["records"]
    assert len(result.rejects) == sum(metrics["rejected"].values())
    assert all(reject["position"] > 0 and len(reject["digest"]) == 32 for reject in result.rejects)


def write_parquet(path: Path, columns: dict[str, Any]) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


def assert_one_line(error: UserError, *named: str) -> None:
    """An error's message is one line and names these."""
    message = str(error)
    assert "\n" not in message
    assert [name for name in named if name not in message] == []
