"""Rows laid end to end must give each target the loss that it has alone, whatever the model's attention."""

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import (
    BertConfig,
    BloomConfig,
    FalconConfig,
    Gemma2Config,
    Gemma3Config,
    Gemma3TextConfig,
    GPT2Config,
    GPTNeoXConfig,
    GptOssConfig,
    Lfm2Config,
    LlamaConfig,
    MistralConfig,
    MixtralConfig,
    NemotronConfig,
    OPTConfig,
    PhiConfig,
    Qwen2MoeConfig,
    Qwen3Config,
    T5Config,
    XLMRobertaConfig,
)
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import AutoModelForCausalLM

from components import head
from components.errors import ModelError
from components.models import keeps_rows_apart, load_config, load_model, max_positions
from components.packing import (
    HAND_ON_WINDOW,
    HOLDS_LOSS,
    attend_rows,
    attention_for,
    flatten,
    register_attention,
    summed_nll,
    target_nll,
)
from components.tokenize.tokenize import default_length

SHAPE = {"vocab_size": 128, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
WIDE = {**SHAPE, "intermediate_size": 64}
FEW_HEADS = {**WIDE, "num_key_value_heads": 2}
TOKENS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
SEES = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "patch_size": 8}


# What it reads by stands in a configuration inside its own.
READS = {**FEW_HEADS, **TOKENS, "head_dim": 8, "sliding_window": 6, "max_position_embeddings": 96}
CONFIGS = {
    "llama": LlamaConfig(**FEW_HEADS),
    "gpt_neox": GPTNeoXConfig(**WIDE),
    "gpt2": GPT2Config(vocab_size=128, n_embd=32, n_layer=2, n_head=4, bos_token_id=1, eos_token_id=2),
    "qwen3": Qwen3Config(**FEW_HEADS, head_dim=8),
    "phi": PhiConfig(**WIDE, **TOKENS),
    "opt": OPTConfig(**SHAPE, ffn_dim=64, word_embed_proj_dim=32),
    "mixtral, experts": MixtralConfig(**FEW_HEADS, num_local_experts=4),
    "qwen2, experts": Qwen2MoeConfig(
        **FEW_HEADS, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=16, shared_expert_intermediate_size=16
    ),
    "mistral, sliding window": MistralConfig(**FEW_HEADS, sliding_window=6),
    "gemma2, soft cap": Gemma2Config(**FEW_HEADS, head_dim=8, sliding_window=6, **TOKENS),
    "gemma3, with eyes": Gemma3Config(
        text_config={**READS, "layer_types": ["sliding_attention", "full_attention"]},
        vision_config={**SEES, "image_size": 16},
        mm_tokens_per_image=4,
    ),
}
ROWS = [(30, 10), (7, 1), (25, 24), (12, 0), (1, 1)]


@pytest.fixture(scope="module")
def rows() -> list[dict[str, Any]]:
    generator = torch.Generator().manual_seed(1)
    return [
        {"input_ids": torch.randint(3, 128, (length,), generator=generator).tolist(), "loss_start": start}
        for length, start in ROWS
    ]


def build(config: Any, attention: str) -> Any:
    register_attention()
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(deepcopy(config), attn_implementation=attention).eval()
    return model if hasattr(config, "num_experts_per_tok") else model.double()  # experts' kernel knows no float64


def plain_nll(model: Any, row: dict[str, Any]) -> torch.Tensor:
    """Logits of every position of one row, and the loss of its targets: the textbook way."""
    ids, start = torch.tensor([row["input_ids"]]), max(1, row["loss_start"])
    logits = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0, start - 1 : -1]
    return torch.nn.functional.cross_entropy(logits.float(), ids[0, start:], reduction="none")


@pytest.mark.parametrize("name", CONFIGS)
def test_packed_loss_equals_each_row_alone(name: str, rows: list[dict[str, Any]]) -> None:
    config = CONFIGS[name]
    expected = torch.cat([plain_nll(build(config, "eager"), row) for row in rows])
    packed = target_nll(build(config, attention_for(config)), flatten(rows))
    assert packed.shape == expected.shape
    torch.testing.assert_close(packed, expected, rtol=1e-5, atol=1e-6)


