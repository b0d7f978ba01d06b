"""Cleans text before anything else sees it; each switch is counted on its own."""

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from components.errors import ParameterError

# The texts of a record are one string with this between them: text holds none, and is looked through once.
BOUNDARY = "\x00"

# The patterns begin with a set of characters or a literal, so that plain text is skipped fast.
# Control and invisible characters that carry no text: C0, C1, soft hyphen, zero-width space and joiner marks of other
# uses, bidirectional overrides; and terminals' escape sequences. The joiners of scripts and emoji stay, and so do line
# breaks.
CONTROL = re.compile(
    r"[\x01-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\xad\u200b\u2060\ufeff\u202a-\u202e\u2066-\u2069]"
    r"(?:(?<=\x1b)\[[0-9;?]*[A-Za-z])?"
)
ASCII_CONTROL = bytes((*range(1, 9), *range(14, 32), 127))
BREAK = re.compile(r"[\r\v\f\x85\u2028\u2029](?:(?<=\r)\n)?")
SPACE = re.compile(r"[\u00a0\u1680\u2000-\u200a\u202f\u205f]")
# What ends a line or a text with blanks before it.
BLANK_ENDS = tuple(re.compile(rf"{end}(?<=[ \t]{end})") for end in (r"\n", BOUNDARY))
EMPTY_LINES = re.compile(r"\n\n\n+")
# What encyclopaedia articles put behind a word: [1], [a], [note 3], [citation needed]. Behind a space it is text, and
# so is an index: x[1] of one letter, a[1][2], a[1] =, a[1].b, a[1](.
REFERENCE = re.compile(
    r"\[(?<=[^\s\[({=\x00]\[)(?<!\b[A-Za-z_]\[)"
    r"(?:[1-9]\d{0,2}|[a-z]|(?:note|nb|n|fn)\.? ?\d{1,3}|citation needed|clarification needed|better source needed|"
    r"when\?|who\?|which\?|by whom\?|according to whom\?|dubious\s[–-]\sdiscuss|edit)\]"
    r"(?!\s?=|\.\w|[(\w]|\[[^\]]*\]\s?[=.(]\w?)",
    re.IGNORECASE,
)
# What a switch changes has this in it, in RE2's words, which looks through plain text ten times as fast as Python does.
# From U+0300 on, a character may be written otherwise in the composed form.
ODD = (
    r"[\x01-\x08\x0b-\x1f\x7f-\x{a0}\x{ad}\x{300}-\x{200f}\x{2028}-\x{202f}\x{205f}-\x{2069}\x{20d0}-\x{10ffff}]"
    r"|[ \t](?:[\n\x00]|$)|\n\n\n"
)
MARKED = r"\[[0-9A-Za-z]"  # the switch references
# A text with one of these is a program or tells of one: its brackets are indices. So it is with a sign or CODE, where a
# mark stands behind a word, as an index does. Prose that has one keeps its marks, which harms nothing.
PROGRAM = ("```", "[0]", "];", "[i]")
INDEX = re.compile(r"\[(?<=[^\s.,;:!?\]]\[)")
SIGNS = ("{", "/*", " = ", ";\n", ":\n  ")
CODE = re.compile(
    r"[=+*/<>&|]\s?[A-Za-z_]\w*\["  # behind an operator: y+a[1]
    r"|\((?<=\w\()(?:[\['\"]|\w+(?:\[|, ?\w+\[))"  # in a call: f('[a]'), f(a[1]), f(x, a[1])
    # an attribute's: a.b[1], a.b(x); not of a site
    r"|\.(?<=[a-z_]\.)(?!(?:com|org|net|edu|gov|info|co|uk|us|io)\b)[a-z_]\w*[\[(]"
    r"|\]\s?(?:[+*/%<>&|]\s?[\w(]|- ?(?:\d|\w+\[))"  # before an operator: a[1] * b
)
KEYWORDS = ("return ", "print ", "char ", "int ")
BEHIND_KEYWORD = re.compile(rf"\b(?:{'|'.join(KEYWORDS)})[A-Za-z_]\w*\[")
FEWEST_WORDS = 3  # of prose: what is shorter may be one index, matrix[2][3]


def control(text: str) -> str:
    """Without control characters, invisible ones, and terminals' escape sequences."""
    if text.isascii():
        data = text.encode("ascii")
        if len(data.translate(None, ASCII_CONTROL)) == len(data):
            return text
    return CONTROL.sub("", text)


def whitespace(text: str) -> str:
    """Line breaks as \\n, spaces as plain ones, none at the ends of lines, at most one empty line. Indents stay."""
    if not text.isascii():
        text = SPACE.sub(" ", BREAK.sub("\n", text))
    elif "\r" in text or "\v" in text or "\f" in text:
        text = BREAK.sub("\n", text)
    for pattern in BLANK_ENDS:
        starts = [0, *(match.start() for match in pattern.finditer(text)), len(text)]
        if len(starts) > 2 or text[-1:] in (" ", "\t"):
            text = "".join(text[start:end].rstrip(" \t") for start, end in pairwise(starts))
    return EMPTY_LINES.sub("\n\n", text) if "\n\n\n" in text else text


def references(text: str) -> str:
    """Without the reference marks that an encyclopaedia puts behind words. Programs are left as they are."""
    if "[" not in text:
        return text
    return BOUNDARY.join([_dereferenced(part) if "[" in part else part for part in text.split(BOUNDARY)])


def _dereferenced(text: str) -> str:
    return text if _is_code(text) else REFERENCE.sub("", text)


def _is_code(text: str) -> bool:
    if any(mark in text for mark in PROGRAM):
        return True
    if not INDEX.search(text):
        return False
    if any(sign in text for sign in SIGNS) or CODE.search(text):
        return True
    if any(word in text for word in KEYWORDS) and BEHIND_KEYWORD.search(text):
        return True
    return text.isascii() and len(text.split(None, FEWEST_WORDS)) < FEWEST_WORDS


def nfc(text: str) -> str:
    """In Unicode's composed form, in which one character has one spelling."""
    if text.isascii():
        return text
    return unicodedata.normalize("NFC", text)


# In the order in which they run: what an earlier one takes away may be in a later one's way.
SWITCHES: dict[str, Callable[[str], str]] = {
    "control": control,
    "whitespace": whitespace,
    "references": references,
    "nfc": nfc,
}


def parse_cleaning(cleaning: str) -> tuple[str, ...]:
    """The switches that a comma-separated list turns on, in the order in which they run.

    Raises:
        ParameterError: it names something else.
    """
    wanted = {name.strip() for name in cleaning.split(",")} - {""}
    for name in sorted(wanted - SWITCHES.keys()):
        raise ParameterError(f"cleaning: {name!r} is not a switch; allowed: {', '.join(SWITCHES)}")
    return tuple(name for name in SWITCHES if name in wanted)


class Cleaner:
    """Cleans records with the switches that are on, and counts the records that each has changed."""

    def __init__(self, cleaning: str) -> None:
        self._switches = parse_cleaning(cleaning)
        self._marks = [name for name in self._switches if name == "references"]
        self.changed: Counter[str] = Counter(dict.fromkeys(self._switches, 0))

    def __call__(self, text: str) -> str:
        """A record's texts, joined by BOUNDARY, cleaned and each stripped."""
        return BOUNDARY.join(part.strip() for part in self.all([text])[0].split(BOUNDARY))

    def all(self, records: Sequence[str]) -> list[str]:
        """Many records of stripped texts, each as one alone would be."""
        cleaned = list(records)
        array = pa.array(records, pa.large_string())
        odd, marked = (np.asarray(pc.match_substring_regex(array, pattern)) for pattern in (ODD, MARKED))
        for row in np.flatnonzero(odd | marked).tolist():
            text = self._cleaned(records[row], self._switches if odd[row] else self._marks)
            if text != records[row]:
                cleaned[row] = BOUNDARY.join([part.strip() for part in text.split(BOUNDARY)])
        return cleaned

    def _cleaned(self, text: str, switches: Sequence[str]) -> str:
        for name in switches:
            before, text = text, SWITCHES[name](text)
            self.changed[name] += text != before
        return text
