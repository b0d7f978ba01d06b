"""Turns names into digests, so that every later step can be cached by what it really reads."""

from collections.abc import Collection
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from components import code_digest
from components.corpora import corpora_digest, pin_corpora
from components.datasets import pin_sources
from components.records import canonical_json, digest, write_json
from components.registry import COMPARED_WITH, RUN_DIGEST, open_registry
from components.rules import load_rules
from components.sources import Pinned, fetch, pin
from components.tasks import pin_tasks, task_names, tasks_digest
from components.templates import pin_template


class Resolved(NamedTuple):
    """What the run reads, pinned."""

    dataset: str
    dataset_digest: str
    base_model: str
    base_model_digest: str
    template: str
    template_digest: str
    license: str
    corpora: dict[str, dict[str, str]]
    tasks: dict[str, dict[str, str]]
    decontaminate: str
    decontaminate_digest: str
    gate_rules: str
    gate_rules_digest: str
    champion: str
    registry_id: str
    run_digest: str


def resolve(
    *,
    dataset: str,
    base_model: str,
    template: str = "dolly",
    license: str = "unknown",
    registry: str,
    model_name: str,
    evaluation_corpora: str = "",
    evaluation_tasks: str = "",
    decontaminate: str = "",
    gate_rules: str = "",
    configuration: dict[str, Any],
    output: Path | None = None,
) -> Resolved:
    """Pins the dataset, the base model, the template, the texts, the tasks and the champion of a run.

    A run that made the present champion is compared with the model that it was compared with then, so the
    same run a second time asks the same question and finds every answer in the cache.

    Args:
        dataset: A file, folder or glob, an fsspec URI of one, a hub id (org/name@revision:split), or a YAML list of
            sources.
        base_model: Local folder, fsspec URI or hub id (org/name@revision) of the base model.
        template: dolly, base, or a Jinja file's path or URI.
        license: The licence of what names none of its own.
        registry: The model registry: sqlite:///FILE, http(s)://HOST or kubeflow://HOST:PORT?artifacts=URI.
        model_name: The registered model's name.
        evaluation_corpora: Texts that evaluate scores beside the records: name=path or URI of a txt, jsonl or
            parquet file, separated by commas.
        evaluation_tasks: Tasks of lm-evaluation-harness: names, and folders of task files by path or URI, separated by
            commas.
        decontaminate: Evaluation sets that ingest keeps out of the records, in the same form.
        gate_rules: The gate's rules: a YAML file, by path or URI; empty: those that are shipped.
        configuration: Every other parameter that the result depends on.
        output: Where to write the answer as JSON, when run by hand.
    """
    data, sources = pin_sources(dataset)
    model = pin(base_model, "model")
    chat = pin_template(template)
    texts = pin_corpora(evaluation_corpora, "corpus")
    tasks = pin_tasks(evaluation_tasks)
    sets = pin_corpora(decontaminate, "evaluation_set")
    rules = _pinned_rules(gate_rules, texts, task_names(tasks))
    run_digest = digest(
        code_digest(),
        data.digest,
        model.digest,
        chat.digest,
        corpora_digest(texts),
        tasks_digest(tasks),
        corpora_digest(sets),
        rules.digest,
        canonical_json(configuration),
    )
    store = open_registry(registry, model_name)
    registry_id = store.identity()
    champion = store.champion()
    opponent = champion.reference if champion else ""
    if champion and champion.tags.get(RUN_DIGEST) == run_digest:
        opponent = champion.tags.get(COMPARED_WITH, "")
    elif store.holds(run_digest):
        registry_id += " (demoted)"  # somebody moved the alias: what register reported then is no longer so
    resolved = Resolved(
        *(data.uri, data.digest),
        *(model.uri, model.digest),
        *(chat.uri, chat.digest),
        license=", ".join(sorted({source.license or license for source, _ in sources})),
        corpora={name: asdict(text) for name, text in texts.items()},
        tasks={name: asdict(task) for name, task in tasks.items()},
        decontaminate=",".join(f"{name}={place.uri}" for name, place in sets.items()),
        decontaminate_digest=corpora_digest(sets),
        gate_rules=rules.uri,
        gate_rules_digest=rules.digest,
        champion=opponent,
        registry_id=registry_id,
        run_digest=run_digest,
    )
    for name, value in resolved._asdict().items():
        print(f"{name}: {value or 'none'}")
    if output:
        write_json(output, resolved._asdict())
    return resolved


def _pinned_rules(uri: str, corpora: Collection[str], tasks: Collection[str]) -> Pinned:
    """The gate's rules, read once now: a rule that nobody can judge is found before training, and not after it."""
    if not uri:
        return Pinned(uri="", digest="")
    pinned = pin(uri, "rules")
    load_rules(fetch(pinned, "rules"), corpora, tasks)
    return pinned
