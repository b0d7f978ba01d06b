"""Shapes of rows: instruction records, conversations and plain text, under whatever names their columns have."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import cycle
from typing import Any, NamedTuple

from components.errors import DataError
from components.ingest.cleaning import BOUNDARY
from components.ingest.text import parse
from components.records import Reject, Removal

# Names by which a field's column is known, the first that is there; letter case does not matter.
ALIASES = {
    "instruction": ("instruction", "prompt", "question", "query"),
    "context": ("context", "input", "passage"),
    "response": ("response", "output", "completion", "answer"),
    "category": ("category",),
    "messages": ("messages", "conversations", "conversation"),
    "text": ("text", "content", "code"),
}
LAST = "data"  # UltraChat's column of messages; anything may have this name, so it counts where nothing else does
# A row is a record only with one of these.
MAIN = ("instruction", "response", "messages", "text")
ROLES = {
    **dict.fromkeys(("user", "human", "prompter"), "user"),
    **dict.fromkeys(("assistant", "gpt", "model", "bot"), "assistant"),
    **dict.fromkeys(("system", "developer"), "system"),
}
TURN = ("user", "assistant")
UNKNOWN = "unknown"
SHOWN = 20  # of the columns that there are, in a message
# What may be shown there as a column's name: where a table has no header, its first row stands for the names.
NAME = re.compile(r"[^\W\d][\w.:/()#-]{0,39}")
# Characters of all of a conversation's records, for each repeats what was said before it: 10,000 short turns would
# come to gigabytes.
MAX_TURNS = 16 << 20
EXACT = 1 << 53  # from which on a float may stand for several integers
FRAME = 40  # characters that a message takes beside its text, as JSON


class Draft(NamedTuple):
    """A valid record before it is cleaned.

    Its texts are what was said before, in the order in which it was said, then instruction, context, response and
    category.
    """

    texts: Sequence[str]
    text: str  # the texts with BOUNDARY between them, which none holds
    roles: tuple[str, ...] = ()  # of those who said what was said before
    removal: Removal | None = None  # why it is removed whatever else is done to it

    @classmethod
    def of(cls, texts: Sequence[str], roles: tuple[str, ...] = (), removal: Removal | None = None) -> "Draft":
        """The draft of texts, joined."""
        return cls(texts, BOUNDARY.join(texts), roles, removal)


class Message(NamedTuple):
    """What one said in a conversation."""

    role: str
    content: str
    learned: bool  # if it is an answer


@dataclass(frozen=True, kw_only=True)
class Shape:
    """How a row becomes records: the column of each field that it has."""

    columns: Mapping[str, str]

    def __str__(self) -> str:
        return next(iter(self.columns)) if "instruction" not in self.columns else "instruction, response"

    def records(self, value: Any) -> list[Draft] | Reject:
        """A row's records, their texts stripped, or the reason why it is none.

        A conversation gives one for each answer, with what was said before as its history.
        """
        if isinstance(value, Reject):
            return value
        if not isinstance(value, dict):
            return Reject.NOT_AN_OBJECT
        if "instruction" in self.columns and (draft := self._at_once(value)):
            return [draft]
        category = label(value.get(self.columns["category"]))
        if isinstance(category, Reject):
            return category
        if "messages" in self.columns:
            return _turns(value.get(self.columns["messages"]), category or UNKNOWN)
        if "text" in self.columns:
            text = required(value.get(self.columns["text"]))
            return text if isinstance(text, Reject) else [_draft(text, category=category)]
        instruction = required(value.get(self.columns["instruction"]))
        if isinstance(instruction, Reject):
            return instruction
        context = optional(value.get(self.columns["context"]))
        if isinstance(context, Reject):
            return context
        response = required(value.get(self.columns["response"]))
        if isinstance(response, Reject):
            return response
        return [_draft(response, instruction, context, category)]

    def _at_once(self, value: dict[str, Any]) -> Draft | None:
        """The record of a row without a fault, told at a glance; None where a closer look is needed."""
        found = [value.get(name) for name in self._fields]
        if found[1] is None:
            found[1] = ""
        if found[3] is None:
            found[3] = UNKNOWN
        try:
            texts = list(map(str.strip, found))  # type: ignore[arg-type]  # what is no text raises
        except TypeError:
            return None
        text = BOUNDARY.join(texts)
        return Draft(texts, text) if all(texts[::2]) and texts[3] and is_text(text, len(texts) - 1) else None

    @cached_property
    def _fields(self) -> tuple[str, ...]:
        """The columns of an instruction record, in the order in which it is read."""
        return tuple(self.columns[name] for name in ("instruction", "context", "response", "category"))


def selected(names: Iterable[str], given: Mapping[str, str]) -> list[str]:
    """The columns of a table that are worth reading.

    All, where none of them makes a record, or one that the user named is missing: then they are told.
    """
    names = list(names)
    main = {given.get(field, alias).strip().lower() for field in MAIN for alias in ALIASES[field]}
    lower = {name.strip().lower() for name in names}
    if not main & lower or not set(given.values()) <= set(names):
        return names
    known = {alias for aliases in ALIASES.values() for alias in aliases}
    return [name for name in names if name.strip().lower() in known or name in given.values()]


def choose(names: Iterable[str], given: Mapping[str, str]) -> Shape:
    """The shape of rows with columns of these names.

    Args:
        given: the columns that the user named, by field; they come first.

    Raises:
        DataError: the rows have columns, but not one that the user named: its field would be empty in every record.
    """
    names = list(names)
    if names:
        _check_given(names, given)
    by_name = {name.strip().lower(): name for name in reversed(names)}
    known = {
        field: next((by_name[alias] for alias in aliases if alias in by_name), None)
        for field, aliases in ALIASES.items()
    }
    found = {field: column for field, column in {**known, **given}.items() if column}
    category = {"category": found.get("category", "category")}
    asked = {"instruction", "response"} & given.keys()
    for field in ("messages", "text"):
        if field in given or (field == "messages" and field in found and not asked):
            return Shape(columns={field: found[field], **category})
    asks = by_name.get("input")
    if "instruction" not in found and "response" in found and asks and asks not in given.values():
        others = [by_name[alias] for alias in ALIASES["context"] if alias in by_name and alias != "input"]
        found.update(instruction=asks, context=given.get("context", [*others, "context"][0]))
    if not asked and not {"instruction", "response"} & found.keys() and (len(names) == 1 or "text" in found):
        return Shape(columns={"text": found.get("text", names[0]), **category})
    if not {"instruction", "response"} & found.keys() and LAST in by_name:
        return Shape(columns={"messages": by_name[LAST], **category})
    return Shape(
        columns={field: found.get(field, field) for field in ("instruction", "context", "response", "category")}
    )


def _check_given(names: list[str], given: Mapping[str, str]) -> None:
    for field, column in given.items():
        if column not in names:
            shown = [name for name in names if NAME.fullmatch(name)][:SHOWN]
            more = f"{len(names) - len(shown)} more" * (len(shown) < len(names))
            if more and len(shown) < SHOWN:
                more += ", which read like text and are not shown; a csv must begin with a line of names"
            there = " and ".join(filter(None, (", ".join(map(repr, shown)), more)))
            raise DataError(f"columns: {field}={column}: no such column; there are {there}")


def required(value: Any) -> str | Reject:
    """A field's text, stripped, or why it has none."""
    if value is None:
        return Reject.MISSING_FIELD
    text = optional(value)
    return text or Reject.EMPTY_FIELD


def optional(value: Any) -> str | Reject:
    """A field's text, stripped; empty where there is none."""
    if value is None:
        return ""
    if not isinstance(value, str):
        return Reject.BINARY if isinstance(value, bytes) else Reject.WRONG_TYPE
    if not is_text(value):
        return Reject.INVALID_TEXT
    return value.strip()


def label(value: Any) -> str | Reject:
    """A category's text, which may be a class's number; a column of numbers with gaps is one of floats."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer() and abs(value) < EXACT:
        value = int(value)
    return str(value) if isinstance(value, int) else optional(value)


def is_text(value: str, boundaries: int = 0) -> bool:
    """Whether a string is text: no unpaired surrogate, and no NUL but those between joined texts."""
    if not value.isascii():
        try:
            value.encode("utf-8")
        except UnicodeEncodeError:
            return False
    return value.count(BOUNDARY) == boundaries


def _draft(response: str, instruction: str = "", context: str = "", category: str = "") -> Draft:
    return Draft.of((instruction, context, response, category or UNKNOWN))


def _turns(messages: Any, category: str) -> list[Draft] | Reject:
    """One record for each answer of a conversation."""
    if isinstance(messages, str):
        messages = _from_json(messages)
        if isinstance(messages, Reject):
            return messages
    if messages is None:
        return Reject.MISSING_FIELD
    if not isinstance(messages, list):
        return Reject.WRONG_TYPE
    if all(isinstance(message, str) for message in messages):  # UltraChat's; who speaks is told by whose turn it is
        messages = [{"role": role, "content": text} for role, text in zip(cycle(TURN), messages, strict=False)]
    said: list[Message] = []
    for message in messages:
        read = _message(message)
        if isinstance(read, Reject):
            return read
        if read.content or said or read.role != "system":  # an empty system message says nothing
            said.append(read)
    return _answers(said, category)


def _from_json(messages: str) -> Any:
    """What a text says that holds messages as JSON, as a cell of a csv does; or why it says nothing."""
    said = parse(messages.encode("utf-8", "surrogatepass"))
    return Reject.WRONG_TYPE if said is Reject.NOT_JSON else said


def _answers(said: list[Message], category: str) -> list[Draft] | Reject:
    """Records of a conversation whose roles take turns, behind one system message at most."""
    opening = int(bool(said) and said[0].role == "system")
    roles = [message.role for message in said]
    texts = [message.content for message in said]
    if not roles[opening:] or not all(texts):
        return Reject.EMPTY_FIELD
    if roles[opening:] != [*TURN] * ((len(roles) - opening) // 2):
        return Reject.WRONG_ROLE_ORDER
    turns = range(opening, len(said), 2)
    if len(turns) * sum(len(text) + FRAME for text in texts) > 2 * MAX_TURNS:  # on average a turn has half before it
        return Reject.OVER_LONG
    return [
        Draft.of(
            (*texts[: turn + 1], "", texts[turn + 1], category),
            tuple(roles[:turn]),
            None if said[turn + 1].learned else Removal.NOT_LEARNED,
        )
        for turn in turns
    ]


def _message(message: Any) -> Message | Reject:
    """A message; ShareGPT calls its role and content from and value."""
    if not isinstance(message, dict):
        return Reject.WRONG_TYPE
    role, content = (
        next((message[name] for name in names if message.get(name) is not None), None)
        for names in (("role", "from"), ("content", "value"))  # a table may have columns for both
    )
    if isinstance(content, list):  # OpenAI's parts; only those of text can be learned
        parts = [part.get("text") if isinstance(part, dict) else part for part in content]
        texts = [part for part in parts if isinstance(part, str)]
        if len(texts) < len(parts):
            return Reject.WRONG_TYPE
        content = "".join(texts)
    if not isinstance(role, str) or content is None:
        return Reject.MISSING_FIELD if role is None or content is None else Reject.WRONG_TYPE
    text = optional(content)
    if isinstance(text, Reject):
        return text
    known = ROLES.get(role.lower())
    if not known:
        return Reject.WRONG_ROLE_ORDER
    weight = message.get("weight") if known == "assistant" else None  # as OpenAI's fine-tuning has it
    if weight is not None and (type(weight) not in (int, float) or weight not in (0, 1)):
        return Reject.WRONG_TYPE
    return Message(known, text, weight != 0)
