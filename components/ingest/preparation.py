"""What becomes of a block of rows before anything else sees it: rows are checked, records cleaned, compared with the
evaluation sets, and searched for personal data.

Nothing here depends on other blocks. Ids, keys, duplicates and everything after them are told from the text that this
leaves.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from components.ingest.cleaning import BOUNDARY, Cleaner
from components.ingest.contamination import load_sets
from components.ingest.privacy import Privacy
from components.ingest.rows import Block, row_digest
from components.ingest.shapes import Draft, Shape
from components.ingest.text import rows_of
from components.near import sketch
from components.prepared import rows_schema
from components.records import Reject, Removal, canonical_json, content_keys, normalised

REJECTED = frozenset(Reject)
OWN = 4  # of a draft's texts: instruction, context, response and category; what was said before stands before them
CONTEXT = -3  # its place among them
NO_TEXTS = ("",) * OWN
NOTHING = Draft.of(NO_TEXTS)


@dataclass(frozen=True, kw_only=True)
class Rules:
    """What is done to records."""

    cleaning: str
    pii: str
    pii_names: str = ""
    decontaminate: str = ""
    decontaminate_digest: str = ""
    sketched: bool = False  # whether near-duplicates will be looked for


class Preparation:
    """Prepares blocks of rows by rules.

    Raises:
        ParameterError: a rule is not allowed.
        DataError: an evaluation set cannot be read.
    """

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._clean = Cleaner(rules.cleaning)
        self._privacy = Privacy(rules.pii, rules.pii_names)
        self._sets = load_sets(rules.decontaminate, rules.decontaminate_digest, Cleaner(rules.cleaning))
        self._searched = bool(self._sets.names) or rules.pii != "off"  # every record, not only what cleaning changed

    def __call__(self, block: Block, shape: Shape) -> tuple[pa.RecordBatch, dict[str, Any]]:
        """A block's prepared rows, and what was counted on the way."""
        for counter in (self._clean.changed, self._sets.found, self._privacy.found):
            counter.clear()
        self._privacy.records = 0
        rows = _Outcomes.of(block, shape)
        records = [row for row, reason in enumerate(rows.reasons) if reason is None]
        read = [rows.texts[row] for row in records]
        for row, before, text in zip(records, read, self._clean.all(read), strict=True):
            if text is not before or self._searched:
                rows.decide(row, self._prepared(text))
        counts = {
            "cleaned": dict(self._clean.changed),
            "contaminated": dict(self._sets.found),
            "found": dict(self._privacy.found),
            "with_findings": self._privacy.records,
        }
        return rows.to_arrow(self._rules.sketched), counts

    def _prepared(self, text: str) -> str | Removal:
        """A record's cleaned texts as later steps see them, or why they do not."""
        # all but the category; before redaction, which would hide what is shared
        if self._sets.names and self._sets.hold(text.split(BOUNDARY)[:-1]):
            return Removal.CONTAMINATED
        redacted = self._privacy(text)
        return Removal.PERSONAL_DATA if redacted is None else redacted


class _Outcomes:
    """What became of each row of a block: lists of one length."""

    def __init__(self) -> None:
        self.positions: list[int] = []
        self.raws: list[Any] = []
        self.reasons: list[str | None] = []
        self.texts: list[str] = []  # a record's, with BOUNDARY between them
        self.parts: list[Sequence[str]] = []  # the same apart
        self.roles: list[tuple[str, ...]] = []  # of those who said what was said before

    @classmethod
    def of(cls, block: Block, shape: Shape) -> "_Outcomes":
        """The outcomes of rows that were read and checked."""
        rows = cls()
        for position, value, raw in rows_of(block):
            found = shape.records(value)
            if isinstance(found, Reject):
                rows._add(position, raw, found, NOTHING)
                continue
            for draft in found:
                rows._add(position, raw, draft.removal, draft)
        return rows

    def _add(self, position: int, raw: Any, reason: str | None, draft: Draft) -> None:
        self.positions.append(position)
        self.raws.append(raw)
        self.reasons.append(reason)
        self.texts.append(draft.text)
        self.parts.append(draft.texts)
        self.roles.append(draft.roles)

    def decide(self, row: int, outcome: str | Removal) -> None:
        """Takes a record's prepared text, or the reason why it is removed."""
        if isinstance(outcome, Removal):
            self.reasons[row] = outcome
        elif outcome != self.texts[row] and _emptied(self.texts[row], outcome):
            self.reasons[row] = Reject.EMPTY_FIELD
        elif outcome is not self.texts[row]:
            self.texts[row], self.parts[row] = outcome, outcome.split(BOUNDARY)

    def to_arrow(self, sketched: bool) -> pa.RecordBatch:
        """The rows as a record batch."""
        said = [parts if reason is None else NO_TEXTS for parts, reason in zip(self.parts, self.reasons, strict=True)]
        texts = [[parts[place] for parts in said] for place in range(-OWN, 0)]
        texts.append([_history(roles, parts) if roles else "" for roles, parts in zip(self.roles, said, strict=True)])
        normal = [normalised(texts[place]) for place in (0, 1, 2, 4)]
        digests = [
            row_digest(raw) if reason in REJECTED else None for raw, reason in zip(self.raws, self.reasons, strict=True)
        ]
        columns = [
            pa.array(self.positions, pa.int64()),
            pa.array(self.reasons, pa.string()),
            pa.array(digests, pa.string()),
            _fixed(b"".join(map(content_keys, *normal)), "keys"),
            *(pa.array(column, pa.string()) for column in texts),
        ]
        if sketched:
            answers = [b" ".join(filter(None, pair)).decode() for pair in zip(normal[0], normal[2], strict=True)]
            columns.append(_fixed(sketch(answers).bands.tobytes(), "bands"))
        return pa.RecordBatch.from_arrays(columns, schema=rows_schema(sketched))


def _fixed(data: bytes, name: str) -> pa.Array:
    """A column of bytes of one length."""
    type_ = rows_schema(sketched=True).field(name).type
    return pa.Array.from_buffers(type_, len(data) // type_.byte_width, [None, pa.py_buffer(data)])


def _emptied(before: str, after: str) -> bool:
    """Whether a text that a record must have is gone: any but the context, and also of what was said before."""
    pairs = list(zip(before.split(BOUNDARY), after.split(BOUNDARY), strict=True))
    del pairs[CONTEXT]
    return any(one and not other for one, other in pairs)


def _history(roles: tuple[str, ...], texts: Sequence[str]) -> str:
    """What was said before, as JSON messages."""
    return canonical_json([{"role": role, "content": text} for role, text in zip(roles, texts, strict=False)])
