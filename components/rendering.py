"""One renderer for training, evaluation and serving: the tokenizer's own chat template.

A record becomes a user message (its instruction, and its context behind `Input:`) and an answer. The
prompt is encoded exactly as a server encodes it, and the answer behind it, so the number of prompt tokens is
known and nobody searches for marker tokens later. Text never encodes to a control token. The earlier turns of a
conversation stand before the user message, each in its role. A record without an instruction is plain text: no
template, and every token is a target.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.errors import ModelError
from components.records import messages

TEMPLATES = ("dolly", "base")
# databrickslabs/dolly: these three are single tokens, and only they may end or open a section.
DOLLY_TOKENS = ("### End", "### Instruction:", "### Response:\n")
INTRODUCTION = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request."
)
DOLLY_TEMPLATE = """\
{%- for message in messages -%}
{%- if loop.first and message['role'] != 'system' -%}
{{- BOS + 'INTRODUCTION\\n\\n' -}}
{%- endif -%}
{%- if message['role'] == 'system' -%}
{{- BOS + message['content'] + '\\n\\n' -}}
{%- elif message['role'] == 'user' -%}
{{- '### Instruction:\\n' + message['content'] + '\\n\\n' -}}
{%- else -%}
{{- '### Response:\\n' + message['content'] + '\\n\\n### End' + ('' if loop.last else '\\n\\n') -}}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '### Response:\\n' -}}
{%- endif -%}
"""
DOLLY_TEMPLATE = DOLLY_TEMPLATE.replace("INTRODUCTION", INTRODUCTION)
PROBE = "probe"
# A Jinja template may refuse a role or an order of roles; this is how it says so.
REFUSED = "template: the base model's chat template refuses a conversation of the roles"


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """One record as tokens; input_ids[loss_start:] are the targets: the answer and its stop token."""

    input_ids: list[int]
    loss_start: int
    neutralised: bool  # the text held a control token, which was encoded as plain text


def user_message(instruction: str, context: str) -> str:
    """What the user says: the instruction and, where there is one, the context behind `Input:`."""
    return f"{instruction}\n\nInput:\n{context}" if context else instruction


def conversation(record: dict[str, Any]) -> list[dict[str, str]]:
    """The messages that the model is to answer: a record's history, and what the user says now."""
    said = user_message(record["instruction"], record["context"])
    return [*messages(record.get("history", "")), {"role": "user", "content": said}]


def load_tokenizer(folder: Path) -> Any:
    """The fast tokenizer in a folder.

    Raises:
        ModelError: there is none, or it is a slow one, which cannot neutralise control tokens.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
    except (OSError, ValueError) as error:
        raise ModelError(f"base_model: no tokenizer in {folder}: {str(error).splitlines()[0]}") from error
    if not tokenizer("a", add_special_tokens=False)["input_ids"]:  # transformers makes an empty one where there is none
        raise ModelError(f"base_model: no tokenizer in {folder}: a tokenizer.json is needed")
    if not tokenizer.is_fast:
        raise ModelError(f"base_model: {folder} has a slow tokenizer; a tokenizer.json is needed")
    return tokenizer


def apply_template(tokenizer: Any, template: str) -> None:
    """Gives the tokenizer its chat template and, for Dolly's, the control tokens.

    Args:
        template: "dolly", or "base" for the base model's own.

    Raises:
        ModelError: "base" was asked for and the base model has none.
    """
    if template == "base":
        if not tokenizer.chat_template:
            raise ModelError("template=base: the base model's tokenizer has no chat template; use template=dolly")
    else:
        from tokenizers import AddedToken

        tokenizer.chat_template = DOLLY_TEMPLATE.replace("BOS", repr(_automatic_prefix(tokenizer)))
        tokenizer.add_tokens(
            [AddedToken(token, special=True, normalized=False) for token in DOLLY_TOKENS], special_tokens=True
        )
        tokenizer.eos_token = DOLLY_TOKENS[0]
    if tokenizer.pad_token is None:  # only generation asks for one; nothing here is ever padded
        tokenizer.pad_token = tokenizer.eos_token


def control_ids(tokenizer: Any) -> frozenset[int]:
    """The ids that no text may encode to."""
    return frozenset(index for index, token in tokenizer.added_tokens_decoder.items() if token.special)


class Renderer:
    """Encodes records with a tokenizer's chat template.

    Raises:
        ModelError: the template does not keep the prompt as a prefix of the whole, or drops the text.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.control = control_ids(tokenizer)
        self._frames: dict[tuple[str, ...], tuple[str, ...]] = {}
        self._controls_in: dict[tuple[str, ...], Counter[int]] = {}
        asked = [{"role": "user", "content": PROBE}]
        prompt = self._prompts([asked])[0]
        answered = tokenizer.apply_chat_template([*asked, {"role": "assistant", "content": PROBE}], tokenize=False)
        self.opening, found_answer, closing = answered[len(prompt) :].partition(PROBE)
        if not (PROBE in prompt and found_answer and answered.startswith(prompt)):
            raise ModelError(
                "template: its prompt is not a prefix of the whole conversation, so no answer can be learned from it"
            )
        self.stop = self._stop(closing)
        self.first = self._encode([_automatic_prefix(tokenizer)])[0]

    @property
    def stop_id(self) -> int:
        """The token that ends an answer, trained on and written to the model's generation_config."""
        return int(self._encode([self.stop])[0][-1])

    def prompt_ids(self, record: dict[str, Any]) -> list[int]:
        """What a server feeds the model before it answers."""
        return self._encode(self._prompts([conversation(record)]))[0]

    def encode(self, records: Sequence[dict[str, Any]]) -> list[Encoded]:
        """Tokens of records with the fields instruction, context, response and history, in their order."""
        asked = [record for record in records if record["instruction"]]
        conversations = [conversation(record) for record in asked]
        prompts = self._encode(self._prompts(conversations))
        targets = self._encode([self.opening + record["response"] + self.stop for record in asked])
        answered = map(self._checked, asked, conversations, prompts, targets)
        texts = [record["response"] for record in records if not record["instruction"]]
        read = map(self._text, texts, self._encode(texts))
        return [next(answered if record["instruction"] else read) for record in records]

    def _text(self, text: str, ids: list[int]) -> Encoded:
        """Plain text between what the tokenizer puts first and the stop token; all of it is learned."""
        plain = self._plain(text) if self._controls(ids) else ids
        forged = self._controls(ids) != self._controls(plain)
        return Encoded(input_ids=[*self.first, *plain, self.stop_id], loss_start=0, neutralised=forged)

    def _checked(
        self, record: dict[str, Any], said: list[dict[str, str]], prompt: list[int], target: list[int]
    ) -> Encoded:
        roles = tuple(message["role"] for message in said)
        prompt, forged_prompt = self._as_text(prompt, self._frame(roles), [message["content"] for message in said])
        answer_frame = (self.opening, self.stop)
        target, forged_target = self._as_text(target, answer_frame, [record["response"]])
        return Encoded(input_ids=prompt + target, loss_start=len(prompt), neutralised=forged_prompt or forged_target)

    def _as_text(self, ids: list[int], frame: tuple[str, ...], texts: list[str]) -> tuple[list[int], bool]:
        """The ids, with texts that were taken for control tokens encoded once more, as text; and whether they were.

        Args:
            frame: what the template puts before, between and after the texts.
        """
        found, expected = self._controls(ids), self._expected(frame)
        if found == expected:
            return ids, False
        plain = [self._plain(text) for text in texts]
        # what the vocabulary lacks encodes to the unknown token, which is special too but no forgery
        if found <= sum(map(self._controls, plain), expected):
            return ids, False
        parts = zip(self._encode(list(frame)), [*plain, []], strict=True)
        return [index for around, text in parts for index in (*around, *text)], True

    def _expected(self, frame: tuple[str, ...]) -> Counter[int]:
        if frame not in self._controls_in:
            self._controls_in[frame] = self._controls(self._encode([PROBE.join(frame)])[0])
        return self._controls_in[frame]

    def _frame(self, roles: tuple[str, ...]) -> tuple[str, ...]:
        """What the template puts around the messages of a conversation with these roles."""
        if roles not in self._frames:
            probes = [f"{PROBE}{number}{PROBE}" for number in range(len(roles))]
            rendered = self._prompts([[{"role": r, "content": p} for r, p in zip(roles, probes, strict=True)]])[0]
            frame = []
            for probe in probes:
                before, found, rendered = rendered.partition(probe)
                if not found:
                    raise ModelError(f"{REFUSED} {', '.join(roles)}: it leaves a message out, or moves it")
                frame.append(before)
            self._frames[roles] = (*frame, rendered)
        return self._frames[roles]

    def _prompts(self, conversations: list[list[dict[str, str]]]) -> list[str]:
        from jinja2 import TemplateError

        render = self.tokenizer.apply_chat_template
        try:
            return list(render(conversations, tokenize=False, add_generation_prompt=True)) if conversations else []
        except TemplateError as error:
            roles = sorted({message["role"] for said in conversations for message in said})
            raise ModelError(f"{REFUSED} {', '.join(roles)}: {' '.join(str(error).split())}") from error

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
        if not texts:
            return []
        ids: list[list[int]] = self.tokenizer(
            texts, add_special_tokens=False, split_special_tokens=False, return_attention_mask=False, verbose=False
        )["input_ids"]
        return ids

    def _plain(self, text: str) -> list[int]:
        """The ids of a text as text alone; some vocabularies hold a control token as a piece, which is spelled then."""
        tokenizer = self.tokenizer
        ids = tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        held = self.control - {tokenizer.unk_token_id}
        return [part for index in ids for part in (self._spelled(index) if index in held else [index])]

    def _spelled(self, index: int) -> list[int]:
        model = self.tokenizer.backend_tokenizer.model
        name = self.tokenizer.convert_ids_to_tokens(index)
        return [token.id for character in name for token in model.tokenize(character)]

    def _controls(self, ids: list[int]) -> Counter[int]:
        return Counter(index for index in ids if index in self.control)


def _automatic_prefix(tokenizer: Any) -> str:
    """The token that this tokenizer puts before every text, such as BOS; empty where it puts none."""
    first: int = tokenizer("a")["input_ids"][0]
    return str(tokenizer.convert_ids_to_tokens(first)) if first in tokenizer.all_special_ids else ""
