"""Chat templates: Dolly's, the base model's own, or a user's Jinja file."""

import re
from datetime import date
from pathlib import Path
from typing import Any

from components.errors import ModelError, ParameterError
from components.sources import Pinned, fetch, pin

TEMPLATES = ("dolly", "base")
SUFFIX = ".jinja"
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

# How a template asks for today's date, and what it is told. It is the date that Llama 3.1's template takes where nobody
# gives it one.
NOW = re.compile(r"""strftime_now\(\s*(?P<quote>["'])(?P<format>[^"'\\]*)(?P=quote)\s*\)""")
TODAY = date(2024, 7, 26)


def check_template(template: str) -> None:
    """Raises ParameterError unless a template is one of ours or has the form of a Jinja file's path or URI."""
    if template not in TEMPLATES and not template.endswith(SUFFIX):
        raise ParameterError(
            f"template={template!r} is unknown; allowed: {', '.join(TEMPLATES)}, "
            f"or the path or URI of a Jinja chat template (*{SUFFIX})"
        )


def pin_template(template: str) -> Pinned:
    """A template's immutable name, and the digest of a user's file; ours have none, they are code.

    Raises:
        ParameterError, ModelError: it is unknown, or its file cannot be read.
    """
    check_template(template)
    return Pinned(uri=template, digest="") if template in TEMPLATES else pin(template, "template")


def apply_template(tokenizer: Any, template: str, template_digest: str = "") -> None:
    """Gives the tokenizer its chat template and, for Dolly's, the control tokens.

    Args:
        template: "dolly", "base" for the base model's own, or the path or URI of a Jinja file.
        template_digest: what resolve found for the file; the bytes must still be these.

    Raises:
        ParameterError: the template is unknown.
        ModelError: "base" was asked for and the base model has none, or the file cannot be read or has changed.
    """
    check_template(template)
    if template == "dolly":
        _apply_dolly(tokenizer)
    elif template != "base":
        tokenizer.chat_template = _read(template, template_digest)
    elif not tokenizer.chat_template:
        raise ModelError("template=base: the base model's tokenizer has no chat template; use template=dolly")
    if tokenizer.pad_token is None:  # only generation asks for one; nothing here is ever padded
        tokenizer.pad_token = tokenizer.eos_token


def on_one_day(template: str) -> str:
    """A template that asks for today's date as it is on TODAY: the same records are the same tokens on every day."""
    return NOW.sub(lambda found: repr(TODAY.strftime(found["format"])), template)


def is_dolly(tokenizer: Any) -> bool:
    """Whether a tokenizer's template is Dolly's, which puts a message's text into place as it is."""
    return bool(tokenizer.chat_template == _dolly_template(tokenizer))


def _apply_dolly(tokenizer: Any) -> None:
    from tokenizers import AddedToken

    tokenizer.chat_template = _dolly_template(tokenizer)
    tokenizer.add_tokens(
        [AddedToken(token, special=True, normalized=False) for token in DOLLY_TOKENS], special_tokens=True
    )
    tokenizer.eos_token = DOLLY_TOKENS[0]


def _dolly_template(tokenizer: Any) -> str:
    return DOLLY_TEMPLATE.replace("BOS", repr(automatic_prefix(tokenizer)))


def automatic_prefix(tokenizer: Any) -> str:
    """The token that this tokenizer puts before every text, such as BOS; empty where it puts none."""
    first: int = tokenizer("a")["input_ids"][0]
    return str(tokenizer.convert_ids_to_tokens(first)) if first in tokenizer.all_special_ids else ""


def _read(template: str, digest: str) -> str:
    pinned = pin(template, "template")
    if digest and pinned.digest != digest:
        raise ModelError(f"template: {template} changed after it was resolved; start the run again")
    path: Path = fetch(pinned, "template")
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise ModelError(f"template: {template} is not UTF-8 text") from None
