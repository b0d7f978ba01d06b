"""Texts with planted personal data and secrets, and look-alikes in the same surroundings; how a detector scores."""

import random
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from tests.pii_values import NEGATIVES, POSITIVES

# Where a value stands: in running text, at either end, in punctuation, markup, logs, code and tables. They name no
# kind of data, and positives and negatives share them.
CARRIERS = (
    "{}",
    "{} is what the customer gave us.",
    "Please use {} for this.",
    "It was written down as {}.",
    "See {}, then go on to the next page.",
    "He answered ({}) and left.",
    'The form says "{}" in the second box.',
    "They changed it from the old one to {}; nobody noticed.",
    "What is {}?",
    "Was it {}? I am not sure!",
    "We have:\n- {}\n- nothing else\n",
    "| name | value |\n|---|---|\n| first | {} |\n",
    '{{"field": "{}", "count": 2}}',
    "{{'field': '{}'}}",
    "name,value,remark\nfirst,{},none\n",
    "field={}\n",
    "<td>{}</td>",
    "<p>We keep {} on file.</p>",
    "**{}**",
    "`{}`",
    "2024-03-01 12:00:07 INFO worker 3 received {} from queue",
    "value = '{}'  # remove later",
    "Bonjour, veuillez noter {} avant lundi, merci.",
    "Bitte {} bis Freitag bestätigen.",
    "第一行\n{}\n第二行",
    "请记下{}谢谢。",
    "Пишите: {}; спасибо",
    "key:\t{}\tend",
    "Dear team,\n\nas discussed: {}\n\nBest wishes",
    "1. {}\n2. The second point.",
    "[{}]",
    "<{}>",
    "…{}…",
)
FILLER = (
    "The meeting was moved to the larger room on the third floor.",
    "Nobody remembered who had ordered the 12 chairs.",
    "In 1987 the town had 4,300 inhabitants and two bakeries.",
    "Open the file, read the header and close it again.",
    "Version 2 of the handbook is out; see chapter 7.",
    "",
    "",
)


@dataclass(frozen=True, kw_only=True)
class Example:
    """A text and the one value that was planted in it. type is None for a look-alike."""

    text: str
    start: int
    end: int
    type: str | None
    kind: str


@dataclass(kw_only=True)
class Score:
    """How a detector did: by type for what was planted, by kind for look-alikes."""

    planted: Counter[str] = field(default_factory=Counter)
    found: Counter[str] = field(default_factory=Counter)
    false: Counter[str] = field(default_factory=Counter)
    lookalikes: Counter[str] = field(default_factory=Counter)
    mistaken: Counter[str] = field(default_factory=Counter)

    def recall(self, type: str | None = None) -> float:
        """Planted values that were found, of one type or of all."""
        if type:
            return self.found[type] / self.planted[type]
        return self.found.total() / self.planted.total()

    def precision(self, type: str | None = None) -> float:
        """Findings that were planted, of one type or of all."""
        found, false = (self.found[type], self.false[type]) if type else (self.found.total(), self.false.total())
        return found / (found + false)


def corpus(seed: int, each: int) -> list[Example]:
    """`each` texts for every type and every kind of look-alike."""
    pick = random.Random(seed)
    examples = []
    for type, makers in POSITIVES.items():
        examples += [_example(pick, pick.choice(makers)(pick), type, type) for _ in range(each)]
    for kind, maker in NEGATIVES.items():
        examples += [_example(pick, maker(pick), None, kind) for _ in range(each)]
    pick.shuffle(examples)
    return examples


def _example(pick: random.Random, made: str, type: str | None, kind: str) -> Example:
    cue, value, *rest = made.split("\t") if "\t" in made else ("", made)
    before, _, after = pick.choice(CARRIERS).replace("{{", "{").replace("}}", "}").partition("{}")
    lead, tail = pick.choice(FILLER), pick.choice(FILLER)
    before = (f"{lead} " if lead else "") + before + cue
    text = before + value + "".join(rest) + after + (f" {tail}" if tail else "")
    return Example(text=text, start=len(before), end=len(before) + len(value), type=type, kind=kind)


def score(examples: Iterable[Example], find: Callable[[str], Iterable[tuple[int, int, str]]]) -> Score:
    """A planted value counts as found when one finding has its type and exactly its span; all others are false."""
    result = Score()
    for example in examples:
        found = set(find(example.text))
        wanted = (example.start, example.end, example.type)
        if example.type:
            result.planted[example.type] += 1
            result.found[example.type] += wanted in found
        else:
            result.lookalikes[example.kind] += 1
            result.mistaken[example.kind] += bool(found)
        result.false.update(span[2] for span in found if span != wanted)
    return result
