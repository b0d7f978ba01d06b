"""Made-up personal data and secrets, and what only looks like them. Seeded; knows nothing of the detectors.

A maker returns a value, or a cue, a tab and the value, and perhaps a tab and what follows it.

Formats come from the standards (E.164 and national plans, ISO 13616, ISO 7812, RFC 4291, RFC 7519, the SSA's rules)
and from how the issuers print them. No value belongs to anybody on purpose.
"""

import base64
import json
import random
import string
import uuid
from collections.abc import Callable

Maker = Callable[[random.Random], str]

BASE62 = string.ascii_letters + string.digits
FIRST = ("anna", "bjorn", "chen", "dolores", "emeka", "fatima", "george", "hanako", "ivan", "josé", "maeve", "o'neil")
LAST = ("smith", "garcía", "okafor", "tanaka", "müller", "dubois", "rossi", "kowalski", "nguyen", "van-dyk", "lee")
HOSTS = (
    "example",
    "acme-corp",
    "mail",
    "uni-bonn",
    "my.company",
    "sub.domain.host",
    "4chan",
    "xn--mller-kva",
    "bücher",
)
TLDS = ("com", "org", "net", "de", "co.uk", "io", "museum", "travel", "com.au", "fr", "online", "gov", "edu", "xyz")
# Country code, and national numbers without the trunk prefix in the groups in which the country writes them.
PHONES = (
    ("1", ("2## 55# ####", "31# 68# ####", "41# 22# ####", "64# 93# ####"), "1"),
    ("44", ("20 79## ####", "161 49# ####", "7911 ######", "1224 ######"), "0"),
    ("49", ("30 2######", "89 3#######", "151 2#######", "6221 5#####"), "0"),
    ("33", ("1 42 ## ## ##", "6 12 ## ## ##", "4 91 ## ## ##"), "0"),
    ("39", ("06 698 #####", "347 12# ####"), ""),
    ("34", ("91 12# ## ##", "612 34# ###"), ""),
    ("31", ("20 62# ####", "6 123# ####"), "0"),
    ("41", ("44 66# ## ##", "79 12# ## ##"), "0"),
    ("43", ("1 53#####", "664 12#####"), "0"),
    ("46", ("8 50# ### ##", "70 17# ## ##"), "0"),
    ("61", ("2 937# ####", "412 3## ###"), "0"),
    ("81", ("3 321# ####", "90 123# ####"), "0"),
    ("91", ("98765 #####", "22 2202 ####"), "0"),
    ("55", ("11 3123 ####", "11 9612# ####"), "0"),
    ("86", ("138 1234 ####", "10 6552 ####"), "0"),
    ("48", ("22 60# ## ##", "512 34# ###"), ""),
    ("7", ("495 12# ## ##", "916 12# ## ##"), "8"),
    ("972", ("3 51# ####", "50 23# ####"), "0"),
    ("27", ("21 48# ####", "82 12# ####"), "0"),
    ("65", ("6225 ####", "8123 ####"), ""),
)
# ISO 13616: country and the shape of the account number; n a digit, a a capital letter, c either.
IBANS = {
    "GB": "aaaannnnnnnnnnnnnn", "DE": "n" * 18, "FR": "n" * 10 + "c" * 11 + "nn", "ES": "n" * 20,
    "NL": "aaaa" + "n" * 10,
    "IT": "a" + "n" * 10 + "c" * 12, "CH": "n" * 5 + "c" * 12, "AT": "n" * 16, "BE": "n" * 12, "PL": "n" * 24,
    "SE": "n" * 20, "NO": "n" * 11, "DK": "n" * 14, "PT": "n" * 21, "IE": "aaaa" + "n" * 14, "SA": "nn" + "c" * 18,
    "TR": "n" * 6 + "c" * 16, "AE": "n" * 19, "MT": "aaaannnnn" + "c" * 18, "LU": "nnn" + "c" * 13,
}  # fmt: skip
# ISO 7812: an issuer's prefix and its numbers' length.
CARDS = (("4", 16), ("4", 13), ("51", 16), ("55", 16), ("2221", 16), ("34", 15), ("37", 15), ("6011", 16), ("36", 14))


