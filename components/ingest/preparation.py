"""What happens to a valid record before anything else sees it: it is cleaned, compared with the evaluation sets, then
searched for personal data.

Ids, keys, duplicates and everything after them are told from the text that this leaves.
"""

from typing import Any

from components.ingest.cleaning import BOUNDARY, Cleaner
from components.ingest.contamination import load_sets
from components.ingest.privacy import Privacy
from components.records import Reject, Removal, canonical_json, messages

TEXTS = ("instruction", "context", "response", "category")


class Preparation:
    """Cleans, decontaminates and redacts records, and counts what it did."""

    def __init__(
        self, *, cleaning: str, pii: str, pii_names: str, decontaminate: str = "", decontaminate_digest: str = ""
    ) -> None:
        self._clean = Cleaner(cleaning)
        self._privacy = Privacy(pii, pii_names)
        self._sets = load_sets(decontaminate, decontaminate_digest, Cleaner(cleaning))

    def __call__(self, fields: dict[str, str], source: str) -> dict[str, str] | Reject | Removal:
        """The record with its texts prepared, or why it is none any more."""
        history = messages(fields.get("history", ""))
        # what was said first comes first, so that each turn of a conversation has the same placeholders
        said = [message["content"] for message in history]
        cleaned = self._clean(BOUNDARY.join((*said, *(fields[name] for name in TEXTS))))
        *read, _ = cleaned.split(BOUNDARY)  # what is read of a record is all but its category
        if self._sets.hold(read):  # before redaction, which would hide what is shared
            return Removal.CONTAMINATED
        text = self._privacy(cleaned, source)
        if text is None:
            return Removal.PERSONAL_DATA
        parts = text.split(BOUNDARY)
        prepared = dict(zip(TEXTS, parts[len(said) :], strict=True))
        if any(fields[name] and not prepared[name] for name in ("instruction", "response", "category")):
            return Reject.EMPTY_FIELD
        if history:
            changed = (message | {"content": part} for message, part in zip(history, parts, strict=False))
            prepared["history"] = canonical_json(list(changed))
        return {**fields, **prepared}

    def metrics(self) -> dict[str, Any]:
        """What was cleaned and found."""
        return {
            "cleaned": dict(self._clean.changed),
            "contaminated": dict(self._sets.found),
            "pii": self._privacy.metrics(),
        }
