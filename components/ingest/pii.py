"""Finds personal data in text: what a pattern proposes, a check digit, a number plan or a parser confirms."""

import bisect
import ipaddress
import re
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from components.ingest import secrets

Found = Iterator[tuple[int, int]]

# Between a word such as "passport" and its value: "passport number is: 'X", "Reisepass-Nr.: X".
GLUE = (
    r"(?:[ _.-]{0,2}(?:(?:number|nummer|num|no|nr|id)\b|n[°º.]))?"
    r"""[.:：#]?\s?(?:is|was|=|:|with number)?\s?["'(#]?"""
)
# A number behind one of these is no person's, whatever its form.
THING = re.compile(
    r"(?<![a-z])(?:order|invoice|act|no|nr|isbn(?:-1[03])?|part|po|sku|item|serial|model|ticket|case|ref|tracking|article|doi|zip|page|"
    r"version|v|rev|release|build|firmware|section|chapter|clause|pages|scores?|[a-z]+/)" + GLUE + r"[#$€£]?$",
    re.IGNORECASE,
)
# The patterns begin with what is rare, and look behind afterwards: so the engine skips plain text fast.
GAP = r"[ ().\-/\u00a0\u2011\u2013\u202f]{0,3}"
DIGITS = re.compile(rf"[0-9](?:{GAP}[0-9]){{6}}")
SEPARATORS = re.compile(r"[^\d+]+", re.ASCII)

