"""Answers to a few test questions, by greedy decoding."""

from collections.abc import Sequence
from typing import Any

import torch

MAX_NEW_TOKENS = 96


@torch.inference_mode()
def answer(model: Any, tokenizer: Any, prompts: Sequence[list[int]], stop_id: int) -> list[str]:
    """The model's answer to each prompt, without its stop token."""
    model.eval()
    model.set_attn_implementation("eager" if model.config._attn_implementation == "eager" else "sdpa")
    device = next(model.parameters()).device
    answers = []
    for prompt in prompts:
        ids = torch.tensor([prompt], device=device)
        output = model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=MAX_NEW_TOKENS,
            do_sample=False,
            eos_token_id=stop_id,
            pad_token_id=stop_id,
        )
        answers.append(tokenizer.decode(output[0, len(prompt) :], skip_special_tokens=True).strip())
    return answers