def digits(pick: random.Random, count: int) -> str:
    return "".join(pick.choices(string.digits, k=count))


def fill(pick: random.Random, pattern: str) -> str:
    return "".join(pick.choice(string.digits) if character == "#" else character for character in pattern)


def token(pick: random.Random, length: int, alphabet: str = BASE62) -> str:
    return "".join(pick.choices(alphabet, k=length))


def email(pick: random.Random) -> str:
    first, last = pick.choice(FIRST), pick.choice(LAST)
    local = pick.choice(
        (f"{first}.{last}", f"{first[0]}{last}", f"{first}_{last}{digits(pick, 2)}", f"{first}+news", f"{last}-{first}")
    )
    address = f"{local}@{pick.choice(HOSTS)}.{pick.choice(TLDS)}"
    shape = pick.random()
    if shape < 0.1:
        return address.upper()
    return address.replace("@", pick.choice(("(at)", " [at] ", " (at) "))) if shape < 0.15 else address


def phone(pick: random.Random) -> str:
    code, plans, trunk = pick.choice(PHONES)
    groups = fill(pick, pick.choice(plans)).split()
    area, rest = groups[0], groups[1:]
    separator = pick.choice((" ", " ", "-", ".", "\u00a0", "\u2013"))
    joined = separator.join(groups)
    shapes = [
        f"+{code}{''.join(groups)}",
        f"+{code} {' '.join(groups)}",
        f"+{code}{separator}{joined}",
        f"+{code} ({area}) {separator.join(rest)}",
        f"00{code} {' '.join(groups)}",
        f"(+{code}) {' '.join(groups)}",
        f"tel:\t+{code}-{'-'.join(groups)}",
        f"Tel. \t{trunk if trunk == '0' else ''}{joined}",
        f"phone: \t{trunk if trunk == '0' else ''}{joined}",
        f"mobile \t{trunk if trunk == '0' else ''}{''.join(groups)}",
    ]
    if code == "1":
        shapes += [f"({area}) {rest[0]}-{rest[1]}", "-".join(groups), ".".join(groups), f"1-{'-'.join(groups)}"] * 2
    elif trunk == "0":
        shapes += [f"+{code} (0){' '.join(groups)}", f"+{code} (0) {area} / {separator.join(rest)}"]
        shapes += [f"0{' '.join(groups)}", f"0{area}/{' '.join(rest)}", f"(0{area}) {' '.join(rest)}"]
    return pick.choice(shapes)


def ipv4(pick: random.Random) -> str:
    first = pick.choice((10, 172, 192, *range(11, 126), *range(128, 224)))
    address = f"{first}.{pick.randrange(256)}.{pick.randrange(256)}.{pick.randrange(1, 255)}"
    return pick.choice(
        (
            address,
            address,
            f"http://\t{address}\t/index.html",
            f"\t{address}\t:8080",
            f"\t{address}\t/24",
            f"ip={address}".replace("=", "=\t"),
        )
    )


def ipv6(pick: random.Random) -> str:
    groups = [f"{pick.randrange(65536):x}" for _ in range(8)]
    groups[0] = pick.choice(("2001", "2a02", "fe80", "fd12", "2606"))
    shape = pick.random()
    if shape < 0.4:
        start = pick.randrange(1, 6)
        return ":".join(groups[:start]) + "::" + ":".join(groups[pick.randrange(start + 1, 8) :])
    if shape < 0.6:
        return ":".join(f"{int(group, 16):04x}" for group in groups)
    full = ":".join(groups)
    return pick.choice((full, full.upper(), f"http://[\t{full}\t]:443/", f"\t{full}\t/64"))


def luhn_digit(number: str) -> str:
    total = sum(sum(divmod(int(digit) * (2 - index % 2), 10)) for index, digit in enumerate(reversed(number)))
    return str(-total % 10)


def card_number(pick: random.Random) -> str:
    prefix, length = pick.choice(CARDS)
    number = prefix + digits(pick, length - len(prefix) - 1)
    number += luhn_digit(number)
    separator = pick.choice(("", " ", "-"))
    cuts = (4, 10, length) if length in (14, 15) else range(4, length + 4, 4)
    starts = (0, *cuts)
    return separator.join(number[start:cut] for start, cut in zip(starts, cuts, strict=False))


def card(pick: random.Random) -> str:
    number = card_number(pick)
    return pick.choice((number, number, f"\t{number}\t exp 12/27", f"Visa \t{number}", f"card no. \t{number}"))


def iban_number(pick: random.Random) -> str:
    country, shape = pick.choice(list(IBANS.items()))
    kinds = {"n": string.digits, "a": string.ascii_uppercase, "c": string.ascii_uppercase + string.digits}
    account = "".join(pick.choice(kinds[kind]) for kind in shape)
    number = int("".join(str(int(character, 36)) for character in f"{account}{country}00"))
    text = f"{country}{98 - number % 97:02d}{account}"
    if pick.random() < 0.5:
        text = " ".join(text[start : start + 4] for start in range(0, len(text), 4))
    return text.lower() if pick.random() < 0.08 else text


def iban(pick: random.Random) -> str:
    text = iban_number(pick)
    return pick.choice((text, text, f"IBAN: \t{text}", f"IBAN\u00a0\t{text}", f"\t{text}\t BIC COBADEFFXXX"))


def ssn(pick: random.Random) -> str:
    area = pick.choice([number for number in range(1, 900) if number != 666])
    parts = f"{area:03d}", f"{pick.randrange(1, 100):02d}", f"{pick.randrange(1, 10000):04d}"
    cued = pick.choice(("SSN ", "SSN: ", "social security number is ", "Social Security No. "))
    return pick.choice(("-".join(parts), "-".join(parts), f"{cued}\t{''.join(parts)}", f"{cued}\t{' '.join(parts)}"))


def passport(pick: random.Random) -> str:
    number = pick.choice(
        (
            digits(pick, 9),
            pick.choice("ACXZ") + digits(pick, 8),
            digits(pick, 2) + token(pick, 2, string.ascii_uppercase) + digits(pick, 5),
            pick.choice("CFGHJK") + token(pick, 8, "0123456789CFGHJKLMNPRTVWXYZ"),
            token(pick, 2, string.ascii_uppercase) + digits(pick, 7),
            pick.choice("JKLMNPRSTUVWYZ") + digits(pick, 7),
        )
    )
    cue = pick.choice(
        ("passport number ", "Passport No. ", "passport: ", "Passport no: ", "Reisepass Nr. ", "passport number is ",
         "passeport n° ", "pasaporte ", "Passport #", "passport ", "travel document no. ", "passport with number ")
    )  # fmt: skip
    return f"{cue}\t{number}"


def aws_key(pick: random.Random) -> str:
    if pick.random() < 0.5:
        return pick.choice(("AKIA", "ASIA")) + token(pick, 16, string.ascii_uppercase + "234567")
    cue = pick.choice(("aws_secret_access_key = ", "AWS_SECRET_ACCESS_KEY=", 'aws_secret_key: "', "SecretAccessKey: "))
    return f"{cue}\t{token(pick, 40, BASE62 + '+/')}"


def github_token(pick: random.Random) -> str:
    if pick.random() < 0.2:
        return f"github_pat_{token(pick, 22)}_{token(pick, 59)}"
    return f"gh{pick.choice('pousr')}_{token(pick, 36)}"


def slack_token(pick: random.Random) -> str:
    upper = string.ascii_uppercase + string.digits
    return pick.choice(
        (
            f"xoxb-{digits(pick, 12)}-{digits(pick, 12)}-{token(pick, 24)}",
            f"xoxp-{digits(pick, 11)}-{digits(pick, 11)}-{digits(pick, 12)}-{token(pick, 32, '0123456789abcdef')}",
            f"xapp-1-A{token(pick, 10, upper)}-{digits(pick, 13)}-{token(pick, 64, '0123456789abcdef')}",
            f"https://hooks.slack.com/services/T{token(pick, 8, upper)}/B{token(pick, 10, upper)}/{token(pick, 24)}",
        )
    )


