"""The perplexity must be the one that anybody computes who computes it right."""

import json
import math
import re
import shutil
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers.normalizers import Replace, Sequence
from transformers import AutoModelForCausalLM, GenerationConfig

from components.errors import DataError, ModelError, PipelineError
from components.evaluate.by_hand import evaluate as by_hand
from components.evaluate.evaluate import evaluate
from components.evaluate.figures import compare, errors, grouped, length_bucket, worst
from components.evaluate.generation import Answer, answer, rates
from components.gate.gate import REJECTED, gate
from components.models import load_model
from components.perplexity import Scores, score
from components.records import file_digest, read_json, read_table, write_json
from components.rendering import Renderer, load_tokenizer
from components.templates import apply_template
from tests.conftest import make_record, write_jsonl


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
    scores = Scores(
        nll=np.array([10.0, 30.0]), tokens=np.array([100, 10]), bytes=np.array([400, 40]), words=np.array([80, 8])
    )
    assert scores.perplexity == pytest.approx(math.exp(40 / 110))
    assert scores.bits_per_byte == pytest.approx(40 / math.log(2) / 440)
    figures = scores.figures()
    assert figures["word_perplexity"] == pytest.approx(math.exp(40 / 88))
    assert figures["byte_perplexity"] == pytest.approx(2 ** figures["bits_per_byte"])


def test_a_perplexity_that_no_number_can_hold_is_none() -> None:
    one = Scores(nll=np.array([1e4]), tokens=np.array([10000]), bytes=np.array([10000]), words=np.array([1]))
    assert one.figures()["word_perplexity"] is None
    assert one.figures()["perplexity"] == pytest.approx(math.e)


def test_a_model_that_is_certain_of_every_token_is_compared(tmp_path: Path) -> None:
    """A champion may have learnt a group's few answers by heart: in float32 their NLL is 0."""
    counts = {"tokens": np.array([2, 2]), "bytes": np.array([3, 3]), "words": np.array([1, 1])}
    scores = {
        name: Scores(nll=np.array(nll), **counts)
        for name, nll in {"base": [4.0, 6.0], "tuned": [0.5, 0.0], "champion": [0.0, 0.0]}.items()
    }
    groups = grouped(scores, {"category": ["a", "b"]})["category"]
    assert groups["a"]["tuned_over"]["champion"] == {"bits_per_byte_ratio": None, "interval": None}
    assert groups["b"]["tuned_over"]["champion"] == {"bits_per_byte_ratio": 1.0, "interval": None}
    certain = errors({"base": scores["base"], "tuned": scores["champion"]}, ["1", "2"], {"category": ["a", "b"]})
    assert [entry["share_of_nll"] for entry in certain["category"]] == [0.0, 0.0]
    write_json(tmp_path / "written.json", [groups, compare(scores), certain])


def test_the_bootstrap_is_paired_seeded_and_covers_the_figure() -> None:
    generator = np.random.default_rng(5)
    tokens = generator.integers(5, 60, size=200)
    base = Scores(nll=tokens * generator.normal(3.0, 0.3, size=200), tokens=tokens, bytes=tokens * 4, words=tokens)
    tuned = Scores(nll=base.nll * 0.99, tokens=tokens, bytes=tokens * 4, words=tokens)
    result = compare({"base": base, "tuned": tuned})
    low, high = result["models"]["base"]["perplexity_interval"]
    assert low < base.perplexity < high
    assert result["tuned_minus"]["base"][1] < 0, "paired draws show a small but sure improvement"
    ratio = result["tuned_over"]["base"]
    assert ratio["bits_per_byte_ratio"] == pytest.approx(tuned.bits_per_byte / base.bits_per_byte)
    np.testing.assert_allclose(ratio["interval"], 0.99)
    assert result == compare({"base": base, "tuned": tuned})


def test_figures_of_a_model_that_diverged_are_none_where_no_number_holds_them(tmp_path: Path) -> None:
    tokens = np.array([10, 10, 10])
    tuned = Scores(nll=np.array([6e3, 8e3, 9e3]), tokens=tokens, bytes=tokens * 4, words=tokens)
    base = Scores(nll=np.array([30.0, 31.0, 32.0]), tokens=tokens, bytes=tokens * 4, words=tokens)
    result = compare({"base": base, "tuned": tuned})
    write_json(tmp_path / "evaluation.json", result)  # which takes no infinity
    assert (result["models"]["tuned"]["perplexity"], result["models"]["tuned"]["perplexity_interval"]) == (None, None)
    assert result["models"]["base"]["perplexity_interval"] is not None
    assert result["tuned_minus"] == {"base": None}
    assert result["tuned_over"]["base"]["interval"][0] > 100


