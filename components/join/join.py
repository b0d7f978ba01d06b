"""Puts together what tokenize made of each shard: the same bytes as from one pod."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from components.errors import PipelineError
from components.records import TOKENS, path_digest, read_batches, read_json, write_batches, write_json
from components.token_counts import Rules, TokenCounts


def join(
    *,
    token_shards: Sequence[Path],
    tokenizer_shards: Sequence[Path],
    metric_shards: Sequence[Path],
    tokens: Path,
    tokenizer: Path,
    metrics: Path,
) -> dict[str, float]:
    """Writes the tokens, the tokenizer and the counts of all shards, in the shards' order.

    Args:
        token_shards: The token rows of each shard.
        tokenizer_shards: The tokenizer that each shard saved; they are the same.
        metric_shards: The counts of each shard.
        tokens: Where to write all token rows (Parquet).
        tokenizer: Where to write the tokenizer (folder).
        metrics: Where to write the counts and the length histogram (JSON).

    Returns:
        The counts that a run is judged by, as tokenize gives them.

    Raises:
        DataError: no record fits; or one does not, and too_long is error.
        PipelineError: a shard is missing, or they were not made alike.
    """
    shards = [read_json(path) for path in metric_shards]
    if not shards or not all("shard" in shard for shard in shards):
        raise PipelineError("join: what came are not the shards of tokenize")
    order = sorted(range(len(shards)), key=lambda index: shards[index]["shard"])
    if [shards[index]["shard"] for index in order] != list(range(shards[0]["shards"])):
        raise PipelineError(f"join: {len(shards)} shards came, of which some are missing or twice there")
    if len({path_digest(path) for path in tokenizer_shards}) > 1 or any(
        s["rules"] != shards[0]["rules"] for s in shards
    ):
        raise PipelineError("join: the shards were not made with the same tokenizer and rules")
    rules, counts = Rules(**shards[0]["rules"]), TokenCounts.merged(shard["counts"] for shard in shards)
    write_batches(tokens, TOKENS, (batch for index in order for batch in read_batches(token_shards[index])))
    shutil.copytree(tokenizer_shards[0], tokenizer, dirs_exist_ok=True)
    write_json(metrics, counts.report(rules))
    counts.check(rules)
    print(f"join: {counts.line(rules)}")
    return counts.summary()
