"""Dolly-15k varied: as many records as wanted, no two of them near-duplicates of each other, written as a stream.

The first copy is dolly-15k itself. In each further copy every third word of each text is drawn from all of its words,
by a seeded generator: lengths and categories stay, and copies of a record share no three words in a row but by chance.
"""

import json
import random
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

DOLLY = Path(__file__).parents[2] / "shared" / "data" / "instruct" / "databricks-dolly-15k.jsonl"
TEXTS = ("instruction", "context", "response")


def write_varied(path: Path, records: int, seed: int = 42) -> None:
    """Writes a jsonl file of so many records; a longer file begins with the same ones."""
    with path.open("w", encoding="utf-8") as file:
        for record in islice(varied(seed), records):
            file.write(json.dumps(record, ensure_ascii=False) + "\n")


def varied(seed: int) -> Iterator[dict[str, str]]:
    """Records without end."""
    originals = [json.loads(line) for line in DOLLY.read_text(encoding="utf-8").splitlines()]
    words = sorted({word for record in originals for name in TEXTS for word in record[name].split()})
    generator = random.Random(seed)  # noqa: S311  # which words, not a secret
    yield from originals
    while True:
        for record in originals:
            yield {**record, **{name: _vary(record[name], words, generator) for name in TEXTS}}


def _vary(text: str, words: list[str], generator: random.Random) -> str:
    parts = text.split(" ") if text else []
    changed = slice(min(generator.randrange(3), max(0, len(parts) - 1)), None, 3)
    parts[changed] = generator.choices(words, k=len(parts[changed]))
    return " ".join(parts)
