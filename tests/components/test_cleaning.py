"""Cleaning: what each switch takes away, and what it must leave."""

import time
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.errors import ParameterError
from components.ingest.cleaning import BOUNDARY, SWITCHES, Cleaner, parse_cleaning

ALL = ",".join(SWITCHES)
TEXTS = st.text(
    alphabet=st.one_of(
        st.sampled_from("ab 1[]().\n\r\t\x0c\x1b\x07\u200b\u00a0\u2028e\u0301é\u212b"), st.characters(codec="utf-8")
    ),
    max_size=60,
).map(lambda text: text.replace(BOUNDARY, ""))

PROGRAMS = (
    "sys.argv[1]",
    "You find it in sys.argv[1] when it starts",
    "return arr[j] + 1",
    "and then return arr[j] to the caller",
    "row[1] * row[2]",
    "the sum is row[1] - row[2] in euros",
    "int(parts[2])",
    "it calls max(first, parts[2]) or print(parts[3]) then",
    "${args[1]}",
    "for each one echo ${args[1]} again",
    "char buf[64], c",
    "declare char buf[64], c before the loop",
    "re.sub('[a]','x',s)",
    "matrix[2][3]",
    "```\njq '.[1]' rows.json\n```",
    "for row in rows:\n    yield row, parts[2]",
    "SELECT tags[1] FROM posts WHERE id = 3",
)
CASES = {
    "control": [
        ("a\x07b\x1b[31mred\x1b[0m\x7f", "abred"),
        ("so\u00adft \u200bzero\ufeff", "soft zero"),
        ("over\u202eride\u2066", "override"),
        ("é\x85x", "é\x85x"),
        ("family 👨\u200d👩\u200d👧, نمی\u200cخواهم", "family 👨\u200d👩\u200d👧, نمی\u200cخواهم"),
        ("a\tb\nc", "a\tb\nc"),
    ],
    "whitespace": [
        ("a\r\nb\rc\x0cd\u2028e", "a\nb\nc\nd\ne"),
        ("a \t\nb  \n\n\n\n\nc", "a\nb\n\nc"),
        ("10\u00a0km\u202fh", "10 km h"),
        ("if a:\n    indented\n\tcode  = 1", "if a:\n    indented\n\tcode  = 1"),
    ],
    "references": [
        ("grew.[1] Then[2][3] fell,[12] and [4] rose.[note 3]", "grew. Then fell, and [4] rose."),
        ("so it is said[citation needed] by some[a].", "so it is said by some."),
        ("take x[1] and row[2] = 3, then f[1](y)", "take x[1] and row[2] = 3, then f[1](y)"),
        ("items[0] comes before items[1]", "items[0] comes before items[1]"),
        ("```\nnames[1]\n```", "```\nnames[1]\n```"),
        ("in 2010[2010], [1, 2] and [sic]", "in 2010[2010], [1, 2] and [sic]"),
        ("at example.com[1] (formerly Ex[2]), a + b and more[3]", "at example.com (formerly Ex), a + b and more"),
        ("In 1901 x = 2 held.[1] Then:\n  more,[2] it is said.[3]", "In 1901 x = 2 held. Then:\n  more, it is said."),
        *((code, code) for code in PROGRAMS),
    ],
    "nfc": [("e\u0301a\u0308", "éä"), ("①ﬁ", "①ﬁ")],
}


@pytest.mark.parametrize(
    ("switch", "text", "cleaned"), [(switch, *case) for switch, cases in CASES.items() for case in cases]
)
def test_a_switch_takes_away_what_it_names_and_nothing_else(switch: str, text: str, cleaned: str) -> None:
    cleaner = Cleaner(switch)
    assert cleaner(text) == cleaned
    assert cleaner.changed == {switch: int(text != cleaned)}
    others = Cleaner(",".join(name for name in SWITCHES if name != switch))
    assert others(text) == others(others(text))


def test_without_switches_a_text_is_only_stripped() -> None:
    cleaner = Cleaner("")
    assert cleaner(f" a\x07[1]{BOUNDARY}e\u0301 ") == f"a\x07[1]{BOUNDARY}e\u0301"
    assert cleaner.changed == {}


@settings(max_examples=150)
@given(texts=st.lists(TEXTS, min_size=1, max_size=4))
def test_the_texts_of_a_record_are_cleaned_each_on_its_own_and_once_is_enough(texts: list[str]) -> None:
    cleaned = Cleaner(ALL)(BOUNDARY.join(texts))
    assert cleaned.split(BOUNDARY) == [Cleaner(ALL)(text) for text in texts]
    assert Cleaner(ALL)(cleaned) == cleaned
    assert unicodedata.is_normalized("NFC", cleaned)


@pytest.mark.parametrize("switch", SWITCHES)
def test_whatever_a_switch_changes_is_found_among_many(switch: str) -> None:
    """Each character of the basic plane, between letters and where a line ends."""
    characters = [chr(code) for code in range(1, 0x10000) if not 0xD800 <= code < 0xE000]
    texts = [form.format(character) for form in ("a{}b", "a {}\nb") for character in characters]
    changed = [BOUNDARY.join(part.strip() for part in SWITCHES[switch](text).split(BOUNDARY)) for text in texts]
    assert Cleaner(switch).all(texts) == changed


@settings(max_examples=150)
@given(records=st.lists(st.lists(TEXTS.map(str.strip), min_size=1, max_size=4).map(BOUNDARY.join), max_size=6))
def test_many_records_are_cleaned_as_each_would_be_alone(records: list[str]) -> None:
    together, alone = Cleaner(ALL), Cleaner(ALL)
    assert together.all(records) == [alone(record) for record in records]
    assert together.changed == alone.changed


@pytest.mark.parametrize(
    "unit", [" ", "\t", "\n", " \n", "\r", "[", "[1", "a.b", "f(", "int a", "] ", "\u00a0", "\x1b[1;", "e\u0301"]
)
def test_repetitive_text_takes_no_longer_than_its_length_explains(unit: str) -> None:
    """A pattern that tried every end from every start would take hours."""
    started = time.process_time()
    Cleaner(ALL)(f"a{unit * (1_000_000 // len(unit))}b \nc")
    assert time.process_time() - started < 10


def test_switches_run_in_one_order_however_they_are_listed() -> None:
    assert parse_cleaning(" nfc, control ,") == ("control", "nfc")
    assert parse_cleaning("") == ()


def test_an_unknown_switch_is_named() -> None:
    with pytest.raises(ParameterError, match="cleaning: 'html' is not a switch; allowed: control, whitespace, "):
        parse_cleaning("nfc,html")
