"""A model that is too large for one GPU: how it is spread, and that it scores the same when it is."""

import gc
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import dispatch_model
from accelerate.utils import compute_module_sizes

from components.errors import ModelError
from components.evaluate.devices import layout, place
from components.models import load_model
from components.perplexity import score


@pytest.fixture
def model(stories: Path) -> Any:
    return load_model(stories, 512, torch.float32)


@pytest.fixture
def size(model: Any) -> int:
    return int(compute_module_sizes(model)[""])


def test_a_model_that_fits_stays_whole_on_the_first_gpu_with_room(model: Any, size: int) -> None:
    assert layout(model, [2 * size, 2 * size]) == {"": 0}
    assert layout(model, [size // 2, 2 * size]) == {"": 1}


@pytest.mark.filterwarnings("ignore:Device . is not available")
def test_a_model_that_does_not_fit_is_spread_in_whole_layers(model: Any, size: int) -> None:
    spread = layout(model, [int(0.8 * size), int(0.9 * size)])
    assert set(spread.values()) == {0, 1}
    parts = {name for name, _ in model.named_modules()}
    assert spread.keys() <= parts
    assert not [name for name in spread if name.startswith("model.layers.") and name.count(".") > 2]
    held = {number: sum(_bytes(model, name) for name in spread if spread[name] == number) for number in (0, 1)}
    assert held[0] <= 0.8 * 0.8 * size


def test_gpus_that_are_too_small_together_are_named(model: Any, size: int) -> None:
    with pytest.raises(ModelError, match=r"2 GPUs with .* GiB free are too few to evaluate it; give"):
        layout(model, [size // 4, size // 4])


def test_a_model_in_parts_scores_the_same(model: Any, tmp_path: Path) -> None:
    """The disk stands for a second device: its layers are brought in for each call, by the same hooks."""
    generator = np.random.default_rng(0)
    rows = [
        {"id": str(number), "input_ids": generator.integers(3, 500, 9).tolist(), "loss_start": 4, "target_bytes": 9}
        | {"target_words": 2}
        for number in range(5)
    ]
    whole = score(model, rows, batch_size=2, description="whole")
    parts = dict.fromkeys(("model.embed_tokens", "lm_head", "model.norm", "model.rotary_emb"), "cpu")
    parts |= {f"model.layers.{number}": "disk" if number > 2 else "cpu" for number in range(5)}
    spread = dispatch_model(model, parts, main_device="cpu", offload_dir=str(tmp_path))
    in_parts = score(spread, rows, batch_size=2, description="in parts")
    assert next(spread.model.layers[4].parameters()).device.type == "meta"
    np.testing.assert_array_equal(in_parts.nll, whole.nll)


def test_a_model_that_was_spread_is_gone_when_the_next_is_placed(stories: Path, tmp_path: Path) -> None:
    """accelerate's hooks hold it in a cycle, which nothing else breaks before the free memory is asked for."""
    parts = {"model": "cpu", "lm_head": "disk"}
    spread = dispatch_model(
        load_model(stories, 512, torch.float32), parts, main_device="cpu", offload_dir=str(tmp_path)
    )
    left = weakref.ref(spread.model.norm.weight)
    following = load_model(stories, 512, torch.float32)
    gc.disable()  # so that it does not happen to run in between
    try:
        del spread
        place(following)
        assert left() is None
    finally:
        gc.enable()


def _bytes(model: Any, name: str) -> int:
    return int(compute_module_sizes(model)[name])