# Letters as addresses have them: where words are not divided by spaces, the text around an address is no part of it.
LETTER = r"\wÀ-ɏͰ-ϿЀ-ӿ"
EMAIL = re.compile(
    rf"(?<![{LETTER}])[{LETTER}][{LETTER}.+%'&-]{{0,63}}(?:@|\s?[(\[]at[)\]]\s?)(?:[{LETTER}][{LETTER}-]{{0,62}}\.)+"
    r"(?!(?:png|jpe?g|gif|svg|webp)\b)[A-Za-zÀ-ɏͰ-ϿЀ-ӿ]{2,24}\b", re.ASCII
)  # fmt: skip
IPV4 = re.compile(r"[0-9](?<![\w.].)[0-9]{0,2}(?:\.[0-9]{1,3}){3}(?!\.?\d|\w)", re.ASCII)
IPV6 = re.compile(r":(?<![\w:.][0-9a-fA-F]{4}:)[0-9a-fA-F]{0,4}:[0-9a-fA-F:.]{0,40}[0-9a-fA-F](?![\w:])", re.ASCII)
HEXTET = re.compile(r"(?<![\w:.])[0-9a-fA-F]{0,4}$", re.ASCII)
CARD = re.compile(
    r"[2-6](?<![\w.+/-].)\d{3}(?:\d{8,15}|([ -])(?:\d{4}\1\d{4}\1\d{1,7}|\d{6}\1\d{4,5}))(?![\w-]|\.\d)", re.ASCII
)
ISSUERS = re.compile(
    r"4(?:\d{12}|\d{15}|\d{18})|(?:5[1-5]|2[2-7]|35)\d{14}|3[47]\d{13}|(?:30[0-5]|36\d|38\d)\d{11}|6(?:011|4|5|2)\d{12,16}"
)
IBAN = re.compile(
    r"[0-9][0-9](?<=\b[A-Za-z]{2}[0-9]{2})(?:[A-Za-z0-9]{11,30}|(?: [A-Za-z0-9]{4}){2,7}(?: [A-Za-z0-9]{1,3})?)(?!\w)",
    re.ASCII,
)
WORD = re.compile(r"\w", re.ASCII)
# ISO 13616: the length of an IBAN by country.
IBAN_LENGTHS = {
    15: "NO", 16: "BE", 18: "DK FI FO GL NL SD", 19: "MK SI", 20: "AT BA EE KZ LT LU MN XK", 21: "CH CR HR LI LV",
    22: "BG BH DE GB GE IE ME RS VA", 23: "AE GI IL IQ OM SO TL", 24: "AD CZ ES MD PK RO SA SE SK TN VG",
    25: "LY PT ST", 26: "IS TR", 27: "BI DJ FR GR IT MC MR SM", 28: "AL AZ BY CY DO GT HU LB NI PL SV",
    29: "BR EG PS QA UA", 30: "JO KW MU", 31: "MT SC", 33: "RU",
}  # fmt: skip
IBAN_LENGTH = {country: length for length, countries in IBAN_LENGTHS.items() for country in countries.split()}
SSN_NAMES = ("ssn", "social security")
SSN = r"(?!000|666|9\d\d)\d{3}(?P<s>[- ]?)(?!00)\d{2}(?P=s)(?!0000)\d{4}(?!\w|-\d)"
SSN_SHAPE = re.compile(r"[0-8](?<![\w-].)\d\d-(?<!000-)(?<!666-)(?!00)\d{2}-(?!0000)\d{4}(?!\w|-\d)", re.ASCII)
SSN_NAMED = re.compile(r"\b(?:ssn\)?|social security)" + GLUE + f"(?P<value>{SSN})", re.IGNORECASE | re.ASCII)
PASSPORT_NAMES = ("passport", "travel document", "reisepass", "passeport", "pasaporte", "passaporto", "paspoort")
PASSPORT = re.compile(
    rf"(?:{'|'.join(PASSPORT_NAMES)})" + GLUE +
    r"(?-i:(?P<value>(?=[A-Z]*\d)[A-Z0-9]{7,9}))(?!\w)", re.IGNORECASE | re.ASCII
)  # fmt: skip
PHONE_INTERNATIONAL = tuple(
    (prefix, re.compile(re.escape(prefix) + rf"(?<!\w{re.escape(prefix)})[1-9](?:{GAP}[0-9]){{6,14}}(?!\w)", re.ASCII))
    for prefix in ("+", "00")
)
PHONE_NATIONAL = re.compile(rf"[0-9](?<![\w+.\-/:].)(?:{GAP}[0-9]){{6,13}}(?![\w%]|[-.,]\d)", re.ASCII)
PHONE_WORD = (
    r"(?:\b(?:tel|phone|telephone|mobile|mob|cell|fax|call|ring|dial|sms|whatsapp|hotline|contact|reach|text|"
    r"telefon|mobil|handy|ruf|tél|téléphone|portable|teléfono|telefono|móvil|celular|cellulare|telefone|telemóvel|"
    r"telefoon|mobiel|gsm|тел|телефон|моб)|(?:电话|電話|手机|手機|携帯)(?:号码|號碼|番号)?)"
)
PHONE_NAMED = re.compile(PHONE_WORD + GLUE + r"\s?(?:(?:me |us |him |her |them |you )?(?:at |on )?)\(?$", re.IGNORECASE)
PHONE_MEANT = re.compile(rf"{PHONE_WORD}\b|\bnumber (?:is|was)\b", re.IGNORECASE)
# Numbers written as at home, without a word that tells what they are: North America's, and a trunk 0.
NANP = re.compile(r"(?:1[ .-])?(?:\([2-9]\d\d\) ?|([2-9]\d\d)([ .-]))([2-9]\d\d)(?(2)\2|[ .-])(\d{4})")
SIZES = frozenset(("1024", "2048", "4096", "8192"))  # of layers and images: 256-512-1024
TRUNK = re.compile(r"\(?0\d{1,5}[)/]?[ \-/.]?\d[\d \-/.]+")
# What has the shape of such a number and is none: a date, the groups of an IBAN or a card.
DATE = re.compile(r"\d{1,2}([./-])\d{1,2}\1(?:\d{2}|\d{4})|(?:19|20)\d\d([./-])\d{1,2}\2\d{1,2}.*")
LISTED = re.compile(r"^[0-9]{1,2}[.)] ")
YEARS = re.compile(r"(?:1[5-9]|20)\d\d ?[-/] ?(?:1[5-9]|20)?\d\d")
GROUP = re.compile(r"(?:[A-Z]{2}\d\d|\d{4})(?: \w{4})* $")
TRUNK_REGIONS = ("GB", "DE", "FR", "NL", "BE", "CH", "AT", "SE", "AU", "JP", "IN", "BR", "IL", "ZA", "IE", "NZ", "CN")


class Span(NamedTuple):
    """Characters start to end of a text, and what they are."""

    start: int
    end: int
    type: str


