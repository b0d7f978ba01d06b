"""Turns names into digests, so that every later step can be cached by what it really reads; and says if any is new."""

from collections.abc import Collection
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from components import code_digest
from components.corpora import corpora_digest, pin_corpora
from components.datasets import pin_sources
from components.drift_rules import load_drift_rules
from components.records import canonical_json, digest, write_json
from components.registry import COMPARED_WITH, STARTED_FROM, open_registry
from components.resolve.news import (
    ON_UNCHANGED,
    START_FROM,
    changed,
    check_choice,
    digest_of,
    fetched_by,
    starting_point,
    told,
)
from components.resolve.news import notice as page
from components.rules import load_rules
from components.run_notes import Begun, begin, verdict_before
from components.sources import Pinned, fetch, pin
from components.tasks import pin_tasks, task_names, tasks_digest
from components.templates import pin_template


class Resolved(NamedTuple):
    """What the run reads, pinned; and whether there is anything to do."""

    decision: str  # run or skip
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
    drift_rules: str
    drift_rules_digest: str
    champion: str
    started_from: str
    start: dict[str, str]
    inputs: dict[str, str]
    registry_id: str
    run_digest: str
    unchanged: str  # the verdict that this very run had before; empty: there is something new
    news: str  # what is new, in a line


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
    drift_rules: str = "",
    start_from: str = "base",
    on_unchanged: str = "skip",
    configuration: dict[str, Any],
    run_id: str = "",
    notice: Path | None = None,
    output: Path | None = None,
) -> Resolved:
    """Pins the dataset, the base model, the template, texts, tasks and the champion of a run; says if it is new.

    A run that made the present champion is compared with the model that it was compared with then, and starts from
    where it started then, so the same run a second time asks the same question and finds every answer in the cache.

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
        drift_rules: The rules by which new data is judged, in the same way.
        start_from: The weights that training begins with: base, or the champion's.
        on_unchanged: What a run does whose data and configuration had their verdict before: skip the rest, or run.
        configuration: Every other parameter that the result depends on.
        run_id: The run, for what reports its end; empty: nobody does.
        notice: Where to write what is new, for people (Markdown).
        output: Where to write the answer as JSON, when run by hand.

    Raises:
        UserError: a source cannot be found or read, rules cannot be judged by, or the champion is no start for this.
    """
    check_choice("on_unchanged", on_unchanged, ON_UNCHANGED)
    check_choice("start_from", start_from, START_FROM)
    data, sources = pin_sources(dataset)
    model = pin(base_model, "model")
    chat = pin_template(template)
    texts = pin_corpora(evaluation_corpora, "corpus")
    tasks = pin_tasks(evaluation_tasks)
    sets = pin_corpora(decontaminate, "evaluation_set")
    rules = _pinned_rules(gate_rules, texts, task_names(tasks))
    limits = _pinned_drift_rules(drift_rules)
    inputs = {
        "code": code_digest(),
        "dataset": data.digest,
        "base model": model.digest,
        "template": chat.digest or chat.uri,
        "texts": corpora_digest(texts),
        "tasks": tasks_digest(tasks),
        "evaluation sets": corpora_digest(sets),
        "gate rules": rules.digest,
        "configuration": digest(canonical_json(configuration)),
    }
    run_digest = digest_of(inputs)
    store = open_registry(registry, model_name)
    registry_id = store.identity()
    champion = store.champion()
    opponent = champion.reference if champion else ""
    unchanged, made = verdict_before(store, run_digest, opponent)
    skipped = bool(unchanged) and on_unchanged == "skip"
    if champion and made and champion.number == made.number:
        opponent = champion.tags.get(COMPARED_WITH, "")
        first = champion.tags.get(STARTED_FROM, "")
        start = store.version(first) if first and not skipped else None
    else:
        start = None if skipped else starting_point(start_from, champion, inputs)
        if made:
            registry_id += " (demoted)"  # somebody moved the alias: what register reported then is no longer so
    resolved = Resolved(
        "skip" if skipped else "run",
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
        drift_rules=limits.uri,
        drift_rules_digest=limits.digest,
        champion=opponent,
        started_from=start.reference if start else "",
        start=fetched_by(start, registry) if start else {},
        inputs=inputs,
        registry_id=registry_id,
        run_digest=run_digest,
        unchanged=unchanged,
        news=told(unchanged, made, skipped, changed(inputs, champion), champion),
    )
    for name, value in resolved._asdict().items():
        print(f"{name}: {value or 'none'}")
    begun = Begun(run_digest=run_digest, dataset_digest=data.digest, unchanged=unchanged, skipped=skipped)
    begin(store, run_id, begun)
    print(f"resolve: {resolved.news}")
    if notice:
        notice.parent.mkdir(parents=True, exist_ok=True)
        notice.write_text(page(resolved.news, inputs, champion, start), encoding="utf-8")
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


def _pinned_drift_rules(uri: str) -> Pinned:
    if not uri:
        return Pinned(uri="", digest="")
    pinned = pin(uri, "drift_rules")
    load_drift_rules(fetch(pinned, "drift_rules"))
    return pinned
