"""The operations of a training, against llm-foundry's published table and against a count by hand."""

import pytest
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

from benchmarks.flops import PEAKS, mfu, model_flops, multiplied, needed_flops


@pytest.mark.parametrize(
    ("parameters", "layers", "hidden", "tokens_per_second", "published"),
    [
        (2_651_553_280, 32, 2560, 10_811, 0.62),  # MPT-3B, -7B and -13B on eight A100-80s at 2,048 tokens
        (6_658_859_008, 32, 4096, 4_641, 0.64),
        (12_853_954_560, 40, 5120, 2_262, 0.60),
    ],
)
def test_published_speeds_have_the_published_mfu(
    parameters: int, layers: int, hidden: int, tokens_per_second: float, published: float
) -> None:
    flops = model_flops(parameters, layers, hidden, [2048])
    assert mfu(flops, 2048 / tokens_per_second, PEAKS["A100"]) == pytest.approx(published, abs=0.01)


def test_what_is_needed_counts_each_weight_once_a_token_that_it_serves() -> None:
    shape = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
    model = GPTNeoXForCausalLM(GPTNeoXConfig(vocab_size=100, **shape))
    a_layer = 3 * 8 * 8 + 8 * 8 + 2 * 8 * 16  # query, key, value; output; feed-forward
    assert multiplied(model) == (2 * a_layer, 100 * 8)
    rows = [(10, 4), (3, 0)]  # 13 tokens, 6 and 2 targets
    attention = 2 * 2 * (2 * 8 * (10**2 + 3**2) // 2)  # scores and values, in two layers, below the diagonal
    assert needed_flops(model, rows) == 3 * (2 * 2 * a_layer * 13 + 2 * 100 * 8 * 8 + attention)