def find(text: str, names: Callable[[str], Iterable[tuple[int, int]]] | None = None) -> list[Span]:
    """The personal data and secrets of a text, in order, without overlaps.

    Args:
        names: also finds people's names, as (start, end).
    """
    spans: list[Span] = []
    useless: frozenset[Callable[[str], Found]] = frozenset()
    if not DIGITS.search(text):
        useless |= NUMERIC
    if all(map(str.isalpha, secrets.long_words(text))):
        useless |= LONG
    for type_, detector in DETECTORS:
        if detector not in useless:
            _add(spans, type_, detector(text))
    if names:
        _add(spans, "PERSON", names(text))
    return spans


def _add(spans: list[Span], type_: str, found: Iterable[tuple[int, int]]) -> None:
    """Adds to spans, which are in order, what overlaps none of them: whoever comes first keeps its characters."""
    for start, end in found:
        place = bisect.bisect(spans, (start,))
        free_before = place == 0 or spans[place - 1].end <= start
        free_after = place == len(spans) or end <= spans[place].start
        if start < end and free_before and free_after:
            spans.insert(place, Span(start, end, type_))


def emails(text: str) -> Found:
    """Addresses, also with (at) for @."""
    if "@" in text or "(at)" in text or "[at]" in text:
        yield from (match.span() for match in EMAIL.finditer(text))


def addresses(text: str) -> Found:
    """IPv4 and IPv6 addresses of other machines: no loopback, no netmask, no version number."""
    for match in IPV4.finditer(text):
        if not THING.search(text, max(0, match.start() - 30), match.start()) and _is_address(match[0]):
            yield match.span()
    if text.count(":") > 1:
        for match in IPV6.finditer(text):
            first = HEXTET.search(text, max(0, match.start() - 5), match.start())
            if first and any(map(str.isdigit, match[0])) and _is_address(first[0] + match[0]):
                yield first.start(), match.end()


def _is_address(text: str) -> bool:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    return not (address.is_loopback or address.is_unspecified or text.startswith(("0.", "255.")))


def cards(text: str) -> Found:
    """Payment cards: an issuer's prefix and length (ISO 7812), and Luhn's check digit."""
    for match in CARD.finditer(text):
        digits = re.sub(r"\D", "", match[0])
        if ISSUERS.fullmatch(digits) and _luhn(digits):
            yield match.span()


def _luhn(digits: str) -> bool:
    doubled = (sum(divmod(2 * int(digit), 10)) for digit in digits[-2::-2])
    return (sum(map(int, digits[-1::-2])) + sum(doubled)) % 10 == 0


def ibans(text: str) -> Found:
    """Bank accounts: the country's length and ISO 7064's remainder of 1 modulo 97."""
    for match in IBAN.finditer(text):
        start = end = match.start() - 2
        length = IBAN_LENGTH.get(text[start : start + 2].upper(), 0)
        for _ in range(length):
            end += 1 + text[end : end + 1].isspace()
        number = text[start:end].replace(" ", "")
        if len(number) == length > 0 and not WORD.match(text, end) and _remainder(number) == 1:
            yield start, end


def _remainder(iban: str) -> int:
    """ISO 7064: the number, its first four characters last and letters as 10 to 35, modulo 97."""
    if not (iban.isascii() and iban.isalnum()):
        return 0
    return int("".join(str(int(character, 36)) for character in iban[4:] + iban[:4])) % 97


def ssns(text: str) -> Found:
    """US social security numbers: 3-2-4 digits, or nine behind their name; never what the SSA does not issue."""
    if secrets.mentions(text, SSN_NAMES):
        yield from (match.span("value") for match in SSN_NAMED.finditer(text))
    for match in SSN_SHAPE.finditer(text):
        if not THING.search(text, max(0, match.start() - 30), match.start()):
            yield match.span()


def passports(text: str) -> Found:
    """Seven to nine letters and digits behind the word passport in one of several languages."""
    if secrets.mentions(text, PASSPORT_NAMES):
        yield from (match.span("value") for match in PASSPORT.finditer(text))


