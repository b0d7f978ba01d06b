"""Personal data and secrets: what is found in made-up texts, what is left alone, and what redaction leaves."""

import itertools
import string
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.errors import ParameterError, PipelineError
from components.ingest.pii import Span, find
from components.ingest.privacy import Privacy, redact
from tests.pii_corpus import Score, corpus, score
from tests.pii_values import POSITIVES

# Characters that the patterns know, so that fuzzing meets them.
PIECES = st.lists(
    st.sampled_from(
        ["@", ".", "-", " ", "+", "(", ")", "/", ":", "::", "0", "1", "00", "2001", "12345", "a", "Xy9", "eyJ",
         "ghp_", "AKIA", "sk-", "-----BEGIN PRIVATE KEY-----", "password=", "passport ", "ssn ", "GB82", "tel. ", "\n",
         "\0", "é", "号", "\u2013", "\ud7ff", "٣"]
    ),
    max_size=40,
).map("".join)  # fmt: skip


@pytest.fixture(scope="module")
def scored() -> Score:
    """The detectors on 2,800 planted values and 2,500 look-alikes, from a seed that they were not written against."""
    return score(corpus(seed=20_261, each=250), find)


def test_recall_and_precision_on_the_made_up_corpus(scored: Score) -> None:
    assert scored.planted.total() >= 2000
    assert scored.lookalikes.total() >= 2000
    assert scored.recall() >= 0.98
    assert scored.precision() >= 0.95


@pytest.mark.parametrize("type", POSITIVES)
def test_no_type_is_left_behind(scored: Score, type: str) -> None:
    assert scored.recall(type) >= 0.95
    assert scored.precision(type) >= 0.95


def test_no_kind_of_lookalike_is_taken_for_personal_data(scored: Score) -> None:
    worst = {kind: scored.mistaken[kind] / scored.lookalikes[kind] for kind in scored.lookalikes}
    assert max(worst.values()) <= 0.02, worst


def test_a_blind_detector_scores_nothing_and_a_greedy_one_is_imprecise() -> None:
    examples = corpus(seed=7, each=5)
    assert score(examples, lambda text: []).recall() == 0
    assert score(examples, lambda text: [(0, len(text), "EMAIL")]).precision() < 0.1


def test_the_corpus_is_the_same_for_a_seed_and_another_for_another() -> None:
    assert corpus(seed=1, each=3) == corpus(seed=1, each=3)
    assert corpus(seed=1, each=3) != corpus(seed=2, each=3)


@settings(max_examples=150)
@given(text=st.one_of(PIECES, st.text(max_size=80)))
def test_any_text_gives_spans_in_order_inside_it_without_overlaps(text: str) -> None:
    spans = find(text)
    assert all(0 <= span.start < span.end <= len(text) for span in spans)
    assert all(one.end <= other.start for one, other in itertools.pairwise(spans))
    assert len(redact(text, spans).split("\0")) == len(text.split("\0"))


