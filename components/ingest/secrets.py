"""Finds secrets in text: keys by their issuer's prefix, and tokens that look random."""

import base64
import binascii
import itertools
import json
import math
import re
from collections import Counter
from collections.abc import Iterator
from functools import lru_cache

Found = Iterator[tuple[int, int]]

KEY = re.compile(
    r"-----BEGIN (?P<name>[A-Z0-9 ]{0,30}PRIVATE KEY(?: BLOCK)?)-----"
    r"(?:[^\0]{0,8000}?-----END (?P=name)-----|(?:\s|\\n|\\r|[A-Za-z0-9+/=:,.-])*)",
)
WEB_TOKEN = re.compile(r"(?<![\w.-])(eyJ[\w-]{8,})\.[\w-]{4,}\.[\w-]*", re.ASCII)
AWS = re.compile(
    r"(?<!\w)(?:AKIA|ASIA)[A-Z2-7]{16}(?!\w)"
    r"|(?i:aws_?secret\w*|secret_?access_?key)[\"']?\s{0,2}[=:]\s{0,2}[\"']?(?P<value>[A-Za-z0-9+/]{40})(?![\w+/])",
    re.ASCII,
)
GITHUB = re.compile(
    r"(?<!\w)(?:gh[pousr]_[A-Za-z0-9]{36,255}|github_pat_[A-Za-z0-9]{22}_[A-Za-z0-9]{59})(?!\w)", re.ASCII
)
SLACK = re.compile(
    r"(?<!\w)(?:xox[abeoprs]-[\w-]{10,}\w|xapp-\d-[\w-]{10,}\w"
    r"|https://hooks\.slack\.com/(?:services|workflows|triggers)/[\w/]{20,})",
    re.ASCII,
)
GOOGLE = re.compile(r"(?<!\w)(?:AIza[\w-]{35}|GOCSPX-[\w-]{28}|ya29\.[\w-]{20,})(?![\w-])", re.ASCII)
# Issuers whose tokens say whose they are; what follows the prefix is random.
PREFIXES = ("k_live_", "k_test_", "sk-", "glpat-", "npm_", "pypi-", "hf_", "dop_v1_", "shpat_", "shpss_", "shpca_",
            "SG.", "whsec_", "dckr_pat_", "AccountKey=")  # fmt: skip
ISSUED = re.compile(
    r"(?<!\w)(?:(?:sk|rk|pk)_(?:live|test)_|sk-(?:ant-|proj-)?|glpat-|npm_|pypi-|hf_|dop_v1_|shp(?:at|ss|ca)_|SG\.|"
    r"whsec_|dckr_pat_|AccountKey=)[\w+/=.-]{15,}\w",
    re.ASCII,
)
NAME = (
    r"(?:api[ _-]?key|secret(?:[ _-]?key)?|token|passw(?:or)?d|pwd|credential|private[ _-]?key|access[ _-]?key)s?"
    r"(?:[_-](?:prod(?:uction)?|dev(?:elopment)?|test|stag(?:e|ing)|live|main|old|new|v?\d{1,2}))?"
)
VALUE = r"[\"'`]?(?P<value>[!#-%+\-./0-9:=?@A-Z\\^_a-z~]{8,})"
NAMED = re.compile(rf"(?i:{NAME})[\"']?\s{{0,2}}(?:=>?|:|\bis\b:?)\s{{0,2}}{VALUE}")
ELEMENT = re.compile(rf"<(?:[a-zA-Z]{{1,20}}[:_-])?(?i:{NAME})>{VALUE}(?=</)")
OPTION = re.compile(rf"--(?:[a-z]{{1,20}}-)?(?i:{NAME}) {VALUE}")
DOTTED = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*", re.ASCII)
NAMES = ("secret", "token", "passw", "pwd", "credential", "bearer ", "authorization")
KEYS = re.compile(r"(?:api|access|private)[ _-]?key")
BEARER = re.compile(r"(?i:\b(?:bearer|authorization: basic)) (?P<value>[\w+/=.~-]{16,})")
IN_URL = re.compile(r"[a-z]://[^\s/:@]*:(?P<value>[^\s/@]+)@[\w.-]")
TOKEN = re.compile(r"(?<![\w+/.-])[\w+/-]{20,}={0,2}", re.ASCII)
DIGIT = re.compile(r"[0-9]")
# What is random but public: digests, public keys, certificates, embedded images.
PUBLIC = re.compile(r"(?:sha\d{1,3}[-:]|md5[-:]|base64,|ssh-[a-z0-9]+ |ecdsa[\w-]* )$", re.IGNORECASE)
DIGEST = re.compile(r"sha\d{1,3}[-:]|md5[-:]", re.IGNORECASE)
PUBLIC_BLOCK = re.compile(
    r"-----BEGIN (?![A-Z ]*PRIVATE)(?P<name>[A-Z0-9 ]{1,40})-----[^\0]{0,8000}?-----END (?P=name)-----"
)
# No token that is told by its looks or its issuer is shorter.
SHORTEST = 18
TRAILING = ".?!:"


