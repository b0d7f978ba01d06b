"""One renderer for training, evaluation and serving: the tokenizer's own chat template.

A record becomes a user message (its instruction, and its context behind `Input:`) and an answer. The
prompt is encoded exactly as a server encodes it, and the answer behind it, so the number of prompt tokens is
known and nobody searches for marker tokens later. Text never encodes to a control token. The earlier turns of a
conversation stand before the user message, each in its role. A record without an instruction is plain text: no
template, and every token is a target.
"""

import copy
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from components.errors import ModelError
from components.models import told
from components.records import messages
from components.templates import automatic_prefix, is_dolly, on_one_day

PROBE = "probe"
# A Jinja template may refuse a role or an order of roles; this is how it says so.
REFUSED = "template: it refuses a conversation of the roles"


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """One record as tokens; input_ids[loss_start:] are the targets: the answer and its stop token."""

    input_ids: list[int]
    loss_start: int
    neutralised: bool  # the text held a control token, which was encoded as plain text


@dataclass(frozen=True, kw_only=True)
class _Frame:
    """What a template puts before, between and after texts, and the control tokens that this makes, in order."""

    parts: tuple[str, ...]
    controls: list[int]

    def around(self, texts: Sequence[str]) -> str:
        return self.parts[0] + "".join(chain.from_iterable(zip(texts, self.parts[1:], strict=True)))


def user_message(instruction: str, context: str) -> str:
    """What the user says: the instruction and, where there is one, the context behind `Input:`."""
    return f"{instruction}\n\nInput:\n{context}" if context else instruction


def conversation(record: dict[str, Any]) -> list[dict[str, str]]:
    """The messages that the model is to answer: a record's history, and what the user says now."""
    said = user_message(record["instruction"], record["context"])
    return [*messages(record.get("history", "")), {"role": "user", "content": said}]


def load_tokenizer(folder: Path, trust_remote_code: bool = False) -> Any:
    """The fast tokenizer in a folder.

    Args:
        trust_remote_code: whether to run Python code that the folder brings.

    Raises:
        ModelError: there is none, or it is a slow one, which cannot neutralise control tokens.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(
            str(folder), local_files_only=True, trust_remote_code=trust_remote_code
        )
    except (OSError, ValueError) as error:
        raise ModelError(f"base_model: no tokenizer in {folder}: {told(error, trust_remote_code)}") from error
    if not tokenizer("a", add_special_tokens=False)["input_ids"]:  # transformers makes an empty one where there is none
        raise ModelError(f"base_model: no tokenizer in {folder}: a tokenizer.json is needed")
    if not tokenizer.is_fast:
        raise ModelError(f"base_model: {folder} has a slow tokenizer; a tokenizer.json is needed")
    return tokenizer


def control_ids(tokenizer: Any) -> frozenset[int]:
    """The ids of a tokenizer's special tokens, which no text may encode to."""
    return frozenset(index for index, token in tokenizer.added_tokens_decoder.items() if token.special)


def is_sign(text: str) -> bool:
    """Whether an added token has the look of a sign between turns, and is no word and no run of spaces."""
    said = text.replace("▁", " ").strip()  # as SentencePiece writes a space
    return bool(said) and not said[0].isalnum()