def google_key(pick: random.Random) -> str:
    urlsafe = BASE62 + "-_"
    return pick.choice(
        (
            f"AIza{token(pick, 34, urlsafe)}x",
            f"GOCSPX-{token(pick, 27, urlsafe)}x",
            f"ya29.{token(pick, 120, urlsafe)}x",
        )
    )


def jwt(pick: random.Random) -> str:
    parts = (
        {"alg": pick.choice(("HS256", "RS256", "none")), "typ": "JWT"},
        {"sub": digits(pick, 10), "name": pick.choice(FIRST), "iat": int(digits(pick, 9))},
    )
    encoded = [base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in parts]
    return ".".join((*encoded, token(pick, 43, BASE62 + "-_")))


def private_key(pick: random.Random) -> str:
    kind = pick.choice(("RSA ", "EC ", "OPENSSH ", "ENCRYPTED ", "", "DSA ", "PGP "))
    name = f"{kind}PRIVATE KEY{' BLOCK' if kind == 'PGP ' else ''}"
    body = [token(pick, 64, BASE62 + "+/") for _ in range(pick.randrange(3, 25))]
    newline = pick.choice(("\n", "\n", "\\n", "\r\n"))
    return newline.join((f"-----BEGIN {name}-----", *body, f"-----END {name}-----"))


def secret(pick: random.Random) -> str:
    """A random token that only its looks give away, or a word before it."""
    name = pick.choice(("api_key", "API key", "secret", "client_secret", "access token", "password", "auth_token"))
    said = f"{name}{pick.choice(('=', ': ', ' = ', ' is '))}\t"
    return pick.choice(
        (
            token(pick, pick.choice((24, 32, 40, 64))),
            token(pick, pick.choice((32, 43, 86)), BASE62 + "-_"),
            said + token(pick, pick.choice((16, 24, 32, 40))),
            said + token(pick, pick.choice((32, 40, 64)), "0123456789abcdef"),
            f"?access_token=\t{token(pick, 32)}\t&user=7",
            f'"apiKey": "\t{token(pick, 20)}\t"',
            f"export DB_PASSWORD='\t{token(pick, 12)}1!\t'",
            f"sk_live_{token(pick, 24)}",
            f"sk-{token(pick, 48)}",
            f"glpat-{token(pick, 20, BASE62 + '-_')}",
            f"Authorization: Bearer \t{token(pick, 40)}",
            f"postgres://app:\t{token(pick, 14)}\t@db.internal/orders",
        )
    )


POSITIVES: dict[str, tuple[Maker, ...]] = {
    "EMAIL": (email,),
    "PHONE": (phone,),
    "IP_ADDRESS": (ipv4, ipv6),
    "CREDIT_CARD": (card,),
    "IBAN": (iban,),
    "US_SSN": (ssn,),
    "PASSPORT": (passport,),
    "AWS_KEY": (aws_key,),
    "GITHUB_TOKEN": (github_token,),
    "SLACK_TOKEN": (slack_token,),
    "GOOGLE_KEY": (google_key,),
    "JWT": (jwt,),
    "PRIVATE_KEY": (private_key,),
    "SECRET": (secret,),
}


def isbn(pick: random.Random) -> str:
    body = f"{pick.choice(('978', '979'))}{digits(pick, 9)}"
    body += str(-sum(int(digit) * (1 + 2 * (index % 2)) for index, digit in enumerate(body)) % 10)
    cut = pick.choice((None, (3, 4, 6, 12), (3, 4, 8, 12), (3, 5, 9, 12)))
    if cut is None:
        return pick.choice(("ISBN ", "ISBN: ", "")) + body
    parts = [body[start:end] for start, end in zip((0, *cut), (*cut, 13), strict=True)]
    return pick.choice(("ISBN ", "ISBN-13: ", "")) + pick.choice("- ").join(parts)


def isbn10(pick: random.Random) -> str:
    body = digits(pick, 9)
    check = sum(int(digit) * (index + 1) for index, digit in enumerate(body)) % 11
    return f"ISBN {body[0]}-{body[1:4]}-{body[4:]}-{'X' if check == 10 else check}"