def phones(text: str) -> Found:
    """Phone numbers that a number plan knows, or that a word before them names."""
    for prefix, pattern in PHONE_INTERNATIONAL:
        for match in pattern.finditer(text) if prefix in text else ():
            start = match.start() - _opens_before(text, match)
            before = text[max(0, start - 30) : start]
            end = _valid_end(match[0])
            if end and (PHONE_NAMED.search(before) or not THING.search(before)):  # the no. of "phone no." is a phone's
                yield start, match.start() + end
    for match in PHONE_NATIONAL.finditer(text):
        start, end = match.span()
        if YEARS.fullmatch(match[0]):
            continue
        start += len(match[0]) - len(LISTED.sub("", match[0]))
        start -= start == match.start() and _opens_before(text, match)
        before = text[max(0, start - 30) : start]
        other = THING.search(before) or GROUP.search(before)
        if PHONE_NAMED.search(before) or (not other and _at_home(text[start:end], before)):
            yield start, end


def _opens_before(text: str, match: re.Match[str]) -> bool:
    """Whether the number's first bracket was opened just before it."""
    brackets = re.sub(r"[^()]", "", match[0])
    return brackets.startswith(")") and text[match.start() - 1 : match.start()] == "("


def _valid_end(candidate: str) -> int:
    """Where a valid number ends that begins with + or 00; what follows may be another number. 0: nowhere."""
    end = len(candidate)
    while end > 7:
        if _is_valid("+" + SEPARATORS.sub("", candidate[:end]).removeprefix("00").replace("+", "")):
            return end
        end = max((gap.start() for gap in SEPARATORS.finditer(candidate, 1, end)), default=0)
    return len(candidate) if candidate.startswith("+") and _is_possible(candidate) else 0


def _is_valid(number: str, region: str | None = None) -> bool:
    import phonenumbers

    try:
        return bool(phonenumbers.is_valid_number(phonenumbers.parse(number, region)))
    except phonenumbers.NumberParseException:
        return False


def _is_possible(number: str) -> bool:
    """Whether a country has numbers of this length; its plan may have grown since the library's was written."""
    import phonenumbers

    try:
        reason = phonenumbers.is_possible_number_with_reason(phonenumbers.parse(number))
        return bool(reason == phonenumbers.ValidationResult.IS_POSSIBLE)
    except phonenumbers.NumberParseException:
        return False


def _at_home(candidate: str, before: str) -> bool:
    """Whether a number is written as at home in a country where such a number exists."""
    if DATE.fullmatch(candidate):
        return False
    if nanp := NANP.fullmatch(candidate):
        return "(" in candidate or _is_american(candidate, nanp, before)
    return (
        TRUNK.fullmatch(candidate) is not None
        and not candidate.isdigit()
        and any(_is_valid(candidate, region) for region in TRUNK_REGIONS)
    )


def _is_american(candidate: str, nanp: re.Match[str], before: str) -> bool:
    """Whether three groups of digits are a number of North America's, and not any three numbers."""
    area, gap, exchange, line = nanp.groups()
    if area == exchange or line in SIZES or exchange.endswith("11"):
        return False
    return (gap != " " or PHONE_MEANT.search(before) is not None) and _is_valid(candidate, "US")


# In order: whoever comes first keeps its characters.
DETECTORS: tuple[tuple[str, Callable[[str], Found]], ...] = (
    ("PRIVATE_KEY", secrets.private_keys),
    ("JWT", secrets.web_tokens),
    ("AWS_KEY", secrets.aws_keys),
    ("GITHUB_TOKEN", secrets.github_tokens),
    ("SLACK_TOKEN", secrets.slack_tokens),
    ("GOOGLE_KEY", secrets.google_keys),
    ("SECRET", secrets.url_passwords),
    ("EMAIL", emails),
    ("IBAN", ibans),
    ("PASSPORT", passports),
    ("CREDIT_CARD", cards),
    ("US_SSN", ssns),
    ("IP_ADDRESS", addresses),
    ("PHONE", phones),
    ("SECRET", secrets.issued_tokens),
    ("SECRET", secrets.named_secrets),
    ("SECRET", secrets.random_tokens),
)
# Looked for only where there are seven digits near each other, or a long word.
NUMERIC = frozenset((cards, ssns, phones))
LONG = frozenset(
    (secrets.web_tokens, secrets.github_tokens, secrets.slack_tokens, secrets.issued_tokens, secrets.random_tokens)
)
