"""Renders and encodes every record once; decides its labels and whether it fits."""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

from components import progress
from components.errors import ParameterError
from components.models import TOKENIZER_FILES, load_config, max_positions
from components.records import TOKENS, count_rows, read_table, split_key, write_json, write_table
from components.rendering import Encoded, Renderer, load_tokenizer
from components.sources import Pinned, fetch
from components.templates import apply_template, check_template
from components.token_counts import Rules, TokenCounts

TOO_LONG = ("drop", "truncate_context", "error")
# Dolly's last resort, and a cap: a model built for 128k positions must not mean batches of 128k tokens.
FALLBACK_LENGTH, LONGEST_DEFAULT = 1024, 2048
# Records and characters that are encoded at a time, and how many such batches stand in line.
BATCH, BATCH_CHARACTERS, AHEAD = 512, 2**21, 2
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
    trust_remote_code: bool = False,
    shard: int = 0,
    shards: int = 1,
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
        trust_remote_code: Whether to run Python code that the base model's folder brings.
        shard: Which part of the records this is, from 0, when join puts several together.
        shards: The number of parts.
        tokens: Where to write the token rows (Parquet).
        tokenizer: Where to write the tokenizer with its chat template (folder).
        metrics: Where to write the counts and the length histogram (JSON).

    Returns:
        The counts that a run is judged by: records, tokens, too_long, truncated, neutralised.

    Raises:
        ParameterError: an unknown template, too_long or shard, or a negative max_length.
        ModelError: no usable tokenizer or template.
        DataError: no record fits; or one does not, and too_long is error.
    """
    check_template(template)
    if too_long not in TOO_LONG:
        raise ParameterError(f"too_long={too_long!r} is unknown; allowed: {', '.join(TOO_LONG)}")
    if max_length < 0:
        raise ParameterError(f"max_length={max_length} must be at least 1, or 0 for what the model was built for")
    if not 0 <= shard < shards:
        raise ParameterError(f"shard={shard} is not one of {shards} shards, counted from 0")
    folder = fetch(Pinned(uri=base_model, digest=base_model_digest), "model", TOKENIZER_FILES)
    fast = load_tokenizer(folder, trust_remote_code)
    apply_template(fast, template, template_digest)
    rules = Rules(template=template, limit=max_length or default_length(folder, trust_remote_code), too_long=too_long)
    encoder = _Encoder(Renderer(fast), rules)
    write_table(tokens, TOKENS, encoder.rows(records, shard, shards))
    fast.save_pretrained(str(tokenizer))
    counts = encoder.counts
    if shards > 1:
        write_json(metrics, {"shard": shard, "shards": shards, "rules": asdict(rules), "counts": counts.to_json()})
    else:
        write_json(metrics, counts.report(rules))
        counts.check(rules)
    print(f"tokenize: {counts.line(rules)}")
    return counts.summary()


def default_length(folder: Path, trust_remote_code: bool = False) -> int:
    """The length that the model in a folder was built for, by Dolly's rule, capped."""
    config = load_config(folder, trust_remote_code)
    return min(max_positions(config) or FALLBACK_LENGTH, LONGEST_DEFAULT)


class _Encoder:
    def __init__(self, renderer: Renderer, rules: Rules) -> None:
        self.renderer = renderer
        self.rules = rules
        self.counts = TokenCounts()

    def rows(self, records: Path, shard: int, shards: int) -> Iterator[dict[str, Any]]:
        """Token rows of a shard's records that fit, in their order."""
        total = count_rows(records)
        start, end = (total * border // shards for border in (shard, shard + 1))
        with progress.bar("tokenize", end - start, "records") as bar:
            for batch, encoded in self._encoded(_batches(records, start, end)):
                for record, whole in zip(batch, encoded, strict=True):
                    self.counts.lengths[len(whole.input_ids)] += 1
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
        if len(encoded.input_ids) >= self.rules.limit and self.rules.too_long == "truncate_context":
            context, encoded = self._shortened(record, encoded)
        length = len(encoded.input_ids)
        if length >= self.rules.limit:  # Dolly's rule: none may lack its stop token
            self.counts.dropped[record["category"]] += 1
            return None
        if context != record["context"]:
            self.counts.truncated[record["category"]] += 1
        self.counts.records += 1
        self.counts.neutralised += encoded.neutralised
        self.counts.tokens += length
        self.counts.targets += length - max(1, encoded.loss_start)  # nothing predicts a first token
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
        while context and (excess := len(encoded.input_ids) - self.rules.limit + 1) > 0:
            context = self.renderer.shorten(context, excess)
            encoded = self.renderer.encode([{**record, "context": context}])[0]
        return context, encoded


def _batches(records: Path, start: int, end: int) -> Iterator[list[dict[str, Any]]]:
    """Records from start to end in their order, as many at a time as are encoded together."""
    batch: list[dict[str, Any]] = []
    characters = 0
    for record in islice(read_table(records, ["id", *TEXTS, "category"]), start, end):
        batch.append(record)
        characters += sum(len(record[name]) for name in TEXTS)
        if len(batch) == BATCH or characters > BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch
