"""python -m benchmarks.pii: how well personal data and secrets are found, and how fast, beside maintained libraries.

Accuracy: a made-up corpus of planted values and look-alikes (tests/pii_corpus.py). A value counts as found when a
finding has its type and exactly its span; each other finding is false. Speed: the texts of dolly-15k in one process, by
its processor time.

Presidio's recognisers take part where presidio-analyzer is installed. Its recogniser for e-mail does not: it asks the
network for a list of domains.
"""

import argparse
import importlib.util
import json
import logging
import time
from collections.abc import Callable, Iterable, Iterator

from benchmarks.vary import DOLLY
from components.ingest.pii import find
from tests.pii_corpus import Example, Score, corpus, score

Finder = Callable[[str], Iterable[tuple[int, int, str]]]


def main() -> int:
    """Prints tables in Markdown; the last line is one JSON object."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pii", description="Benchmark the search for PII.")
    parser.add_argument("--seed", type=int, default=2026, help="of the corpus (default: %(default)s)")
    parser.add_argument("--each", type=int, default=250, help="texts a type and a kind (default: %(default)s)")
    parser.add_argument("--records", type=int, default=3000, help="of dolly-15k, for speed (default: %(default)s)")
    arguments = parser.parse_args()
    examples = corpus(arguments.seed, arguments.each)
    ours = score(examples, find)
    show_types(ours)
    show_lookalikes(ours)
    figures = {"recall": ours.recall(), "precision": ours.precision()}
    show_libraries(ours, examples)
    if DOLLY.exists():
        figures["records_per_second"] = show_speed(arguments.records)
    print(json.dumps(figures))
    return 0


def show_types(result: Score) -> None:
    print("| type | planted | recall | precision |\n|---|---|---|---|")
    for type_ in sorted(result.planted):
        precision = result.precision(type_)
        print(f"| `{type_}` | {result.planted[type_]} | {result.recall(type_):.3f} | {precision:.3f} |")
    print(f"| all | {result.planted.total()} | {result.recall():.4f} | {result.precision():.4f} |\n")


def show_lookalikes(result: Score) -> None:
    print("| look-alike | texts | mistaken |\n|---|---|---|")
    for kind in sorted(result.lookalikes):
        print(f"| {kind} | {result.lookalikes[kind]} | {result.mistaken[kind]} |")
    print(f"| all | {result.lookalikes.total()} | {result.mistaken.total()} |\n")


def show_libraries(ours: Score, examples: list[Example]) -> None:
    print("| library | type | recall | precision | ours, recall | ours, precision |\n|---|---|---|---|---|---|")
    for library, type_, finder in libraries():
        theirs = score(examples, finder)
        found = theirs.found[type_] + theirs.false[type_]
        precision = f"{theirs.precision(type_):.3f}" if found else "-"
        figures = f"{theirs.recall(type_):.3f} | {precision} | {ours.recall(type_):.3f} | {ours.precision(type_):.3f}"
        print(f"| {library} | `{type_}` | {figures} |")
    print()


def libraries() -> Iterator[tuple[str, str, Finder]]:
    """What is installed, each as one finder of one type."""
    import phonenumbers

    def matcher(text: str) -> Iterator[tuple[int, int, str]]:
        return ((match.start, match.end, "PHONE") for match in phonenumbers.PhoneNumberMatcher(text, "US"))

    yield "phonenumbers, region US", "PHONE", matcher
    if importlib.util.find_spec("presidio_analyzer") is None:
        return
    predefined_recognizers = importlib.import_module("presidio_analyzer.predefined_recognizers")
    logging.disable(logging.CRITICAL)
    for name, type_ in (
        ("PhoneRecognizer", "PHONE"),
        ("IpRecognizer", "IP_ADDRESS"),
        ("CreditCardRecognizer", "CREDIT_CARD"),
        ("IbanRecognizer", "IBAN"),
        ("UsSsnRecognizer", "US_SSN"),
        ("UsPassportRecognizer", "PASSPORT"),
    ):
        yield f"presidio {name}", type_, presidio(getattr(predefined_recognizers, name)(), type_)


def presidio(recognizer: object, type_: str) -> Finder:
    """A recogniser's findings of any confidence."""

    def finder(text: str) -> Iterator[tuple[int, int, str]]:
        found = recognizer.analyze(text, recognizer.supported_entities, None)  # type: ignore[attr-defined]
        return ((result.start, result.end, type_) for result in found)

    return finder


def show_speed(records: int) -> float:
    """Prints records a second of processor time. Returns ours."""
    rows = [json.loads(line) for line in DOLLY.read_text(encoding="utf-8").splitlines()[:records]]
    texts = ["\0".join((row["instruction"], row["context"], row["response"])) for row in rows]
    rates = {"ours, every type": rate(find, texts)}
    rates |= {library: rate(finder, texts[:300]) for library, _, finder in libraries()}
    print("| finder | dolly records a second, one core |\n|---|---|")
    for name, value in rates.items():
        print(f"| {name} | {value:,.0f} |")
    print()
    return rates["ours, every type"]


def rate(finder: Finder, texts: list[str]) -> float:
    """Texts a second of processor time."""
    for text in texts[:20]:
        list(finder(text))
    started = time.process_time()
    for text in texts:
        list(finder(text))
    return len(texts) / (time.process_time() - started)


if __name__ == "__main__":
    raise SystemExit(main())
