"""The elements of a JSON list in a file of any size, found by brackets and strings alone."""

import hashlib
import re
from collections.abc import Iterator
from typing import IO, Any

from components.ingest.rows import BLOCK, BOM, MAX_ROW, Hashed

STRUCTURE = re.compile(rb'["\[\]{},]')
STRING_REST = re.compile(rb'[^"\\]*+(?:\\.[^"\\]*+)*+', re.DOTALL)
OPENING, CLOSING = frozenset(b"[{"), frozenset(b"]}")
QUOTE, COMMA, END = b'",]'


class Elements:
    """Iterates over the raw elements of a file that begins with a bracket; one that is too long comes as its digest.

    Each element is what stands between two commas, and may be no JSON. `fault` tells afterwards whether the list had no
    end, or something behind it: nobody knows how many rows that would have been.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self.fault = ""
        self._file = file
        self._buffer = b""
        self._start = self._at = 0  # where the element begins, and up to where it has been looked at
        self._depth = 0
        self._quoted = self._closed = self._several = self._mismatched = False
        self._state: Any = None  # the running digest of an element that is too long to keep

    def __iter__(self) -> Iterator[bytes | Hashed]:
        while not self._closed and (block := self._file.read(BLOCK)):
            self._buffer += block if self._buffer or self._depth else block.removeprefix(BOM)
            yield from self._scan()
            self._trim()
        if not self._closed:
            self.fault = "ends inside its JSON list: it was cut off, or a quote or bracket is not closed"
        elif self._has_more():
            self.fault = "goes on behind the end of its JSON list"
        elif self._mismatched:
            yield b"]"

    def _scan(self) -> Iterator[bytes | Hashed]:
        while not self._closed and self._seek():
            mark = self._buffer[self._at]
            self._at += 1
            if mark == QUOTE:
                self._quoted = not self._quoted
            elif mark in OPENING:
                self._depth += 1
                self._start = self._at if self._depth == 1 else self._start
            elif mark in CLOSING:
                self._depth -= 1
                self._closed = self._depth == 0
                self._mismatched = mark != END
            if self._closed or (mark == COMMA and self._depth == 1):
                element = self._take()
                if isinstance(element, Hashed) or element.strip() or not self._closed or self._several:
                    yield element
                self._several = True

    def _seek(self) -> bool:
        """Goes to the next bracket, comma or quote outside of strings, or to the end of the string that it is in."""
        if self._quoted:
            found = STRING_REST.match(self._buffer, self._at)
            self._at = found.end() if found else self._at
            return self._buffer[self._at : self._at + 1] == b'"'
        structure = STRUCTURE.search(self._buffer, self._at)
        self._at = structure.start() if structure else len(self._buffer)
        return structure is not None

    def _take(self) -> bytes | Hashed:
        """The element before the mark that was just passed."""
        raw, state = self._buffer[self._start : self._at - 1], self._state
        self._start, self._state = self._at, None
        if not state and len(raw) <= MAX_ROW:
            return raw
        state = state or hashlib.sha256()
        state.update(raw)
        return Hashed(state.hexdigest()[:32])

    def _trim(self) -> None:
        """Forgets what has been yielded, and what is too long to be."""
        if self._at - self._start > MAX_ROW:
            self._state = self._state or hashlib.sha256()
            self._state.update(self._buffer[self._start : self._at])
            self._start = self._at
        self._buffer = self._buffer[self._start :]
        self._at -= self._start
        self._start = 0

    def _has_more(self) -> bool:
        tail = self._buffer.strip()
        while not tail and (block := self._file.read(BLOCK)):
            tail = block.strip()
        return bool(tail)
