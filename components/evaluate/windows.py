"""Where the windows over a long text lie: which tokens a model sees together, and which of them are scored.

Token 0 is the one that stands before the text (BOS, or the end-of-text token); it is never scored, each other one
is scored exactly once.
"""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Window:
    """Tokens begin to end of a document, of which those from `scored` are targets."""

    begin: int
    end: int
    scored: int


def windows(length: int, size: int, stride: int = 0) -> list[Window]:
    """The windows over a document.

    Without a stride they are lm-evaluation-harness's rolling windows (`get_rolling_token_windows` with one token of
    context): each predicts `size` new tokens from `size` tokens, and the last one is filled with context from
    before. With a stride they are those of the fixed-length recipe in the transformers documentation ("Perplexity
    of fixed-length models"): a window of `size` tokens begins every `stride` tokens.

    Args:
        length: tokens of the document, with the one before it.
        size: tokens that the model takes at a time.
        stride: tokens from one window's begin to the next one's, from 1 to size - 1; 0 for rolling windows.
    """
    if stride:
        return _strided(length, size, stride)
    ends = [*range(size + 1, length, size), length] if length > 1 else []
    return [
        Window(begin=max(0, end - size - 1), end=end, scored=max(1, 1 + index * size)) for index, end in enumerate(ends)
    ]


def _strided(length: int, size: int, stride: int) -> list[Window]:
    found: list[Window] = []
    scored = 1
    for begin in range(0, length, stride):
        end = min(begin + size, length)
        if end > scored:
            found.append(Window(begin=begin, end=end, scored=scored))
        if end == length:
            break
        scored = end
    return found
