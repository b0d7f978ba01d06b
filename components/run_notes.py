"""What runs tell each other through the registry's notes: which run this is, what was rejected, what drift stopped.

A version says of itself that its run was accepted. Of the others nothing would be known, so they are noted under the
run's or the dataset's digest. Notes hold digests and figures, never a record's text.
"""

from dataclasses import asdict, dataclass
from typing import Any

from components.registry import Registry, Version

MAX_REASONS, MAX_REASON = 10, 300  # of a note; MLflow keeps 5,000 characters


@dataclass(frozen=True, kw_only=True)
class Begun:
    """A run that has not ended: its digests, and the verdict that it had before it began."""

    run_digest: str
    dataset_digest: str
    unchanged: str
    skipped: bool


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of a run, as far as the registry knows."""

    outcome: str  # accepted, rejected, stopped; empty: unknown
    reasons: list[str]
    version: Version | None = None


def begin(store: Registry, run_id: str, begun: Begun) -> None:
    """Notes which run this is, for the step that reports its end, and forgets that its data was stopped before."""
    if store.note(_stopped(begun.dataset_digest)):
        store.write_note(_stopped(begun.dataset_digest), None)
    if run_id:
        store.write_note(_run(run_id), asdict(begun))


def end(store: Registry, run_id: str) -> Begun | None:
    """What `begin` noted, which is removed; None where a run ended before it was noted."""
    noted = store.note(_run(run_id))
    if noted is None:
        return None
    store.write_note(_run(run_id), None)
    return Begun(**noted)


def reject(store: Registry, run_digest: str, compared_with: str, reasons: list[str]) -> None:
    """Notes that a run's model was rejected when it was compared with this champion; empty: with none."""
    store.write_note(_rejected(run_digest), {"compared_with": compared_with, "reasons": _short(reasons)})


def stop(store: Registry, dataset_digest: str, reasons: list[str]) -> None:
    """Notes that drift stopped a run of this data."""
    store.write_note(_stopped(dataset_digest), {"reasons": _short(reasons)})


def outcome(store: Registry, begun: Begun) -> Outcome:
    """What became of a run."""
    if version := store.of_run(begun.run_digest):
        return Outcome(outcome="accepted", reasons=[], version=version)
    notes = (("stopped", _stopped(begun.dataset_digest)), ("rejected", _rejected(begun.run_digest)))
    for name, noted in ((name, store.note(key)) for name, key in notes):
        if noted:
            return Outcome(outcome=name, reasons=noted["reasons"])
    return Outcome(outcome="", reasons=[])


def verdict_before(store: Registry, run_digest: str, champion: str) -> tuple[str, Version | None]:
    """The verdict that a run had, and its version: it still holds if it was accepted, or rejected beside this champion.

    Args:
        champion: the present champion's reference; empty: there is none.
    """
    if version := store.of_run(run_digest):
        return "accepted", version
    noted: dict[str, Any] | None = store.note(_rejected(run_digest))
    return ("rejected" if noted and noted["compared_with"] == champion else ""), None


def _run(run_id: str) -> str:
    return f"run.{run_id}"


def _rejected(run_digest: str) -> str:
    return f"rejected.{run_digest}"


def _stopped(dataset_digest: str) -> str:
    return f"stopped.{dataset_digest.replace(':', '-')}"


def _short(reasons: list[str]) -> list[str]:
    return [reason if len(reason) <= MAX_REASON else f"{reason[:MAX_REASON]}…" for reason in reasons[:MAX_REASONS]]