@pytest.mark.parametrize(
    "unit",
    [
        "a@",
        "a-",
        "a.",
        "%a@",
        "--token ",
        "a1",
        "::",
        "1 ",
        "+1 ",
        "0044 ",
        "eyJ.",
        "x=y ",
        "-----BEGIN PRIVATE KEY-----!",
    ],
)
def test_repetitive_text_takes_no_longer_than_its_length_explains(unit: str) -> None:
    """A pattern that tried every end from every start would take hours."""
    started = time.process_time()
    find(unit * (100_000 // len(unit)))
    assert time.process_time() - started < 20


def test_the_same_value_has_the_same_placeholder_in_all_texts_of_a_record() -> None:
    privacy = Privacy("redact")
    text = "Write to Ann@example.org or bob@example.org.\0Call +1 212-555-0123.\0ann@example.org, (+1) 212 555 0123"
    assert privacy(text) == (
        "Write to [EMAIL_1] or [EMAIL_2].\0Call [PHONE_1].\0[EMAIL_1], [PHONE_1]"
    )  # fmt: skip
    assert privacy("carl@example.org") == "[EMAIL_1]"
    assert privacy("nobody") == "nobody"
    assert (privacy.records, privacy.found) == (2, {"EMAIL": 4, "PHONE": 2})


def test_redacted_text_holds_none_of_the_values_and_is_left_alone_the_second_time() -> None:
    for example in corpus(seed=11, each=20):
        once = redact(example.text, find(example.text))
        assert redact(once, find(once)) == once
        if example.type and (example.start, example.end, example.type) in find(example.text):
            assert example.text[example.start : example.end] not in once


@pytest.mark.parametrize(
    ("policy", "result"),
    [("redact", "[EMAIL_1]"), ("drop", None), ("report", "a@example.org"), ("off", "a@example.org")],
)
def test_a_policy_decides_what_becomes_of_a_record(policy: str, result: str | None) -> None:
    privacy = Privacy(policy)
    assert privacy("a@example.org") == result
    assert privacy.records == (policy != "off")


def capitals(text: str) -> list[tuple[int, int]]:
    """A finder of names for the tests: every word in capitals."""
    words = [word for word in text.split() if word.isupper() and word.isalpha()]
    return [(text.index(word), text.index(word) + len(word)) for word in words]


def broken(text: str) -> list[tuple[int, int]]:
    raise RuntimeError(text)


def beyond(text: str) -> list[tuple[int, int]]:
    return [(0, len(text) + 1)]


def test_names_are_found_by_a_function_of_the_users_and_only_where_nothing_else_was() -> None:
    privacy = Privacy("redact", f"{__name__}:capitals")
    assert privacy("ANNA met BOB.\0BOB and ANNA") == "[PERSON_1] met BOB.\0[PERSON_2] and [PERSON_1]"
    assert privacy.found == {"PERSON": 3}


@pytest.mark.parametrize(
    ("name", "reason"), [("broken", "failed on a record: RuntimeError"), ("beyond", "outside its text")]
)
def test_a_finder_of_names_that_fails_is_named_without_the_text(name: str, reason: str) -> None:
    with pytest.raises(PipelineError, match=f"pii_names={__name__}:{name} .*{reason}") as caught:
        Privacy("redact", f"{__name__}:{name}")("S3CRET text")
    assert "S3CRET" not in str(caught.value)


@pytest.mark.parametrize(
    "reference", ["names", "no.such.module:find", f"{__name__}:missing", f"{__name__}:PIECES_", ":f"]
)
def test_a_finder_of_names_that_is_not_there_is_a_bad_parameter(reference: str) -> None:
    with pytest.raises(ParameterError, match="pii_names="):
        Privacy("redact", reference)


@pytest.mark.parametrize(
    ("text", "type", "value"),
    [
        ("contact me on 0410787999 or by post", "PHONE", "0410787999"),
        ("a: someone@sub.example.co.uk, b", "EMAIL", "someone@sub.example.co.uk"),
        ("-----BEGIN RSA PRIVATE KEY-----\nMIIEpAIBAAKCAQEA\nand no end", "PRIVATE_KEY", None),
        ("ftp://me:hunter2secret@files.example.org/x", "SECRET", "hunter2secret"),
        ("[2001:db8:1::1f]:443", "IP_ADDRESS", "2001:db8:1::1f"),
        *(
            (f"{before}alice-b@example.com", "EMAIL", "alice-b@example.com")
            for before in ("-", "--", "+", ".", "%", "- ")
        ),
        ("social security number (SSN): 123456789", "US_SSN", "123456789"),
        ("my number is 212 456 7890", "PHONE", "212 456 7890"),
        ("the phone of the shop: 212 456 7890", "PHONE", "212 456 7890"),
        ("in New York 212-456-7890 answers", "PHONE", "212-456-7890"),
        ("Phone no. +49 170 1234567", "PHONE", "+49 170 1234567"),
        ("my phone no is +1 212 555 0123", "PHONE", "+1 212 555 0123"),
        ("WhatsApp nr: +31 6 12345678", "PHONE", "+31 6 12345678"),
        ("Tel.-Nr.: +49 170 1234567", "PHONE", "+49 170 1234567"),
        ("Tel.-Nr.: 0170 1234567", "PHONE", "0170 1234567"),
        ("Telefonnummer: 01701234567", "PHONE", "01701234567"),
        ("Handynummer 01701234567", "PHONE", "01701234567"),
        ("Tél. 0612345678", "PHONE", "0612345678"),
        ("Portable : 0612345678", "PHONE", "0612345678"),
        ("telefono: 3331234567", "PHONE", "3331234567"),
        ("tel. n. 3331234567", "PHONE", "3331234567"),
        ("móvil: 612345678", "PHONE", "612345678"),
        ("Telefoonnummer: 0612345678", "PHONE", "0612345678"),
        ("celular: 11987654321", "PHONE", "11987654321"),
        ("тел. 8 (495) 123-45-67", "PHONE", "8 (495) 123-45-67"),
        ("我的电话：13812341234", "PHONE", "13812341234"),
        ("手机号码 13812341234", "PHONE", "13812341234"),
        ("Reisepass-Nr.: C01X00T47", "PASSPORT", "C01X00T47"),
        ("Reisepassnummer: C01X00T47", "PASSPORT", "C01X00T47"),
        ("passaporto n. YA1234567", "PASSPORT", "YA1234567"),
        ("password is: Abc12345", "SECRET", "Abc12345"),
        ("secret key: abcd1234efgh", "SECRET", "abcd1234efgh"),
        ("SECRET_KEY=abcd1234efgh5678", "SECRET", "abcd1234efgh5678"),
        ("API_KEY_PROD=abcd1234efgh5678", "SECRET", "abcd1234efgh5678"),
        ("<password>abc12345</password>", "SECRET", "abc12345"),
        ("mysql --password abc12345 shop", "SECRET", "abc12345"),
        ("run --db-password abc12345", "SECRET", "abc12345"),
        ("password: 'user2.password'", "SECRET", "user2.password"),
        ("token: a9Kx3Qz7Lm2.Pw8R.vT5y1Bn4Ge6Hj0Uc", "SECRET", "a9Kx3Qz7Lm2.Pw8R.vT5y1Bn4Ge6Hj0Uc"),
    ],
)
def test_forms_that_real_text_has(text: str, type: str, value: str | None) -> None:
    (span,) = find(text)
    assert span.type == type
    assert value is None or text[span.start : span.end] == value


@pytest.mark.parametrize(
    "text",
    ["1914-1918", "3.14159265358979", "10:30:45", "::1", "0.0.0.0", "std::map::begin", "Public Act 098-1142", "C++::a",
     "SHA-256", string.ascii_letters, "a" * 64, "user@host", "$1,234,567.89", "2020-01-01T00:00:00+00:00",
     "sizes 256 512 1024", "512-512-1024", "256-512-1024", "224 224 3000", "weights: 200 250 3000 g",
     "ports 300 443 8080", "token = word2vec.encode", "password = user2.password", "token=self.tok2id",
     "api_key = settings.OPENAI_KEY2", "token = word2vec(text)", "if token > limit2000:",
     "run --token-file secrets2.txt", "order no. +49 170 1234567", "Order-Nr.: 01711234567"],
)  # fmt: skip
def test_text_that_only_looks_like_personal_data(text: str) -> None:
    assert find(text) == []


def test_a_span_is_start_end_and_type() -> None:
    assert find("to a@example.org") == [Span(3, 16, "EMAIL")]
