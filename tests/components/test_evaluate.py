"""The perplexity must be the one that anybody computes who computes it right."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from components.evaluate.evaluate import evaluate
from components.evaluate.perplexity import Scores, bootstrap, interval, score
from components.models import load_model
from components.rendering import Renderer, load_tokenizer
from components.templates import apply_template


@pytest.fixture(scope="module")
def tokenizer(stories: Path) -> Any:
    loaded = load_tokenizer(stories)
    apply_template(loaded, "dolly")
    return loaded


@pytest.fixture(scope="module")
def rows(dolly: Path, tokenizer: Any) -> list[dict[str, Any]]:
    """40 real records of many lengths."""
    records = [json.loads(line) for line in dolly.read_text(encoding="utf-8").splitlines()[:120]]
    encoded = Renderer(tokenizer).encode([{**record, "id": str(index)} for index, record in enumerate(records)])
    return [
        {
            "id": str(index),
            "input_ids": row.input_ids,
            "loss_start": row.loss_start,
            "target_bytes": len(records[index]["response"].encode()),
            "context_length": len(records[index]["context"]),
        }
        for index, row in enumerate(encoded)
        if len(row.input_ids) < 512
    ][:40]


def independent_nll(folder: Path, vocabulary: int, row: dict[str, Any]) -> float:
    """The row's NLL in float64: eager attention, softmax over every position, one row at a time."""
    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager", dtype=torch.float64).eval()
    mean = model.get_input_embeddings().weight.detach().mean(dim=0)
    model.resize_token_embeddings(vocabulary, mean_resizing=False)
    with torch.no_grad():
        model.get_input_embeddings().weight[512:] = mean
        probabilities = model(torch.tensor([row["input_ids"]])).logits[0].softmax(dim=-1)
    targets = range(row["loss_start"], len(row["input_ids"]))
    return -sum(math.log(probabilities[position - 1, row["input_ids"][position]].item()) for position in targets)


def test_perplexity_equals_an_independent_float64_computation(
    stories: Path, tokenizer: Any, rows: list[dict[str, Any]]
) -> None:
    scored = score(load_model(stories, len(tokenizer), torch.float32), rows, batch_size=8)
    total = sum(independent_nll(stories, len(tokenizer), row) for row in rows)
    targets = sum(len(row["input_ids"]) - row["loss_start"] for row in rows)
    assert scored.perplexity == pytest.approx(math.exp(total / targets), rel=1e-6)
    assert scored.bits_per_byte == pytest.approx(
        total / math.log(2) / sum(row["target_bytes"] for row in rows), rel=1e-6
    )


def test_the_batch_size_does_not_change_it(stories: Path, tokenizer: Any, rows: list[dict[str, Any]]) -> None:
    model = load_model(stories, len(tokenizer), torch.float32)
    one, four, many = (score(model, rows, batch_size=size) for size in (1, 4, 32))
    assert four.perplexity == pytest.approx(one.perplexity, rel=1e-6)
    assert many.perplexity == pytest.approx(one.perplexity, rel=1e-6)
    np.testing.assert_allclose(many.nll, one.nll, rtol=1e-5)


def test_it_is_neither_a_mean_of_batches_nor_of_records() -> None:
    """A long certain record and a short uncertain one: only sums give the true figure."""
    scores = Scores(nll=np.array([10.0, 30.0]), tokens=np.array([100, 10]), bytes=np.array([400, 40]))
    assert scores.perplexity == pytest.approx(math.exp(40 / 110))
    assert scores.bits_per_byte == pytest.approx(40 / math.log(2) / 440)


def test_the_bootstrap_is_paired_seeded_and_covers_the_figure() -> None:
    generator = np.random.default_rng(5)
    tokens = generator.integers(5, 60, size=200)
    base = Scores(nll=tokens * generator.normal(3.0, 0.3, size=200), tokens=tokens, bytes=tokens * 4)
    tuned = Scores(nll=base.nll * 0.99, tokens=tokens, bytes=tokens * 4)
    draws = bootstrap([base, tuned])
    low, high = interval(draws[0])
    assert low < base.perplexity < high
    assert interval(draws[1] - draws[0])[1] < 0, "paired draws show a small but sure improvement"
    np.testing.assert_array_equal(draws, bootstrap([base, tuned]))


def test_a_champion_with_another_tokenizer_is_measured_on_the_same_records(
    trained: Path, stories: Path, tmp_path: Path
) -> None:
    """Here the champion is the base model with its own tokenizer: other tokens over the same bytes."""
    from components.registry import Entry, open_registry

    other = tmp_path / "other"
    bare = load_tokenizer(stories)
    bare.chat_template = "{% for m in messages %}{{ m.content + '\n' }}{% endfor %}"
    bare.save_pretrained(other)
    model = AutoModelForCausalLM.from_pretrained(stories)
    model.save_pretrained(other)
    address = f"sqlite:///{tmp_path}/mlflow.db"
    entry = Entry(key="k", folder=other, configuration={}, metrics={}, tags={})
    champion, _ = open_registry(address, "m").register(entry)
    evaluate(
        records=trained / "records.parquet",
        test=trained / "test.parquet",
        model=trained / "model",
        base_model=str(stories),
        base_model_digest="",
        champion=champion.reference,
        registry=address,
        model_name="m",
        evaluation=tmp_path / "evaluation.json",
    )
    result = json.loads((tmp_path / "evaluation.json").read_text())
    models = result["models"]
    assert models["champion"]["target_tokens"] != models["base"]["target_tokens"]
    ratio = models["champion"]["nll"] / models["base"]["nll"]
    assert models["champion"]["bits_per_byte"] == pytest.approx(models["base"]["bits_per_byte"] * ratio)
    assert result["samples"] == [], "record text is written only when it was asked for"