@lru_cache(1)
def lowered(text: str) -> str:
    """A text in lower case, made once for all that look for words in it."""
    return text.lower()


@lru_cache(1)
def long_words(text: str) -> list[str]:
    """The words of a text in which a token could stand."""
    return [word for word in text.replace("\0", " ").split() if len(word) >= SHORTEST]


def mentions(text: str, words: tuple[str, ...]) -> bool:
    """Whether one of these stands in a text, whatever its letter case."""
    return any(map(lowered(text).__contains__, words))


def private_keys(text: str) -> Found:
    """PEM and PGP private keys, whole; without their end, as far as the key's alphabet goes."""
    if "-----BEGIN " in text:
        yield from (match.span() for match in KEY.finditer(text))


def web_tokens(text: str) -> Found:
    """JSON web tokens (RFC 7519): a header that decodes to an object with an algorithm."""
    if "eyJ" in text:
        yield from (match.span() for match in WEB_TOKEN.finditer(text) if _is_header(match[1]))


def _is_header(part: str) -> bool:
    try:
        return "alg" in json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    except (ValueError, TypeError, binascii.Error):
        return False


def aws_keys(text: str) -> Found:
    """Access key ids, and secret access keys behind their name."""
    if "AKIA" in text or "ASIA" in text or "ecret" in text or "SECRET" in text:
        for match in AWS.finditer(text):
            yield match.span("value") if match["value"] else match.span()


def github_tokens(text: str) -> Found:
    """Personal, OAuth, user, server and refresh tokens."""
    if ("gh" in text and "_" in text) or "github_pat_" in text:
        yield from (match.span() for match in GITHUB.finditer(text))


def slack_tokens(text: str) -> Found:
    """Bot, user, app and workspace tokens, and webhooks."""
    if "xox" in text or "xapp-" in text or "hooks.slack" in text:
        yield from (match.span() for match in SLACK.finditer(text))


def google_keys(text: str) -> Found:
    """API keys, OAuth client secrets and access tokens."""
    if "AIza" in text or "GOCSPX-" in text or "ya29." in text:
        yield from (match.span() for match in GOOGLE.finditer(text))


def url_passwords(text: str) -> Found:
    """The password of user:password@host in a URL."""
    if "://" in text and "@" in text:
        yield from (match.span("value") for match in IN_URL.finditer(text))


def issued_tokens(text: str) -> Found:
    """Tokens of further issuers, by their prefix."""
    if any(map(text.__contains__, PREFIXES)):
        yield from (match.span() for match in ISSUED.finditer(text))


def named_secrets(text: str) -> Found:
    """What is called a secret, token, key or password, and is no word."""
    if not (mentions(text, NAMES) or (mentions(text, ("key",)) and KEYS.search(lowered(text)))):
        return
    for pattern in (BEARER, NAMED, ELEMENT, OPTION):
        for match in pattern.finditer(text):
            quoted = text[match.end() : match.end() + 1] in ('"', "'", "`")
            value = match["value"] if quoted else match["value"].rstrip(TRAILING)
            if _is_mixed(value) and (quoted or not _is_looked_up(value, text, match.start("value"))):
                yield match.start("value"), match.start("value") + len(value)


def _is_looked_up(value: str, text: str, start: int) -> bool:
    """Whether a value without quotes is an expression of a program: settings.KEY2, word2vec(x)."""
    called = text[start + len(value) : start + len(value) + 1] == "("
    return ("." in value or called) and DOTTED.fullmatch(value) is not None and not _is_random(value)


def random_tokens(text: str) -> Found:
    """Tokens that look random."""
    if not any(map(DIGIT.search, long_words(text))):
        return
    tokens = list(TOKEN.finditer(text))
    blocks = [block.span() for block in PUBLIC_BLOCK.finditer(text)] if tokens and "-----BEGIN" in text else []
    for match in tokens:
        value = match[0].rstrip(TRAILING)
        public = PUBLIC.search(text, max(0, match.start() - 12), match.start()) or DIGEST.match(value)
        if not public and _is_random(value) and not any(start < match.start() < end for start, end in blocks):
            yield match.start(), match.start() + len(value)


def _is_mixed(value: str) -> bool:
    """Letters and digits, and not mostly one character: a password, not a word."""
    return len(value) >= 8 and any(map(str.isdigit, value)) and any(map(str.isalpha, value)) and entropy(value) >= 2.5


def _is_random(value: str) -> bool:
    """At least 20 characters of three kinds, which change as often as in random text, and rarely repeat."""
    kinds = ["d" if c.isdigit() else "u" if c.isupper() else "l" if c.islower() else "" for c in value]
    kinds = [kind for kind in kinds if kind]
    if len(kinds) < 20 or len(set(kinds)) < 3:
        return False
    changes = sum(one != other for one, other in itertools.pairwise(kinds))
    return changes / len(kinds) >= 0.35 and entropy(value) >= 3.5


def entropy(value: str) -> float:
    """Shannon's entropy in bits a character."""
    return -sum(count / len(value) * math.log2(count / len(value)) for count in Counter(value).values())