def diverged(folder: Path) -> None:
    """The weights of a model that is sure of the wrong token every time."""
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"] = weights["model.norm.weight"] * 3000
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def test_a_model_that_diverged_is_measured_and_rejected(
    trained: Path, stories: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = shutil.copytree(trained / "model", tmp_path / "model")
    diverged(broken)
    result = evaluated(trained, stories, tmp_path, model=broken, prompts=0)
    assert result["models"]["tuned"]["perplexity"] is None
    assert "evaluate: tuned perplexity –, " in capsys.readouterr().out
    judged = gate(evaluation=tmp_path / "evaluation.json", verdict=tmp_path / "verdict", panel=tmp_path / "panel")
    assert judged["verdict"] == REJECTED


def registered(stories: Path, folder: Path, drops: str = "", **config: int) -> dict[str, str]:
    """The base model with its own tokenizer as champion, as evaluate is told of one: other tokens, same bytes.

    Args:
        drops: what its normalizer takes out of a text.
    """
    from components.registry import Entry, open_registry

    bare = load_tokenizer(stories)
    bare.chat_template = "{% for m in messages %}{{ m.content + '\n' }}{% endfor %}"
    if drops:
        own = bare.backend_tokenizer.normalizer
        bare.backend_tokenizer.normalizer = Sequence([Replace(drops, ""), *([own] if own else [])])
    bare.save_pretrained(folder / "other")
    model = AutoModelForCausalLM.from_pretrained(stories)
    model.config.update(config)
    model.save_pretrained(folder / "other")
    address = f"sqlite:///{folder}/mlflow.db"
    entry = Entry(key="k", folder=folder / "other", configuration={}, metrics={}, tags={})
    champion, _ = open_registry(address, "m").register(entry)
    return {"champion": champion.reference, "registry": address, "model_name": "m"}


def evaluated(trained: Path, stories: Path, folder: Path, **more: Any) -> dict[str, Any]:
    """What evaluate writes about the models of a run."""
    evaluate(
        records=trained / "records.parquet",
        test=trained / "test.parquet",
        base_model=str(stories),
        base_model_digest="",
        **{"model": trained / "model", **more},
        evaluation=folder / "evaluation.json",
        errors=folder / "errors.json",
    )
    content: dict[str, Any] = read_json(folder / "evaluation.json")
    return content


def test_a_champion_with_another_tokenizer_is_measured_on_the_same_records(
    trained: Path, stories: Path, tmp_path: Path
) -> None:
    result = evaluated(trained, stories, tmp_path, **registered(stories, tmp_path), prompts=2)
    models = result["models"]
    assert models["champion"]["target_tokens"] != models["base"]["target_tokens"]
    ratio = models["champion"]["nll"] / models["base"]["nll"]
    assert models["champion"]["bits_per_byte"] == pytest.approx(models["base"]["bits_per_byte"] * ratio)
    assert result["samples"] == [], "record text is written only when it was asked for"
    assert result["generation"]["prompts"] == 2
    assert set(result["generation"]["models"]) == {"base", "tuned", "champion"}
    assert result["too_long"] == {}


def test_a_document_that_a_champions_tokenizer_drops_is_scored_for_nobody(
    trained: Path, stories: Path, tmp_path: Path
) -> None:
    champion = registered(stories, tmp_path, drops="\u200b")
    text = write_jsonl(tmp_path / "text.jsonl", [{"text": text} for text in ("Once upon", "\u200b", "", "a time")])
    corpora = {"text": {"uri": str(text), "digest": file_digest(text)}}
    found = evaluated(trained, stories, tmp_path, **champion, corpora=corpora, prompts=0)["corpora"]["text"]
    assert (found["documents"], found["empty_documents"]) == (2, 2)
    assert found["models"]["tuned"]["target_tokens"] == found["models"]["champion"]["target_tokens"]


def test_records_that_a_champion_cannot_take_are_left_out_for_everybody(
    trained: Path, stories: Path, tmp_path: Path
) -> None:
    champion = registered(stories, tmp_path, max_position_embeddings=256)
    result = evaluated(trained, stories, tmp_path, **champion, prompts=0)
    tested = list(read_table(trained / "test.parquet"))
    assert 0 < result["records"] < len(tested)
    assert result["too_long"] == {"champion": len(tested) - result["records"]}
    kept = [row for row in tested if row["id"] in {entry["id"] for entry in result["worst"]}]
    assert len(kept) == result["records"] <= 20
    targets = sum(len(row["input_ids"]) - row["loss_start"] for row in kept)
    assert result["models"]["base"]["target_tokens"] == targets


def test_the_run_says_where_the_model_is_worst_and_how_it_answers(trained: Path) -> None:
    result = read_json(trained / "evaluation.json")
    tested = {row["id"]: row for row in read_table(trained / "test.parquet")}
    assert len(result["worst"]) == min(20, len(tested))
    assert {entry["id"] for entry in result["worst"]} <= tested.keys()
    assert not any("response" in entry for entry in result["worst"])
    figures = [entry["perplexity"]["tuned"] for entry in result["worst"]]
    assert figures == sorted(figures, reverse=True)
    for groups in result["groups"].values():
        assert sum(group["records"] for group in groups.values()) == len(tested)
        nll = sum(group["models"]["tuned"]["nll"] for group in groups.values())
        assert nll == pytest.approx(result["models"]["tuned"]["nll"])
    for shown in result["generation"]["models"].values():
        assert 0 <= shown["mean_tokens"] <= result["generation"]["max_new_tokens"]
        assert all(0 <= shown[name] <= 1 for name in ("repetition_rate", "empty_rate", "stop_rate"))
    analysis = read_json(trained / "errors.json")
    for groups in analysis.values():
        assert sum(group["share_of_nll"] for group in groups) == pytest.approx(1)
        assert {worst for group in groups for worst in group["worst"]} <= tested.keys()


def test_a_run_scores_texts_as_the_command_line_does_and_the_gate_judges_them(trained: Path, wikitext: Path) -> None:
    found = read_json(trained / "evaluation.json")["corpora"]["wikitext"]
    assert (found["documents"], found["empty_documents"], found["window"]) == (1, 0, 512)
    by_itself = by_hand(model=trained / "model", data=wikitext)
    in_run = found["models"]["tuned"]
    assert in_run["target_tokens"] == by_itself["target_tokens"]
    assert in_run["nll"] == pytest.approx(by_itself["nll"])
    ratio = found["tuned_over"]["base"]
    assert ratio["bits_per_byte_ratio"] == pytest.approx(in_run["nll"] / found["models"]["base"]["nll"])
    assert ratio["interval"] is None, "one document has no interval"
    rules = {rule["data"]: rule for rule in read_json(trained / "verdict.json")["rules"]}
    assert rules["wikitext"]["change"] == pytest.approx(ratio["bits_per_byte_ratio"] - 1)


def test_by_hand_the_records_of_ingest_are_read_as_a_run_reads_them(
    stories: Path, tokenizer: Any, tmp_path: Path
) -> None:
    """With what was said before, and plain text as plain text."""
    said = [{"role": "user", "content": "Tell me of Max."}, {"role": "assistant", "content": "Max was a big dog."}]
    records = [
        {**make_record("What was his name?", "His name was Max."), "history": json.dumps(said)},
        make_record("", "Once upon a time there was a dog named Max."),
    ]
    for record in records:
        (encoded,) = Renderer(tokenizer).encode([record])
        row = {**vars(encoded), "id": "0", "target_bytes": 1}
        expected = score(load_model(stories, len(tokenizer), torch.float32), [row], batch_size=1)
        found = by_hand(model=stories, data=write_jsonl(tmp_path / "data.jsonl", [record]))
        assert found["nll"] == pytest.approx(float(expected.nll[0]), rel=1e-6)
        assert found["target_tokens"] == expected.tokens[0]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"instruction": "", "context": "x"}, "record 1 has no text in 'instruction'"),
        ({}, "record 1 has no text in 'instruction'"),
        ({"instruction": "x \ud800"}, "record 1 has no text in 'instruction'"),
        ({"instruction": "x", "history": "[1]"}, "record 1: history is not what ingest writes"),
        ({"instruction": "x", "history": [{"role": "user"}]}, "record 1: history is not what ingest writes"),
    ],
)
def test_by_hand_a_bad_record_is_named(stories: Path, tmp_path: Path, row: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        by_hand(model=stories, data=write_jsonl(tmp_path / "data.jsonl", [{"response": "y", **row}]))


@pytest.mark.parametrize("name", ["folder.jsonl", "folder.parquet", "folder.txt"])
def test_by_hand_what_is_no_file_is_refused_in_a_line(stories: Path, tmp_path: Path, name: str) -> None:
    """Such as the folders that Spark writes."""
    (tmp_path / name).mkdir()
    with pytest.raises(DataError, match=rf"^cannot read .*{name}: ") as error:
        by_hand(model=stories, data=tmp_path / name)
    assert "\n" not in str(error.value)


def test_the_worst_groups_and_records_come_first() -> None:
    tokens = np.array([10, 10, 20, 5])
    tuned = Scores(nll=np.array([10.0, 40.0, 20.0, 25.0]), tokens=tokens, bytes=tokens, words=tokens)
    scores = {"base": Scores(nll=tuned.nll + tokens, tokens=tokens, bytes=tokens, words=tokens), "tuned": tuned}
    labels = {"category": ["a", "b", "a", "b"]}
    assert [entry["id"] for entry in worst(scores, "wxyz", labels)] == ["z", "x", "w", "y"]
    groups = errors(scores, "wxyz", labels)["category"]
    assert [(group["group"], group["worst"]) for group in groups] == [("b", ["z", "x"]), ("a", ["w", "y"])]
    assert groups[0]["gain"] == pytest.approx(1)
    assert groups[0]["share_of_nll"] == pytest.approx(65 / 95)


def test_lengths_fall_into_doubling_buckets() -> None:
    lengths = {1: "0001-0063", 63: "0001-0063", 64: "0064-0127", 127: "0064-0127", 128: "0128-0255", 5000: "4096-8191"}
    assert {length: length_bucket(length) for length in lengths} == lengths


def test_a_loss_that_is_not_finite_names_its_records(stories: Path, tokenizer: Any, rows: list[dict[str, Any]]) -> None:
    model = load_model(stories, len(tokenizer), torch.float32)
    broken = max(set(rows[3]["input_ids"]) - {index for row in rows[:3] for index in row["input_ids"]})
    model.set_input_embeddings(deepcopy(model.get_input_embeddings()))  # apart from the output's
    model.get_input_embeddings().weight.data[broken] = float("nan")
    with pytest.raises(PipelineError, match=rf"the loss of 1 of 4 records is not finite: {rows[3]['id']} \(nan\)"):
        score(model, rows[:4], batch_size=1)


def without_a_layer(weights: Path) -> None:
    kept = {name: weight for name, weight in load_file(weights).items() if "layers.2." not in name}
    save_file(kept, weights, metadata={"format": "pt"})


def with_a_short_norm(weights: Path) -> None:
    found = load_file(weights)
    save_file({**found, "model.norm.weight": found["model.norm.weight"][:32].clone()}, weights, {"format": "pt"})


def cut_short(weights: Path) -> None:
    weights.write_bytes(weights.read_bytes()[:100_000])


def not_fetched_from_git_lfs(weights: Path) -> None:
    weights.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:aaaa\nsize 123\n")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (without_a_layer, "lacks 9 of its model's weights, such as model.layers.2.input_layernorm.weight; copy"),
        (with_a_short_norm, "model.norm.weight has the shape (32,), and by config.json (64,)"),
        (cut_short, "are cut short or no safetensors at all"),
        (not_fetched_from_git_lfs, "are cut short or no safetensors at all, such as a Git LFS pointer; copy them"),
    ],
)
def test_a_model_without_all_of_its_weights_is_refused_in_a_line(
    stories: Path, tmp_path: Path, damage: Callable[[Path], None], message: str
) -> None:
    """transformers fills what is missing with random numbers, and a perplexity would be of those."""
    folder = shutil.copytree(stories, tmp_path / "model")
    damage(folder / "model.safetensors")
    with pytest.raises(ModelError, match=rf"^base_model: .*{re.escape(message)}") as error:
        load_model(folder, 0, torch.float32)
    assert "\n" not in str(error.value)


def test_rates_tell_silence_repetition_and_stopping() -> None:
    given = [
        Answer(tokens=[], text="", stopped=True),
        Answer(tokens=[1, 2, 3, 4] * 5, text="x", stopped=False),
        Answer(tokens=[1, 2, 3], text="y", stopped=True),
        Answer(tokens=list(range(17)), text="z", stopped=True),
    ]
    assert given[1].repetition == pytest.approx(1 - 4 / 17)
    assert rates(given) == {
        "mean_tokens": 10,
        "repetition_rate": pytest.approx((1 - 4 / 17) / 4),
        "empty_rate": 0.25,
        "stop_rate": 0.75,
    }


def test_answers_in_batches_are_the_answers_alone(trained: Path) -> None:
    tokenizer = load_tokenizer(trained / "model")
    renderer = Renderer(tokenizer)
    asked = [make_record(f"{'Why? ' * n}Name an animal.", "x") for n in range(4)]
    prompts = [renderer.prompt_ids(record) for record in asked]
    model = load_model(trained / "model", len(tokenizer), torch.float32)
    together = answer(model, tokenizer, prompts, renderer.stop_id)
    assert together == [answer(model, tokenizer, [prompt], renderer.stop_id)[0] for prompt in prompts]


def test_what_a_base_models_generation_config_asks_for_changes_no_answer(stories: Path, tokenizer: Any) -> None:
    model = load_model(stories, len(tokenizer), torch.float32)
    renderer = Renderer(tokenizer)
    prompts = [renderer.prompt_ids(make_record("Tell me of a dog.", "x"))]
    expected = answer(model, tokenizer, prompts, renderer.stop_id)
    own = GenerationConfig(repetition_penalty=1.3, no_repeat_ngram_size=2, max_length=20, min_new_tokens=96)
    model.generation_config = own
    assert answer(model, tokenizer, prompts, renderer.stop_id) == expected
    assert model.generation_config is own, "tasks are generated for as the model asks"
