"""python -m components.evaluate --model DIR --data FILE: one model on one file, answered with one JSON object."""

import json
import sys
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from components.corpora import is_text
from components.errors import DataError, ModelError, ParameterError
from components.evaluate.subjects import check_precision, check_vocabulary, load, positions
from components.records import messages
from components.rendering import Renderer, load_tokenizer
from components.templates import TEMPLATES, apply_template

FIELDS = ("instruction", "context", "response")


def evaluate(
    *,
    model: Path,
    data: Path,
    stride: int = 0,
    window: int = 0,
    template: str = "",
    precision: str = "fp32",
    batch_size: int = 8,
    trust_remote_code: bool = False,
) -> dict[str, Any]:
    """Measures one model on one file and prints one JSON object; under torchrun the ranks share the work.

    Args:
        model: The model's folder, with its tokenizer.
        data: Instruction records or ingest's (jsonl, parquet), or a text (txt; jsonl or parquet with the field text).
        stride: For a text, tokens from one window's begin to the next one's; 0: windows that do not overlap.
        window: For a text, tokens that the model takes at a time; 0: what it was built for.
        template: For records, dolly or base (the model's own); empty: its own if it has one, else dolly.
        precision: fp32 (exact) or bf16 (half the memory).
        batch_size: Records a forward pass takes; it does not change the result.
        trust_remote_code: Whether to run Python code that the model's folder brings.
    """
    check_precision(precision)
    if template not in ("", *TEMPLATES):
        raise ParameterError(f"template={template!r} is unknown; allowed: {', '.join(TEMPLATES)}")
    if batch_size < 1:
        raise ParameterError(f"batch_size={batch_size} must be at least 1")
    if not (model / "config.json").is_file():
        raise ModelError(f"model: {model} is not a model folder: it has no config.json")
    from components.ranks import met, rank

    with redirect_stdout(sys.stderr), met():  # progress is no part of the answer
        run = _records if _holds_records(data) else _text
        result = run(model, data, stride, window, template, precision, batch_size, trust_remote_code)
        first = rank() == 0
    if first:
        print(json.dumps(result, allow_nan=False))
    return result


def _text(
    folder: Path, data: Path, stride: int, window: int, template: str, precision: str, batch_size: int, trust: bool
) -> dict[str, Any]:
    from components.evaluate.corpora import encode, score_corpus

    if template:
        raise ParameterError("template is for instruction records, and the data is a text")
    limit = positions(folder, trust_remote_code=trust)
    if not 0 <= window <= limit:
        raise ParameterError(f"window={window} is not allowed; it must be from 1 to {limit}, or 0 for {limit}")
    tokenizer = load_tokenizer(folder, trust)
    check_vocabulary(folder, tokenizer, trust)
    corpus = encode(tokenizer, data, window=window or limit, stride=stride)
    model = load(folder, 0, precision, trust)
    scores = score_corpus(model, corpus, batch_size=batch_size, description="evaluate")
    return {
        **scores.figures(),
        "documents": len(corpus.ids),
        "empty_documents": corpus.empty,
        "window": window or limit,
        "stride": stride,
        "precision": precision,
    }


def _records(
    folder: Path, data: Path, stride: int, window: int, template: str, precision: str, batch_size: int, trust: bool
) -> dict[str, Any]:
    from components.perplexity import count_words, score

    if stride or window:
        raise ParameterError("stride and window are for a text, and the data are instruction records")
    tokenizer = load_tokenizer(folder, trust)
    check_vocabulary(folder, tokenizer, trust)
    apply_template(tokenizer, template or ("base" if tokenizer.chat_template else "dolly"))
    records = list(_read_records(data))
    limit = positions(folder, trust_remote_code=trust)
    rows: list[dict[str, Any]] = [
        {
            "id": f"record {number}",
            "input_ids": encoded.input_ids,
            "loss_start": encoded.loss_start,
            "target_bytes": len(record["response"].encode()),
            "target_words": count_words(record["response"]),
        }
        for number, (record, encoded) in enumerate(
            zip(records, Renderer(tokenizer).encode(records), strict=True), start=1
        )
    ]
    fitting = [row for row in rows if len(row["input_ids"]) <= limit]
    if not fitting:
        raise DataError(f"{data}: no record fits into the {limit} tokens that the model takes")
    scores = score(load(folder, len(tokenizer), precision, trust), fitting, batch_size=batch_size)
    return {
        **scores.figures(),
        "records": len(fitting),
        "too_long": len(rows) - len(fitting),
        "precision": precision,
    }


def _holds_records(data: Path) -> bool:
    """Whether a file's first row is an instruction record, and not a text."""
    if data.suffix.lower() not in (".jsonl", ".parquet"):
        return False
    return "response" in next(_rows(data), {})


def _rows(data: Path) -> Iterator[Any]:
    import pyarrow as pa

    from components.records import read_table

    number = 0
    try:
        if data.suffix.lower() == ".parquet":
            yield from read_table(data)
            return
        with data.open("rb") as file:
            for line in file:
                number += 1
                if line.strip():
                    row = json.loads(line.decode("utf-8-sig"))
                    yield row if isinstance(row, dict) else {}
    except pa.ArrowException as error:
        raise DataError(f"{data} is not a readable Parquet file: {str(error).splitlines()[0]}") from None
    except OSError as error:  # pyarrow's too, of a folder or of damaged pages
        raise DataError(f"cannot read {data}: {error.strerror or str(error).splitlines()[0]}") from None
    except (ValueError, RecursionError):
        raise DataError(f"{data} line {number} is not JSON in UTF-8") from None


def _read_records(data: Path) -> Iterator[dict[str, str]]:
    """Records, with what was said before them; those without an instruction are plain text, as ingest writes it."""
    for number, row in enumerate(_rows(data), start=1):
        record = {field: row.get(field) or "" for field in FIELDS}
        plain = row.get("instruction") == "" == record["context"]
        for field, value in record.items():
            empty = field == "context" or (field == "instruction" and plain)
            if not is_text(value) or not (value.strip() or empty):
                raise DataError(f"{data} record {number} has no text in {field!r}")
        history = row.get("history") or ""
        if history and not _is_history(history):
            raise DataError(
                f"{data} record {number}: history is not what ingest writes: a string with a JSON list of messages, "
                "each with role and content"
            )
        yield {**{field: value.strip() for field, value in record.items()}, "history": history}


def _is_history(history: Any) -> bool:
    try:
        return all(is_text(message["role"]) and is_text(message["content"]) for message in messages(history))
    except (ValueError, TypeError, KeyError, RecursionError):
        return False