class Renderer:
    """Encodes records with a tokenizer's chat template. Threads may share one.

    Raises:
        ModelError: the template cannot be rendered, drops a text, or its prompt is no prefix of the whole.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self._backend = copy.deepcopy(tokenizer.backend_tokenizer)  # transformers changes its settings at each call
        self._backend.encode_special_tokens = False
        self._backend.no_truncation()
        self._backend.no_padding()
        self._verbatim = is_dolly(tokenizer)
        self._frames: dict[tuple[str, ...], _Frame] = {}
        prompt, answered = self._probes()
        opening, found_answer, closing = answered[len(prompt) :].partition(PROBE)
        if not (PROBE in prompt and found_answer and answered.startswith(prompt)):
            raise ModelError(
                "template: its prompt is not a prefix of the whole conversation, so no answer can be learned from it"
            )
        # some models do not mark as special what their template puts between turns, such as DeepSeek's <｜User｜>
        added = tokenizer.added_tokens_decoder
        written = {index for ids in self._encode([prompt, closing]) for index in ids} & added.keys()
        self._signs = frozenset(i for i in written if not added[i].special and is_sign(added[i].content))
        self.control = control_ids(tokenizer) | self._signs
        self._control_ids = np.array(sorted(self.control), np.int32)
        self.stop = self._stop(closing)
        self._target = self._made((opening, self.stop))
        self._first = self._encode([automatic_prefix(tokenizer)])[0]
        # what prompts begin with and is encoded once, alone and with the control token behind it; empty: nothing is
        self.head, self._prefix = self._repeated_head(prompt.partition(PROBE)[0])
        self._head_ids = self._encode([self.head])[0]

    @cached_property
    def stop_id(self) -> int:
        """The token that ends an answer, trained on and written to the model's generation_config."""
        return int(self._encode([self.stop])[0][-1])

    def prompt_ids(self, record: dict[str, Any]) -> list[int]:
        """What a server feeds the model before it answers."""
        return self._encode(self._rendered([conversation(record)]))[0]

    def encode(self, records: Sequence[dict[str, Any]]) -> list[Encoded]:
        """Tokens of records with the fields instruction, context, response and history, in their order."""
        answered = self._answered([record for record in records if record["instruction"]])
        read = self._read([record["response"] for record in records if not record["instruction"]])
        return [next(answered if record["instruction"] else read) for record in records]

    def shorten(self, text: str, tokens: int) -> str:
        """A text without about its last `tokens` tokens, at least one character shorter."""
        starts = [start for start, _ in self._backend.encode(text, add_special_tokens=False).offsets]
        return text[: min(starts[-tokens], len(text) - 1)].rstrip() if tokens < len(starts) else ""

    def _answered(self, records: list[dict[str, Any]]) -> Iterator[Encoded]:
        said = [conversation(record) for record in records]
        texts = [[message["content"] for message in messages] for messages in said]
        frames = [self._frame(tuple(message["role"] for message in messages)) for messages in said]
        prompts = self._prompts(said, texts, frames)
        answers = [[record["response"]] for record in records]
        targets = self._encode([self._target.around(answer) for answer in answers])
        before = self._as_text(frames, texts, self._encode_prompts(prompts))
        behind = self._as_text([self._target] * len(records), answers, targets)
        for (prompt, forged), (target, forged_target) in zip(before, behind, strict=True):
            yield Encoded(input_ids=prompt + target, loss_start=len(prompt), neutralised=forged or forged_target)

    def _read(self, texts: list[str]) -> Iterator[Encoded]:
        """Plain texts between what the tokenizer puts first and the stop token; all of it is learned."""
        rows = self._encode(texts)
        for text, ids, controls in zip(texts, rows, self._controls(rows), strict=True):
            plain = self._plain(text) if controls else ids
            forged = controls != self._controls([plain])[0] if controls else False
            yield Encoded(input_ids=[*self._first, *plain, self.stop_id], loss_start=0, neutralised=forged)

    def _as_text(
        self, frames: Sequence[_Frame], texts: Sequence[list[str]], rows: list[list[int]]
    ) -> Iterator[tuple[list[int], bool]]:
        """Each row, with texts that were taken for control tokens encoded once more, as text; and whether they were."""
        for frame, contents, ids, controls in zip(frames, texts, rows, self._controls(rows), strict=True):
            yield (ids, False) if controls == frame.controls else self._neutralised(frame, contents, ids, controls)

    def _neutralised(
        self, frame: _Frame, texts: list[str], ids: list[int], controls: list[int]
    ) -> tuple[list[int], bool]:
        plain = [self._plain(text) for text in texts]
        # what the vocabulary lacks encodes to the unknown token, which is special too but no forgery
        if Counter(controls) <= Counter(chain(frame.controls, *self._controls(plain))):
            return ids, False
        parts = zip(self._encode(list(frame.parts)), [*plain, []], strict=True)
        return [index for around, text in parts for index in (*around, *text)], True

    def _frame(self, roles: tuple[str, ...]) -> _Frame:
        """What the template puts around the messages of a conversation with these roles."""
        if roles not in self._frames:
            probes = [f"{PROBE}{number}{PROBE}" for number in range(len(roles))]
            said = [{"role": role, "content": probe} for role, probe in zip(roles, probes, strict=True)]
            try:
                rest = self._rendered([said])[0]
            except Exception as error:  # a template may raise anything; there is no text of a record here
                raise ModelError(f"{REFUSED} {', '.join(roles)}: {_words(error)}") from None
            parts = []
            for probe in probes:
                before, found, rest = rest.partition(probe)
                if not found:
                    raise ModelError(f"{REFUSED} {', '.join(roles)}: it leaves a message out, or moves it")
                parts.append(before)
            self._frames[roles] = self._made((*parts, rest))
        return self._frames[roles]

    def _made(self, parts: tuple[str, ...]) -> _Frame:
        return _Frame(parts=parts, controls=self._controls(self._encode([PROBE.join(parts)]))[0])

    def _prompts(self, said: list[list[dict[str, str]]], texts: list[list[str]], frames: list[_Frame]) -> list[str]:
        if self._verbatim:
            return [frame.around(contents) for frame, contents in zip(frames, texts, strict=True)]
        try:
            return self._rendered(said)
        except Exception as error:  # a template may raise anything, with the record's text in it
            raise ModelError(f"template: it fails on a record: {type(error).__name__}") from None

    @cached_property
    def _template(self) -> str:
        return on_one_day(self.tokenizer.get_chat_template())

    def _render(self, conversations: list[Any], **options: Any) -> Any:
        return self.tokenizer.apply_chat_template(
            conversations, chat_template=self._template, tokenize=False, **options
        )

    def _rendered(self, conversations: list[list[dict[str, str]]]) -> list[str]:
        return list(self._render(conversations, add_generation_prompt=True)) if conversations else []

    def _probes(self) -> tuple[str, str]:
        """A prompt, and the same with its answer."""
        from jinja2 import TemplateSyntaxError

        asked = [{"role": "user", "content": PROBE}]
        answered = [*asked, {"role": "assistant", "content": PROBE}]
        try:
            return self._rendered([asked])[0], str(self._render(answered))
        except TemplateSyntaxError as error:
            raise ModelError(f"template: line {error.lineno}: {error.message}") from None
        except Exception as error:  # a template may raise anything
            raise ModelError(f"template: it cannot render a question and its answer: {_words(error)}") from None

    def _repeated_head(self, before: str) -> tuple[str, str]:
        """What stands before the last control token in front of the text, without and with that token.

        A control token parts the text: what stands before it is encoded alone. So these ids are the same in each
        prompt that begins so, unless a longer control token can begin there.
        """
        controls = self._controls(self._encode([before]))[0]
        if not controls:
            return "", ""
        last: str = self.tokenizer.convert_ids_to_tokens(controls[-1])
        names = {token.content for token in self.tokenizer.added_tokens_decoder.values()}
        head, _, _ = before.rpartition(last)
        alone, rest, whole = self._encode([head, before[len(head) :] + PROBE, before + PROBE])
        safe = alone + rest == whole and not any(last in name for name in names - {last})
        return (head, head + last) if safe else ("", "")

    def _encode_prompts(self, prompts: list[str]) -> list[list[int]]:
        starts = [len(self.head) if prompt.startswith(self._prefix) else 0 for prompt in prompts]
        rows = self._encode([prompt[start:] for prompt, start in zip(prompts, starts, strict=True)])
        return [self._head_ids + ids if start else ids for ids, start in zip(rows, starts, strict=True)]

    def _stop(self, closing: str) -> str:
        """What closes an answer, up to and with its first control token; the end-of-text token where there is none."""
        ids = self._encode([closing])[0] if closing else []
        for index in ids:
            if index in self.control:
                token = self.tokenizer.convert_ids_to_tokens(index)
                return closing[: closing.index(token) + len(token)]
        if self.tokenizer.eos_token is None:
            raise ModelError("template: nothing ends an answer, and the tokenizer has no end-of-text token")
        return closing + str(self.tokenizer.eos_token)

    def _encode(self, texts: list[str]) -> list[list[int]]:
        return [row.ids for row in self._backend.encode_batch_fast(texts, add_special_tokens=False)]

    @cached_property
    def _text_only(self) -> Any:
        """The tokenizer as one that takes control tokens for text."""
        from tokenizers import AddedToken

        backend = copy.deepcopy(self._backend)
        backend.encode_special_tokens = True
        names = self.tokenizer.convert_ids_to_tokens(sorted(self._signs))
        backend.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in names])
        return backend

    def _plain(self, text: str) -> list[int]:
        """The ids of a text as text alone; some vocabularies hold a control token as a piece, which is spelled then."""
        ids = self._text_only.encode(text, add_special_tokens=False).ids
        held = self.control - {self.tokenizer.unk_token_id}
        return [part for index in ids for part in (self._spelled(index) if index in held else [index])]

    def _spelled(self, index: int) -> list[int]:
        model = self._backend.model
        name = self.tokenizer.convert_ids_to_tokens(index)
        return [token.id for character in name for token in model.tokenize(character)]

    def _controls(self, rows: list[list[int]]) -> list[list[int]]:
        """The control tokens of each row, in order."""
        lengths = [len(ids) for ids in rows]
        flat = np.fromiter(chain.from_iterable(rows), np.int32, sum(lengths))
        places = np.flatnonzero(np.isin(flat, self._control_ids))
        owners = np.searchsorted(np.cumsum(lengths), places, side="right")
        found: list[list[int]] = [[] for _ in rows]
        for owner, index in zip(owners.tolist(), flat[places].tolist(), strict=True):
            found[owner].append(index)
        return found


def encoded_by_champion(tokenizer: Any, records: Sequence[dict[str, Any]]) -> list[Encoded]:
    """Records through a champion's own tokenizer and template.

    Raises:
        ModelError: it refuses what others take; it is told as the champion's.
    """
    try:
        return Renderer(tokenizer).encode(records)
    except ModelError as error:
        raise ModelError(
            f"the champion's {error}; take the alias champion from it, or train under another model_name"
        ) from None


def _words(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