def windowed(name: str, window: int | None) -> Any:
    """A tiny configuration of a family, whose first layer slides."""
    experts = {"num_experts_per_tok": 2, "moe_intermediate_size": 16}
    options: dict[str, Any] = {**FEW_HEADS, **TOKENS, "head_dim": 8, "sliding_window": window, **experts}
    options |= {"layer_types": ["sliding_attention", "full_attention"], "use_sliding_window": True}
    options |= {"n_routed_experts": 4, "num_experts": 4, "num_local_experts": 4, "n_group": 1, "topk_group": 1}
    options |= {"n_shared_experts": 1, "hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": 128}
    made = CONFIG_MAPPING[name]
    known = {*made().to_dict(), *made.attribute_map, "layer_types"}
    return made(**{key: value for key, value in options.items() if key in known})


@pytest.mark.parametrize("name", HAND_ON_WINDOW)
def test_a_windows_loss_is_that_of_the_mask(name: str, rows: list[dict[str, Any]]) -> None:
    """Of each family that is given no mask; rows are as short as the window, and longer by far."""
    config = windowed(name, 6)
    assert attention_for(config) == "rows"
    alone = build(config, "eager")
    expected = torch.cat([plain_nll(alone, row) for row in rows])
    packed = build(config, "rows")
    torch.testing.assert_close(target_nll(packed, flatten(rows)), expected, rtol=1e-5, atol=1e-6)
    wide = build(windowed(name, 64), "rows")
    assert not torch.allclose(target_nll(wide, flatten(rows)), expected, rtol=1e-4), "the window has no effect"


def test_scores_that_rows_do_not_have_are_refused() -> None:
    states = torch.zeros(1, 2, 3, 4)
    with pytest.raises(ModelError, match="its attention needs s_aux"):
        attend_rows(torch.nn.Module(), states, states, states, None, row_lengths=[3], s_aux=torch.zeros(2))


@pytest.mark.parametrize("name", ["llama", "gpt_neox", "mistral, sliding window"])
def test_packed_gradients_equal_the_sum_over_rows_alone(name: str, rows: list[dict[str, Any]]) -> None:
    config = CONFIGS[name]
    alone, packed = build(config, "eager"), build(config, attention_for(config))
    for row in rows:
        if len(row["input_ids"]) > 1:
            plain_nll(alone, row).sum().backward()
    target_nll(packed, flatten(rows)).sum().backward()
    for one, other in zip(alone.parameters(), packed.parameters(), strict=True):
        torch.testing.assert_close(other.grad, one.grad, rtol=1e-5, atol=1e-6)


def test_attention_in_bf16_is_that_of_float64_within_a_rounding() -> None:
    """Rows of one token, short ones and a longer one, which do not take the same kernel; two heads share a key."""
    lengths = [1, 40, 128, 129]
    torch.manual_seed(0)
    states = [torch.randn(1, heads, sum(lengths), 16).bfloat16() for heads in (4, 2, 2)]
    outcomes: list[list[Any]] = []
    for number_format in (torch.bfloat16, torch.float64):
        query, key, value = (state.detach().to(number_format).requires_grad_() for state in states)
        attended, _ = attend_rows(torch.nn.Module(), query, key, value, None, row_lengths=lengths)
        assert attended.dtype == number_format
        attended.square().sum().backward()
        outcomes.append([attended.detach(), query.grad, key.grad, value.grad])
    for rounded, exact in zip(*outcomes, strict=True):
        torch.testing.assert_close(rounded.double(), exact, rtol=2**-6, atol=2**-6 * float(exact.abs().max()))


@pytest.mark.parametrize("chunk", [1, 128 * 7, 1 << 23])
@pytest.mark.parametrize("name", CONFIGS)
def test_the_loss_inside_the_output_layer_is_the_plain_one(
    name: str, chunk: int, rows: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In chunks of one target, of seven, and of all; a soft cap after the layer keeps it out."""
    monkeypatch.setattr(head, "CHUNK_LOGITS", chunk)
    monkeypatch.setattr(head, "SLICE_LOGITS", chunk // 3)
    config = CONFIGS[name]
    plain, held = build(config, attention_for(config)), build(config, attention_for(config))
    expected, total = target_nll(plain, flatten(rows)).sum(), summed_nll(held, flatten(rows))
    torch.testing.assert_close(total, expected, rtol=1e-5, atol=0, check_dtype=False)
    assert getattr(held, HOLDS_LOSS) == (name != "gemma2, soft cap")
    (expected / 3).backward()
    (total / 3).backward()
    for one, other in zip(plain.parameters(), held.parameters(), strict=True):
        torch.testing.assert_close(other.grad, one.grad, rtol=1e-5, atol=1e-6)


def test_a_model_that_needs_more_than_a_causal_mask_is_not_given_row_attention() -> None:
    """Soft caps; a window that Phi-3.5-MoE and Qwen2-MoE make a mask of, and tell nobody."""
    assert attention_for(CONFIGS["gemma2, soft cap"]) == "eager"
    for name in ("phimoe", "qwen2_moe"):
        assert attention_for(windowed(name, 6)) == "eager"
    assert attention_for(CONFIGS["gemma3, with eyes"]) == "rows"
    assert attention_for(CONFIGS["llama"]) == "rows"


@pytest.mark.parametrize(
    "config",
    [
        BloomConfig(vocab_size=128, hidden_size=32, n_layer=1, n_head=4),
        FalconConfig(vocab_size=128, hidden_size=32, num_hidden_layers=1, num_attention_heads=4),
        Lfm2Config(**FEW_HEADS, layer_types=["conv", "full_attention"]),
        GptOssConfig(**FEW_HEADS, head_dim=8, num_local_experts=4, num_experts_per_tok=2),
        NemotronConfig(**FEW_HEADS),
    ],
    ids=lambda config: config.model_type,
)
def test_a_model_whose_rows_would_see_each_other_is_refused(config: Any, tmp_path: Path) -> None:
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"^base_model: .*") as error:
        load_model(tmp_path, 128, torch.float32)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "config",
    [
        BertConfig(**WIDE),
        XLMRobertaConfig(**WIDE),
        T5Config(vocab_size=128, d_model=32, num_layers=1, num_heads=4, d_ff=32, d_kv=8),
        Gemma3TextConfig(**FEW_HEADS, head_dim=8, use_bidirectional_attention=True),
    ],
    ids=lambda config: config.model_type,
)
def test_a_model_whose_tokens_see_those_behind_them_is_refused(config: Any, tmp_path: Path) -> None:
    config.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=rf"is an encoder \(type {config.model_type}\)"):
        load_model(tmp_path, 128, torch.float32)
    with pytest.raises(ModelError, match="is an encoder"):
        default_length(tmp_path)  # before anything is tokenized for it


def test_an_encoder_that_was_made_a_decoder_is_none(tmp_path: Path) -> None:
    BertConfig(**WIDE, is_decoder=True).save_pretrained(tmp_path)
    assert load_config(tmp_path).model_type == "bert"


def test_a_model_that_also_sees_is_told_by_what_it_reads_by() -> None:
    assert max_positions(CONFIGS["gemma3, with eyes"]) == 96
    assert max_positions(CONFIGS["gpt2"]) == 1024
    model = build(CONFIGS["gemma3, with eyes"], "eager")
    assert keeps_rows_apart(model)
    model.config.text_config.layer_types = ["linear_attention", "full_attention"]
    assert not keeps_rows_apart(model)


class NoWaiting(TorchDispatchMode):
    """Refuses what a GPU would have to be waited for: operations that need numbers, or whose shape depends on them."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        aten = torch.ops.aten
        by_mask = any(torch.is_tensor(entry) and entry.dtype == torch.bool for entry in tree_leaves(args[1:2]))
        fills = func.overloadpacket is aten.index_put_ and args[2].dim() == 0  # one number, wherever the mask is true
        waits = {aten._local_scalar_dense, aten.nonzero}
        waits |= {aten.index, aten.index_put_} if by_mask and not fills else set()
        assert func.overloadpacket not in waits, f"{func} waits"
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", [name for name in CONFIGS if attention_for(CONFIGS[name]) == "rows"])
def test_a_step_never_waits_for_its_device(name: str, rows: list[dict[str, Any]]) -> None:
    model, batch = build(CONFIGS[name], "rows"), flatten(rows)
    summed_nll(model, batch)  # tries the output layer once, which may wait
    with NoWaiting():
        summed_nll(model, batch).backward()
        with pytest.raises(AssertionError, match="nonzero"):
            (batch["labels"] != 0).nonzero()


def test_no_rows_give_a_loss_of_nothing() -> None:
    model = build(CONFIGS["llama"], "rows")
    nothing = target_nll(model, flatten([]))
    assert nothing.shape == (0,)
    nothing.sum().backward()
    assert all(not weight.grad.any() for weight in model.parameters() if weight.grad is not None)
