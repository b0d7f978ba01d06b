"""Renders and encodes every record once; decides its labels and whether it fits."""

from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from components import progress
from components.errors import DataError, ParameterError
from components.models import TOKENIZER_FILES, max_positions
from components.records import TOKENS, Removal, count_rows, read_table, split_key, write_json, write_table
from components.rendering import TEMPLATES, Renderer, apply_template, load_tokenizer
from components.sources import Pinned, fetch

# Dolly's last resort, and a cap: a model built for 128k positions must not mean batches of 128k tokens.
FALLBACK_LENGTH, LONGEST_DEFAULT = 1024, 2048
BATCH = 512
HISTOGRAM_BINS = 40


def tokenize(
    *,
    records: Path,
    base_model: str,
    base_model_digest: str,
    template: str = "dolly",
    max_length: int = 0,
    tokens: Path,
    tokenizer: Path,
    metrics: Path,
) -> dict[str, float]:
    """Encodes records with the base model's tokenizer and drops those that do not fit, counted by category.

    Args:
        records: The records that ingest wrote.
        base_model: Local folder, fsspec URI or pinned hub id of the base model.
        base_model_digest: What resolve found for it.
        template: How a record is put to the model: dolly, or base for the base model's own chat template.
        max_length: Records of this many tokens or more are dropped; 0: what the model was built for, at most 2048.
        tokens: Where to write the token rows (Parquet).
        tokenizer: Where to write the tokenizer with its chat template (folder).
        metrics: Where to write the counts and the length histogram (JSON).

    Returns:
        The counts that a run is judged by: records, tokens, too_long, neutralised.

    Raises:
        ModelError: no usable tokenizer or template.
        DataError: no record fits.
    """
    if template not in TEMPLATES:
        raise ParameterError(f"template={template!r} is unknown; allowed: {', '.join(TEMPLATES)}")
    folder = fetch(Pinned(uri=base_model, digest=base_model_digest), "model", TOKENIZER_FILES)
    fast = load_tokenizer(folder)
    apply_template(fast, template)
    limit = max_length or default_length(folder)
    encoder = _Encoder(Renderer(fast), limit)
    kept = write_table(tokens, TOKENS, encoder.rows(records))
    fast.save_pretrained(str(tokenizer))
    too_long = encoder.too_long.total()
    write_json(
        metrics,
        {
            "records": kept,
            "removed": {str(Removal.TOO_LONG): too_long} if too_long else {},
            "too_long_by_category": dict(sorted(encoder.too_long.items())),
            "neutralised": encoder.neutralised,
            "max_length": limit,
            "template": template,
            "tokens": encoder.tokens,
            "target_tokens": encoder.targets,
            "lengths": histogram(encoder.lengths, limit),
        },
    )
    if kept == 0:
        raise DataError(
            f"dataset: none of {too_long} records is shorter than max_length={limit} tokens; raise it or shorten them"
        )
    print(
        f"tokenize: {kept} records, {encoder.tokens} tokens ({encoder.targets} targets), "
        f"{too_long} of {limit} tokens or more dropped"
    )
    return {"records": kept, "tokens": encoder.tokens, "too_long": too_long, "neutralised": encoder.neutralised}


def default_length(folder: Path) -> int:
    """The length that the model in a folder was built for, by Dolly's rule, capped."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(str(folder), local_files_only=True)
    return min(max_positions(config) or FALLBACK_LENGTH, LONGEST_DEFAULT)


def histogram(lengths: Counter[int], limit: int) -> dict[str, Any]:
    """Record counts by length in tokens, in bins of one width up to twice the limit; longer ones stand in `beyond`."""
    top = min(max(lengths, default=1), 2 * limit)
    width = -(-(top + 1) // HISTOGRAM_BINS)
    counts = [0] * -(-(top + 1) // width)
    beyond = 0
    for length, count in lengths.items():
        if length > top:
            beyond += count
        else:
            counts[length // width] += count
    return {"width": width, "counts": counts, "beyond": beyond}


class _Encoder:
    def __init__(self, renderer: Renderer, limit: int) -> None:
        self.renderer = renderer
        self.limit = limit
        self.too_long: Counter[str] = Counter()
        self.lengths: Counter[int] = Counter()
        self.neutralised = self.tokens = self.targets = 0

    def rows(self, records: Path) -> Iterator[dict[str, Any]]:
        """Token rows of the records that fit, in their order."""
        source = progress.track(read_table(records), "tokenize", count_rows(records), "records")
        while batch := list(islice(source, BATCH)):
            for record, encoded in zip(batch, self.renderer.encode(batch), strict=True):
                length = len(encoded.input_ids)
                self.lengths[length] += 1
                if length >= self.limit:  # Dolly's rule: none may lack its stop token
                    self.too_long[record["category"]] += 1
                    continue
                self.neutralised += encoded.neutralised
                self.tokens += length
                self.targets += length - max(1, encoded.loss_start)  # nothing predicts a first token
                yield {
                    "id": record["id"],
                    "key": split_key(*(record[name] for name in ("instruction", "context", "response", "history"))),
                    "category": record["category"],
                    "input_ids": encoded.input_ids,
                    "loss_start": encoded.loss_start,
                    "target_bytes": len(record["response"].encode("utf-8")),
                }
