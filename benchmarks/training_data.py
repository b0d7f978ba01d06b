"""What the training benchmark trains: models by their shape or bundled, and rows, on disk for all sides."""

import json
import random
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared" / "data"
SEED = 42
VOCABULARY = 50304  # Pythia's, with room for Dolly's control tokens
# hidden size, layers, heads, feed-forward size; random weights
PYTHIA = {
    "pythia-14m": (128, 6, 4, 512),
    "pythia-1b": (2048, 16, 8, 8192),
    "pythia-2.8b": (2560, 32, 32, 10240),
    "pythia-tiny": (32, 2, 2, 64),  # to try the benchmark itself
}
SMOLLM2 = "smollm2-135m"  # SmolLM2-135M-Instruct, as the demo takes it
MODELS = (*PYTHIA, SMOLLM2)
LEARNING_RATE = {"pythia-14m": 1e-3, "pythia-tiny": 1e-3}
DEFAULT_RATE = 2e-5


def prepare(folder: Path, model: str, rows: str, count: int, max_length: int, device: str) -> dict[str, Any]:
    """Writes model, tokenizer, train and test rows; gives the settings that all sides share.

    Args:
        model: one of MODELS.
        rows: dolly, for dolly-15k's first records after a seeded shuffle; full, for rows of max_length random tokens.
        count: how many.
    """
    base = smollm2() if model == SMOLLM2 else pythia(folder, *PYTHIA[model])
    if rows == "dolly":
        dolly_rows(folder, base, "base" if model == SMOLLM2 else "dolly", count, max_length)
    else:
        full_rows(folder, base, count, max_length)
    settings = {
        "base": str(base),
        "learning_rate": LEARNING_RATE.get(model, DEFAULT_RATE),
        "precision": precision(model, device),
        "device": device,
        "max_length": max_length,
        "gradient_checkpointing": model == "pythia-2.8b",  # else its activations and optimizer do not fit in 80 GB
    }
    (folder / "settings.json").write_text(json.dumps(settings), encoding="utf-8")
    return settings


def pythia(folder: Path, hidden: int, layers: int, heads: int, intermediate: int) -> Path:
    """GPT-NeoX of a Pythia's shape."""
    import torch
    from transformers import AutoTokenizer, GPTNeoXConfig, GPTNeoXForCausalLM

    torch.manual_seed(SEED)
    config = GPTNeoXConfig(
        vocab_size=VOCABULARY,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=intermediate,
    )
    GPTNeoXForCausalLM(config).save_pretrained(folder / "base")
    AutoTokenizer.from_pretrained(SHARED / "tokenizers/gpt-neox").save_pretrained(folder / "base")
    return folder / "base"


def smollm2() -> Path:
    """The bundled model."""
    from pipeline.bundled_model import prepare as bundled

    return bundled()


def precision(model: str, device: str) -> str:
    """bf16 on a GPU, and for SmolLM2 on a processor that has instructions for it; else all sides take float32."""
    import torch

    native = device == "cuda" or (model == SMOLLM2 and torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return "bf16" if native else "fp32"


def dolly_rows(folder: Path, base: Path, template: str, count: int, max_length: int) -> None:
    """By the pipeline's own steps."""
    from components.ingest.ingest import ingest
    from components.split.split import split
    from components.tokenize.tokenize import tokenize

    lines = (SHARED / "instruct/databricks-dolly-15k.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    random.Random(SEED).shuffle(lines)  # noqa: S311  # which records, not a secret
    (folder / "data.jsonl").write_text("".join(lines[:count]), encoding="utf-8")
    records, tokens = folder / "records", folder / "tokens"
    ingest(
        dataset=str(folder / "data.jsonl"),
        records=records,
        rejects=folder / "rejects",
        metrics=folder / "i.json",
        pii="off",
        near_duplicates=0,
    )
    tokenize(
        records=records,
        base_model=str(base),
        base_model_digest="",
        template=template,
        max_length=max_length,
        tokens=tokens,
        tokenizer=folder / "tokenizer",
        metrics=folder / "t.json",
    )
    split(records=records, tokens=tokens, train=folder / "train", test=folder / "test", metrics=folder / "s.json")


def full_rows(folder: Path, base: Path, count: int, max_length: int) -> None:
    """Rows without a prompt, all of one length, so that padding and packing make no difference."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}"  # a model is saved with one
    )
    tokenizer.save_pretrained(folder / "tokenizer")
    ids = np.random.default_rng(SEED).integers(0, 50000, (count, max_length), dtype=np.int32)
    table = pa.table(
        {
            "id": [str(number) for number in range(count)],
            "input_ids": pa.array(list(ids), pa.list_(pa.int32())),
            "loss_start": pa.array([0] * count, pa.int32()),
        }
    )
    pq.write_table(table, folder / "train")
    pq.write_table(table.slice(0, 4), folder / "test")
