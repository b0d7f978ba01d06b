"""Scores base, tuned and champion on the same test records."""

from pathlib import Path
from typing import Any

import numpy as np

from components.errors import ParameterError
from components.models import MODEL_FILES
from components.records import read_table, write_json
from components.registry import open_registry
from components.rendering import Renderer, load_tokenizer
from components.sources import Pinned, fetch

PRECISIONS = ("fp32", "bf16")
SAMPLES = 3  # test questions answered by each model, when samples are wanted at all


def evaluate(
    *,
    records: Path,
    test: Path,
    model: Path,
    base_model: str,
    base_model_digest: str,
    champion: str = "",
    registry: str = "",
    model_name: str = "",
    precision: str = "fp32",
    batch_size: int = 8,
    include_samples: bool = False,
    evaluation: Path,
) -> dict[str, float]:
    """Measures perplexity and bits per byte of base, tuned and champion on the same test records.

    Base and tuned see the same tokens. A champion with another tokenizer sees the same records through its own; it
    is compared by bits per byte.

    Args:
        records: The records that ingest wrote.
        test: The test rows that split wrote.
        model: The tuned model's folder.
        base_model: Local folder, fsspec URI or pinned hub id of the base model.
        base_model_digest: What resolve found for it.
        champion: The registered version to compare with, as resolve refers to it; empty: none.
        registry: The champion's registry.
        model_name: The champion's registered name.
        precision: fp32 (exact) or bf16 (half the memory).
        batch_size: Records a forward pass takes.
        include_samples: Whether to write three test questions with the models' answers; these are record text.
        evaluation: Where to write the figures (JSON).

    Returns:
        The figures that a run is judged by: <model>_perplexity and <model>_bits_per_byte.

    Raises:
        ModelError: a model cannot be loaded.
        PipelineError: a loss is not finite.
    """
    if precision not in PRECISIONS:
        raise ParameterError(f"precision={precision!r} is unknown; allowed: {', '.join(PRECISIONS)}")
    folders = {"base": fetch(Pinned(uri=base_model, digest=base_model_digest), "model", MODEL_FILES), "tuned": model}
    if champion:
        store = open_registry(registry, model_name)
        folders["champion"] = store.download(store.version(champion))
    rows = list(read_table(test))
    cuts = {row["id"]: row["context_length"] for row in rows}
    texts = {
        record["id"]: {**record, "context": record["context"][: cuts[record["id"]]]}
        for record in read_table(records)
        if record["id"] in cuts
    }
    asked = [row for row in rows if texts[row["id"]]["instruction"]]  # plain text asks nothing
    questions = [texts[row["id"]] for row in _sampled(asked)] if include_samples else []
    scores, answers = {}, {}
    for name, folder in folders.items():
        # the base model meets the tuned one's template and tokens; a champion brings its own
        tokenizer = load_tokenizer(folder if name == "champion" else model)
        seen = rows if name != "champion" else _encoded_by(tokenizer, rows, texts)
        scores[name], answers[name] = _measure(name, folder, tokenizer, seen, questions, precision, batch_size)
    result = _figures(scores, [row["category"] for row in rows])
    result["samples"] = [
        {
            "question": _question(record),
            "reference": record["response"],
            **{name: answers[name][index] for name in folders},
        }
        for index, record in enumerate(questions)
    ]
    result["precision"] = precision
    write_json(evaluation, result)
    for name in folders:
        figures = result["models"][name]
        print(f"evaluate: {name} perplexity {figures['perplexity']:.3f}, {figures['bits_per_byte']:.4f} bits per byte")
    return {
        f"{name}_{figure}": result["models"][name][figure]
        for name in folders
        for figure in ("perplexity", "bits_per_byte")
    }


def _measure(
    name: str,
    folder: Path,
    tokenizer: Any,
    rows: list[dict[str, Any]],
    questions: list[dict[str, Any]],
    precision: str,
    batch_size: int,
) -> tuple[Any, list[str]]:
    """One model's scores, and its answers to the questions; the model is gone when this returns."""
    import torch
    import transformers

    from components.evaluate.perplexity import score
    from components.evaluate.samples import answer
    from components.models import load_model

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    model = load_model(folder, len(tokenizer), torch.float32 if precision == "fp32" else torch.bfloat16)
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    scores = score(model, rows, batch_size=batch_size, description=f"evaluate {name}")
    if not questions:
        return scores, []
    renderer = Renderer(tokenizer)
    prompts = [renderer.prompt_ids(record) for record in questions]
    return scores, answer(model, tokenizer, prompts, renderer.stop_id)


def _figures(scores: dict[str, Any], categories: list[str]) -> dict[str, Any]:
    from components.evaluate.perplexity import bootstrap, interval

    draws = dict(zip(scores, bootstrap(list(scores.values())), strict=True))
    groups = {category: np.array([other == category for other in categories]) for category in sorted(set(categories))}
    models = {
        name: {
            "perplexity": scored.perplexity,
            "perplexity_interval": interval(draws[name]),
            "bits_per_byte": scored.bits_per_byte,
            "target_tokens": int(scored.tokens.sum()),
            "nll": float(scored.nll.sum()),
            "categories": {category: scored.select(chosen).perplexity for category, chosen in groups.items()},
        }
        for name, scored in scores.items()
    }
    paired = {name: interval(draws["tuned"] - draws[name]) for name in scores if name != "tuned"}
    return {
        "models": models,
        "tuned_minus": paired,
        "records": len(categories),
        "records_by_category": {c: int(g.sum()) for c, g in groups.items()},
    }


def _sampled(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same few test records whenever the test set is the same: short answers first, so that they can be read."""
    return sorted(rows, key=lambda row: (row["category"] != "open_qa", row["id"]))[:SAMPLES]


def _question(record: dict[str, Any]) -> str:
    return f"{record['instruction']}\n\n{record['context']}".strip()


def _encoded_by(tokenizer: Any, rows: list[dict[str, Any]], texts: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """The same test records as tokens of another tokenizer and template."""
    encoded = Renderer(tokenizer).encode([texts[row["id"]] for row in rows])
    return [
        {**row, "input_ids": new.input_ids, "loss_start": new.loss_start}
        for row, new in zip(rows, encoded, strict=True)
    ]
