"""What happens to the personal data and secrets of a record: redacted, dropped, or only counted."""

import importlib
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable

from components.errors import ParameterError, PipelineError
from components.ingest.cleaning import BOUNDARY
from components.ingest.pii import Span, find

POLICIES = ("redact", "drop", "report", "off")
SPELLING = re.compile(r"[^\w@.+]")

Names = Callable[[str], Iterable[tuple[int, int]]]


def redact(text: str, spans: Iterable[Span]) -> str:
    """The text with a typed placeholder for each span, such as [EMAIL_1]; the same value has the same one."""
    numbers: defaultdict[str, dict[str, int]] = defaultdict(dict)
    parts, position = [], 0
    for start, end, type_ in spans:
        seen = numbers[type_]
        number = seen.setdefault(SPELLING.sub("", text[start:end]).casefold(), len(seen) + 1)
        parts += [text[position:start], f"[{type_}_{number}]"]
        position = end
    return "".join((*parts, text[position:]))


def parse_names(reference: str) -> Names | None:
    """The function that finds people's names: `package.module:function`; None for an empty reference.

    It takes a text and returns the (start, end) of each name in it.

    Raises:
        ParameterError: it is not of this form, cannot be imported, or is no function.
    """
    if not reference:
        return None
    module, separator, name = reference.partition(":")
    if not (separator and module and name):
        raise ParameterError(f"pii_names={reference!r} is not package.module:function")
    try:
        function = getattr(importlib.import_module(module), name)
    except Exception as error:  # a stranger's code
        reason = (str(error).splitlines() or [""])[0]
        raise ParameterError(f"pii_names={reference!r} cannot be imported: {type(error).__name__}: {reason}") from None
    if not callable(function):
        raise ParameterError(f"pii_names={reference!r} is no function")
    return function  # type: ignore[no-any-return]


class Privacy:
    """Applies one policy to records, and counts those with findings, and the findings by type."""

    def __init__(self, policy: str, names: str = "") -> None:
        if policy not in POLICIES:
            raise ParameterError(f"pii={policy!r} is not allowed; it must be one of {', '.join(POLICIES)}")
        self._policy = policy
        self._reference = names
        self._names = parse_names(names) if policy != "off" else None
        self.records = 0
        self.found: Counter[str] = Counter()

    def __call__(self, text: str) -> str | None:
        """A record's texts, joined by BOUNDARY, as the policy wants them; None when the record is to be dropped."""
        if self._policy == "off":
            return text
        spans = find(text, self._names_between if self._names else None)
        if not spans:
            return text
        self.records += 1
        self.found.update(span.type for span in spans)
        if self._policy == "drop":
            return None
        return redact(text, spans) if self._policy == "redact" else text

    def _names_between(self, text: str) -> Iterable[tuple[int, int]]:
        """What the plug-in finds in each of a record's texts."""
        offset = 0
        for part in text.split(BOUNDARY):
            for start, end in self._asked(part):
                yield offset + start, offset + end
            offset += len(part) + 1

    def _asked(self, text: str) -> list[tuple[int, int]]:
        assert self._names
        try:
            spans = [(int(start), int(end)) for start, end in self._names(text)]
        except Exception as error:  # a stranger's code; its message may hold the text
            raise PipelineError(f"pii_names={self._reference} failed on a record: {type(error).__name__}") from None
        for start, end in spans:
            if not 0 <= start <= end <= len(text):
                raise PipelineError(f"pii_names={self._reference} found a name outside its text: {start} to {end}")
        return spans