def order_number(pick: random.Random) -> str:
    return pick.choice(
        (
            f"order {digits(pick, pick.randrange(6, 13))}",
            f"order no. {pick.randrange(1, 10)}{digits(pick, 15)}",
            f"ORD-20{digits(pick, 2)}-{digits(pick, 7)}",
            f"PO #{digits(pick, 8)}",
            f"invoice {digits(pick, 4)}-{digits(pick, 5)}",
            f"#{digits(pick, 3)}-{digits(pick, 7)}-{digits(pick, 7)}",
            f"SKU {digits(pick, 4)}-{digits(pick, 4)}-{digits(pick, 2)}",
            f"1Z{token(pick, 6, string.ascii_uppercase + string.digits)}{digits(pick, 10)}",
            f"part number {digits(pick, 3)}-{digits(pick, 2)}-{digits(pick, 3)}",
        )
    )


def version(pick: random.Random) -> str:
    small = lambda: str(pick.randrange(25))  # noqa: E731
    return pick.choice(
        (
            f"v{small()}.{small()}.{small()}",
            f"version {small()}.{small()}.{small()}.{small()}",
            f"Chrome/{pick.randrange(60, 130)}.0.{pick.randrange(1000, 7000)}.{pick.randrange(200)}",
            f"firmware {small()}.{small()}.{small()}.{small()}",
            f"lodash@{small()}.{small()}.{small()}",
            f"build 10.0.{pick.randrange(10000, 30000)}.{small()}",
            f"section {small()}.{small()}.{small()}.{small()}",
            f"release {small()}.{small()}rc{pick.randrange(1, 4)}",
        )
    )


def hash_(pick: random.Random) -> str:
    hexadecimal = "0123456789abcdef"
    return pick.choice(
        (
            f"commit {token(pick, 40, hexadecimal)}",
            f"commit {token(pick, 7, hexadecimal)}",
            f"sha256:{token(pick, 64, hexadecimal)}",
            f"MD5 {token(pick, 32, hexadecimal)}",
            token(pick, 64, hexadecimal),
            token(pick, 32, hexadecimal).upper(),
            str(uuid.UUID(int=pick.getrandbits(128), version=4)),
            f"sha512-{base64.b64encode(pick.randbytes(64)).decode()}",
            f"SHA256:{base64.b64encode(pick.randbytes(32)).decode().rstrip('=')}",
            ":".join(token(pick, 2, hexadecimal) for _ in range(pick.choice((6, 16)))),
        )
    )


def date(pick: random.Random) -> str:
    year, month, day = pick.randrange(1800, 2031), pick.randrange(1, 13), pick.randrange(1, 29)
    return pick.choice(
        (
            f"{year}-{month:02d}-{day:02d}",
            f"{day:02d}.{month:02d}.{year}",
            f"{month}/{day}/{year}",
            f"{year}-{month:02d}-{day:02d} {pick.randrange(24):02d}:{day:02d}:{month:02d}",
            f"{year}{month:02d}{day:02d}",
            f"{year}{month:02d}{day:02d}T{day:02d}{month:02d}00Z",
            f"{year}-{year + 4}",
            f"{day:02d}-{month:02d}-{year}",
            f"{pick.randrange(24):02d}:{day:02d}:{month:02d}.{digits(pick, 3)}",
            f"1{digits(pick, 9)}",
            f"1{digits(pick, 12)}",
        )
    )


