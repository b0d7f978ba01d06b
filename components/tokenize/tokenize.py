"""Renders and encodes every record once; decides its labels and whether it fits."""

from collections import Counter, deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from components import progress
from components.errors import DataError, ParameterError
from components.models import TOKENIZER_FILES, max_positions
from components.records import TOKENS, Removal, count_rows, read_table, split_key, write_json, write_table
from components.rendering import Encoded, Renderer, load_tokenizer
from components.sources import Pinned, fetch
from components.templates import apply_template, check_template

TOO_LONG = ("drop", "truncate_context", "error")
# Dolly's last resort, and a cap: a model built for 128k positions must not mean batches of 128k tokens.
FALLBACK_LENGTH, LONGEST_DEFAULT = 1024, 2048
# Records and characters that are encoded at a time, and how many such batches stand in line.
BATCH, BATCH_CHARACTERS, AHEAD = 512, 2**21, 2
HISTOGRAM_BINS = 40
TEXTS = ("instruction", "context", "response", "history")


def tokenize(
    *,
    records: Path,
    base_model: str,
    base_model_digest: str,
    template: str = "dolly",
    template_digest: str = "",
    max_length: int = 0,
    too_long: str = "drop",
    tokens: Path,
    tokenizer: Path,
    metrics: Path,
) -> dict[str, float]:
    """Encodes records with the base model's tokenizer; what does not fit is dropped or cut, counted by category.

    Args:
        records: The records that ingest wrote.
        base_model: Local folder, fsspec URI or pinned hub id of the base model.
        base_model_digest: What resolve found for it.
        template: How a record is put to the model: dolly, base for the base model's own chat template, or a Jinja file.
        template_digest: What resolve found for the file; its bytes must still be these. Empty: not checked.
        max_length: A record fits with fewer tokens; 0: what the model was built for, at most 2048.
        too_long: Of a record that does not fit: drop it, truncate_context (drop it if that is not enough), or error.
        tokens: Where to write the token rows (Parquet).
        tokenizer: Where to write the tokenizer with its chat template (folder).
        metrics: Where to write the counts and the length histogram (JSON).

    Returns:
        The counts that a run is judged by: records, tokens, too_long, truncated, neutralised.

    Raises:
        ParameterError: an unknown template or too_long.
        ModelError: no usable tokenizer or template.
        DataError: no record fits; or one does not, and too_long is error.
    """
    check_template(template)
    if too_long not in TOO_LONG:
        raise ParameterError(f"too_long={too_long!r} is unknown; allowed: {', '.join(TOO_LONG)}")
    folder = fetch(Pinned(uri=base_model, digest=base_model_digest), "model", TOKENIZER_FILES)
    fast = load_tokenizer(folder)
    apply_template(fast, template, template_digest)
    limit = max_length or default_length(folder)
    encoder = _Encoder(Renderer(fast), limit, cut=too_long == "truncate_context")
    kept = write_table(tokens, TOKENS, encoder.rows(records))
    fast.save_pretrained(str(tokenizer))
    dropped, truncated = encoder.too_long.total(), encoder.truncated.total()
    write_json(
        metrics,
        {
            "records": kept,
            "removed": {str(Removal.TOO_LONG): dropped} if dropped else {},
            "too_long_by_category": dict(sorted(encoder.too_long.items())),
            "truncated_by_category": dict(sorted(encoder.truncated.items())),
            "neutralised": encoder.neutralised,
            "max_length": limit,
            "template": template,
            "tokens": encoder.tokens,
            "target_tokens": encoder.targets,
            "lengths": histogram(encoder.lengths, limit),
        },
    )
    _check(kept, encoder.too_long, limit, refuse=too_long == "error")
    print(
        f"tokenize: {kept} records, {encoder.tokens} tokens ({encoder.targets} targets), "
        f"{dropped} of {limit} tokens or more dropped, the context of {truncated} cut"
    )
    return {
        "records": kept,
        "tokens": encoder.tokens,
        "too_long": dropped,
        "truncated": truncated,
        "neutralised": encoder.neutralised,
    }


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


