"""Greedy answers to a few test questions, and what they show without being read: length, repetition, empty, stopped."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from transformers import GenerationConfig

MAX_NEW_TOKENS = 96
BATCH = 8  # prompts decoded at a time
REPEATED = 4  # tokens in a row that count as repeated when they come again


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a model answered: its tokens without the stop token, their text, and whether the stop token came."""

    tokens: list[int]
    text: str
    stopped: bool

    @property
    def repetition(self) -> float:
        """The share of its 4-grams of tokens that came before in it (seq-rep-4 of Welleck et al., 2020)."""
        grams = [tuple(self.tokens[start : start + REPEATED]) for start in range(len(self.tokens) - REPEATED + 1)]
        return 1 - len(set(grams)) / len(grams) if grams else 0.0


@torch.inference_mode()
def answer(model: Any, tokenizer: Any, prompts: Sequence[list[int]], stop_id: int) -> list[Answer]:
    """The model's answer to each prompt: the most likely token each time, MAX_NEW_TOKENS at most."""
    model.eval()
    model.set_attn_implementation("eager" if model.config._attn_implementation == "eager" else "sdpa")
    order = sorted(range(len(prompts)), key=lambda index: (len(prompts[index]), index))
    answers: dict[int, Answer] = {}
    with _greedy(model, stop_id):
        for start in range(0, len(order), BATCH):
            chosen = order[start : start + BATCH]
            outputs = _generate(model, [prompts[index] for index in chosen], stop_id)
            answers.update(zip(chosen, (_answer(tokenizer, output, stop_id) for output in outputs), strict=True))
    return [answers[index] for index in range(len(prompts))]


def rates(answers: Sequence[Answer]) -> dict[str, float]:
    """What the answers show as a whole; no text.

    Returns:
        mean_tokens, repetition_rate (the mean of Answer.repetition), empty_rate and stop_rate (shares of answers).
    """
    count = len(answers)
    return {
        "mean_tokens": sum(len(given.tokens) for given in answers) / count,
        "repetition_rate": sum(given.repetition for given in answers) / count,
        "empty_rate": sum(not given.text for given in answers) / count,
        "stop_rate": sum(given.stopped for given in answers) / count,
    }


@contextmanager
def _greedy(model: Any, stop_id: int) -> Iterator[None]:
    """Inside, the model generates as said here alone.

    Its own generation_config may ask for more, such as a repetition penalty; generate takes from there what a
    configuration that it is given leaves open, so the model's is put aside.
    """
    own = model.generation_config
    model.generation_config = GenerationConfig(
        max_new_tokens=MAX_NEW_TOKENS, do_sample=False, eos_token_id=stop_id, pad_token_id=stop_id
    )
    try:
        yield
    finally:
        model.generation_config = own


def _generate(model: Any, prompts: list[list[int]], stop_id: int) -> list[list[int]]:
    """What follows each prompt. Prompts stand flush right, and what is before them is masked."""
    width = max(map(len, prompts))
    device = next(model.parameters()).device
    ids = torch.tensor([[stop_id] * (width - len(prompt)) + prompt for prompt in prompts], device=device)
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts], device=device)
    output = model.generate(input_ids=ids, attention_mask=mask)
    followed: list[list[int]] = output[:, width:].tolist()
    return followed


def _answer(tokenizer: Any, output: list[int], stop_id: int) -> Answer:
    stopped = stop_id in output
    tokens = output[: output.index(stop_id)] if stopped else output
    return Answer(tokens=tokens, text=str(tokenizer.decode(tokens, skip_special_tokens=True)).strip(), stopped=stopped)