def number(pick: random.Random) -> str:
    return pick.choice(
        (
            f"{pick.randrange(1, 999)},{digits(pick, 3)},{digits(pick, 3)}",
            f"{pick.randrange(1, 999)} {digits(pick, 3)} {digits(pick, 3)} {digits(pick, 3)}",
            f"3.{digits(pick, pick.randrange(8, 20))}",
            f"{pick.randrange(90)}.{digits(pick, 6)}, -{pick.randrange(180)}.{digits(pick, 6)}",
            f"${pick.randrange(10, 99)},{digits(pick, 3)}.{digits(pick, 2)}",
            f"ZIP {digits(pick, 5)}-{digits(pick, 4)}",
            f"+{pick.randrange(1, 99)}.{digits(pick, 2)} %",
            f"{digits(pick, 5)} x {digits(pick, 5)}",
            f"pages {pick.randrange(100, 500)}-{pick.randrange(501, 999)}",
            digits(pick, pick.randrange(14, 20)),
            f"DOI 10.{digits(pick, 4)}/{token(pick, 4, string.ascii_lowercase)}.{digits(pick, 4)}.{digits(pick, 6)}",
            f"scores {digits(pick, 2)}-{digits(pick, 2)}, {digits(pick, 2)}-{digits(pick, 2)}",
        )
    )


def handle(pick: random.Random) -> str:
    return pick.choice(
        (
            f"@{pick.choice(FIRST[:6])}_{digits(pick, 2)}",
            "@app.route",
            "@pytest.mark.parametrize",
            f"{pick.choice(FIRST[:6])} @ {pick.choice(LAST[:1])} street",
            "a @ b.T",
            "sold @ 4.50 each",
            "logo@2x.png",
            "std::vector::size",
            "Foo::Bar.baz",
            f"r/{pick.choice(LAST[:1])}@home",
        )
    )


def identifier(pick: random.Random) -> str:
    return pick.choice(
        (
            "InternationalStandardAtmosphereModel2",
            "get_customer_address_by_order_number",
            "AbstractSingletonProxyFactoryBean4Tests",
            "/usr/share/doc/Python3/examples/Library2/Section7",
            "https://example.com/2021/04/Why-We-Moved-To-Kubernetes-In-3-Months",
            "pneumonoultramicroscopicsilicovolcanoconiosis",
            "the password must be changed every 90 days",
            "secret: never give up",
            "the token is case-sensitive and expires",
            "password: ********",
            "api_key = os.environ['API_KEY']",
            "secret is kept in vault/production/db",
            "token = the smallest unit",
            f"ACGT{token(pick, 40, 'ACGT')}",
            f"ssh-rsa AAAAB3NzaC1yc2E{token(pick, 80)}",
            f"data:image/png;base64,{token(pick, 90, BASE62 + '+/')}",
            "passport control is on the second floor",
            "a valid passport and 2 photographs",
            "-----BEGIN CERTIFICATE-----\n" + token(pick, 64) + "\n-----END CERTIFICATE-----",
            "-----BEGIN PUBLIC KEY-----\n" + token(pick, 64) + "\n-----END PUBLIC KEY-----",
            f"eyJ{token(pick, 20, string.ascii_lowercase)}",
            f"AKIA{token(pick, 5, string.ascii_uppercase)}",
        )
    )


def near_miss(pick: random.Random) -> str:
    """A value of the right form whose check digit, range or length is wrong."""
    bad_card, bad_iban = card_number(pick), iban_number(pick)
    last = str((int(bad_card[-1]) + pick.randrange(1, 10)) % 10)
    swapped = str((int(bad_iban[3]) + 1) % 10)
    return pick.choice(
        (
            bad_card[:-1] + last,
            bad_iban[:3] + swapped + bad_iban[4:],
            f"{pick.choice(('000', '666', '900', '987'))}-{digits(pick, 2)}-{digits(pick, 4)}",
            f"{pick.randrange(256, 999)}.{pick.randrange(256)}.{pick.randrange(256)}.{pick.randrange(256)}",
            f"127.0.0.{pick.randrange(1, 3)}",
            "255.255.255.0",
            f"{pick.randrange(9)}.{pick.randrange(9)}.{pick.randrange(9)}.{pick.randrange(9)}.{pick.randrange(9)}",
            f"someone@localhost{digits(pick, 2)}",
        )
    )


NEGATIVES: dict[str, Maker] = {
    "order numbers": order_number,
    "versions": version,
    "hashes": hash_,
    "dates": date,
    "ISBN-13": isbn,
    "ISBN-10": isbn10,
    "numbers": number,
    "handles": handle,
    "identifiers": identifier,
    "near misses": near_miss,
}
