"""What every reader yields: a row of a source, with its position and its raw form."""

import hashlib
from typing import Any, NamedTuple

BOM = b"\xef\xbb\xbf"
BLOCK = 1 << 20  # bytes that are read at once
# A longer row is rejected unread: about a million tokens, far beyond what a model takes.
MAX_ROW = 4 << 20


class Row(NamedTuple):
    """One row. value is what was parsed, or why it could not be."""

    position: int  # the line on which it begins in a text file, the row's number elsewhere; from 1
    value: Any
    raw: Any  # bytes of the source; anything else is digested by its representation

    @property
    def digest(self) -> str:
        """128 bits of SHA-256 of the raw row, to find it again without keeping its text."""
        if isinstance(self.raw, Hashed):
            return self.raw.digest
        raw = self.raw.strip() if isinstance(self.raw, bytes) else repr(self.raw).encode("utf-8", "backslashreplace")
        return hashlib.sha256(raw).hexdigest()[:32]


class Hashed(NamedTuple):
    """The raw form of a row that was too long to keep."""

    digest: str