def _check(kept: int, dropped: Counter[str], limit: int, *, refuse: bool) -> None:
    if refuse and dropped:
        categories = ", ".join(f"{category} {count}" for category, count in dropped.most_common())
        raise DataError(
            f"dataset: {dropped.total()} of {kept + dropped.total()} records have max_length={limit} tokens or more "
            f"({categories}); raise it, shorten them, or set too_long to drop or truncate_context"
        )
    if kept == 0:
        raise DataError(
            f"dataset: none of {dropped.total()} records is shorter than max_length={limit} tokens; "
            "raise it or shorten them"
        )


class _Encoder:
    def __init__(self, renderer: Renderer, limit: int, *, cut: bool) -> None:
        self.renderer = renderer
        self.limit = limit
        self.cut = cut
        self.too_long: Counter[str] = Counter()
        self.truncated: Counter[str] = Counter()
        self.lengths: Counter[int] = Counter()
        self.neutralised = self.tokens = self.targets = 0

    def rows(self, records: Path) -> Iterator[dict[str, Any]]:
        """Token rows of the records that fit, in their order."""
        with progress.bar("tokenize", count_rows(records), "records") as bar:
            for batch, encoded in self._encoded(_batches(records)):
                for record, whole in zip(batch, encoded, strict=True):
                    self.lengths[len(whole.input_ids)] += 1
                    if row := self._row(record, whole):
                        yield row
                bar.update(len(batch))

    def _encoded(self, batches: Iterator[list[dict[str, Any]]]) -> Iterator[tuple[list[dict[str, Any]], list[Encoded]]]:
        """Batches with their tokens; the next ones are encoded meanwhile, outside Python's lock."""
        pending: deque[tuple[list[dict[str, Any]], Future[list[Encoded]]]] = deque()
        with ThreadPoolExecutor(AHEAD) as pool:
            for batch in batches:
                pending.append((batch, pool.submit(self.renderer.encode, batch)))
                if len(pending) > AHEAD:
                    ready, future = pending.popleft()
                    yield ready, future.result()
            for ready, future in pending:
                yield ready, future.result()

    def _row(self, record: dict[str, Any], encoded: Encoded) -> dict[str, Any] | None:
        """A token row, counted; None when the record does not fit."""
        context = record["context"]
        if len(encoded.input_ids) >= self.limit and self.cut:
            context, encoded = self._shortened(record, encoded)
        length = len(encoded.input_ids)
        if length >= self.limit:  # Dolly's rule: none may lack its stop token
            self.too_long[record["category"]] += 1
            return None
        if context != record["context"]:
            self.truncated[record["category"]] += 1
        self.neutralised += encoded.neutralised
        self.tokens += length
        self.targets += length - max(1, encoded.loss_start)  # nothing predicts a first token
        return {
            "id": record["id"],
            "key": split_key(*(record[name] for name in TEXTS)),
            "category": record["category"],
            "input_ids": encoded.input_ids,
            "loss_start": encoded.loss_start,
            "target_bytes": len(record["response"].encode("utf-8")),
            "context_length": len(context),
        }

    def _shortened(self, record: dict[str, Any], encoded: Encoded) -> tuple[str, Encoded]:
        """The record's context cut from its end until the record fits, or to nothing, and the tokens then."""
        context = record["context"]
        while context and (excess := len(encoded.input_ids) - self.limit + 1) > 0:
            context = self.renderer.shorten(context, excess)
            encoded = self.renderer.encode([{**record, "context": context}])[0]
        return context, encoded


def _batches(records: Path) -> Iterator[list[dict[str, Any]]]:
    """Records in their order, as many at a time as are encoded together."""
    batch: list[dict[str, Any]] = []
    characters = 0
    for record in read_table(records, ["id", *TEXTS, "category"]):
        batch.append(record)
        characters += sum(len(record[name]) for name in TEXTS)
        if len(batch) == BATCH or characters > BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch
