"""One renderer for training, evaluation and serving: the tokenizer's own chat template.

A record becomes a user message (its instruction, and its context behind `Input:`) and an answer. The
prompt is encoded exactly as a server encodes it, and the answer behind it, so the number of prompt tokens is
known and nobody searches for marker tokens later. Text never encodes to a control token.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.errors import ModelError

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


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """One record as tokens; input_ids[loss_start:] are the targets: the answer and its stop token."""

    input_ids: list[int]
    loss_start: int
    neutralised: bool  # the text held a control token, which was encoded as plain text


def user_message(instruction: str, context: str) -> str:
    """What the user says: the instruction and, where there is one, the context behind `Input:`."""
    return f"{instruction}\n\nInput:\n{context}" if context else instruction


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
        prompt = self._prompts([PROBE])[0]
        self.before, found, self.after = prompt.rpartition(PROBE)
        answered = tokenizer.apply_chat_template(_conversation(PROBE, PROBE), tokenize=False)
        self.opening, found_answer, closing = answered[len(prompt) :].partition(PROBE)
        if not (found and found_answer and answered.startswith(prompt)):
            raise ModelError(
                "template: its prompt is not a prefix of the whole conversation, so no answer can be learned from it"
            )
        self.stop = self._stop(closing)
        self.controls_in_prompt = self._controls(self._encode([prompt])[0])
        self.controls_in_targets = self._controls(self._encode([self.opening + PROBE + self.stop])[0])

    @property
    def stop_id(self) -> int:
        """The token that ends an answer, trained on and written to the model's generation_config."""
        return int(self._encode([self.stop])[0][-1])

    def prompt_ids(self, instruction: str, context: str) -> list[int]:
        """What a server feeds the model before it answers."""
        return self._encode(self._prompts([user_message(instruction, context)]))[0]

    def encode(self, records: Sequence[dict[str, Any]]) -> list[Encoded]:
        """Tokens of records with the fields instruction, context and response, in their order."""
        users = [user_message(record["instruction"], record["context"]) for record in records]
        prompts = self._encode(self._prompts(users))
        targets = self._encode([self.opening + record["response"] + self.stop for record in records])
        return [self._checked(*row) for row in zip(records, users, prompts, targets, strict=True)]

    def _checked(self, record: dict[str, Any], user: str, prompt: list[int], target: list[int]) -> Encoded:
        prompt, forged_prompt = self._as_text(prompt, self.controls_in_prompt, self.before, user, self.after)
        target, forged_target = self._as_text(
            target, self.controls_in_targets, self.opening, record["response"], self.stop
        )
        return Encoded(input_ids=prompt + target, loss_start=len(prompt), neutralised=forged_prompt or forged_target)

    def _as_text(
        self, ids: list[int], expected: Counter[int], before: str, text: str, after: str
    ) -> tuple[list[int], bool]:
        """The ids, with text that was taken for a control token encoded once more, as text; and whether it was."""
        found = self._controls(ids)
        if found == expected:
            return ids, False
        plain = self._plain(text)
        # what the vocabulary lacks encodes to the unknown token, which is special too but no forgery
        if found <= expected + self._controls(plain):
            return ids, False
        head, tail = self._encode([before, after])
        return [*head, *plain, *tail], True

    def _prompts(self, users: list[str]) -> list[str]:
        conversations = [_conversation(user) for user in users]
        rendered = self.tokenizer.apply_chat_template(conversations, tokenize=False, add_generation_prompt=True)
        return list(rendered)

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


def _conversation(user: str, answer: str | None = None) -> list[dict[str, str]]:
    messages = [{"role": "user", "content": user}]
    return messages if answer is None else [*messages, {"role": "assistant", "content": answer}]


def _automatic_prefix(tokenizer: Any) -> str:
    """The token that this tokenizer puts before every text, such as BOS; empty where it puts none."""
    first: int = tokenizer("a")["input_ids"][0]
    return str(tokenizer.convert_ids_to_tokens(first)) if first in tokenizer.all_special_ids else ""
