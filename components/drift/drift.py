"""Compares new records with those that the champion was trained on, and judges by rules whether they have drifted."""

import heapq
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from components.drift.measures import jensen_shannon_distance, population_stability_index, repeat_rate, shifts
from components.drift.panel import markdown
from components.drift.perplexity import champion_figures
from components.drift.profile import Data, Profile, are_new, make_profile, read_data, read_profile, write_profile
from components.drift_rules import DriftRule, load_drift_rules
from components.errors import ParameterError, PipelineError
from components.records import read_json, read_table, write_json
from components.registry import Version, open_registry
from components.run_notes import stop
from components.sources import Pinned, fetch

ON_DRIFT = ("continue", "fail")
SHIPPED = Path(__file__).with_name("rules.yaml")
SAMPLE = 512  # new records that the champion reads: those with the smallest ids, which are digests


def drift(
    *,
    records: Path,
    ingested: Path,
    near_duplicates: float = 0.7,
    champion: str = "",
    registry: str = "",
    model_name: str = "",
    rules: str = "",
    rules_digest: str = "",
    precision: str = "fp32",
    batch_size: int = 8,
    trust_remote_code: bool = False,
    metrics: Path,
    panel: Path,
    profile: Path,
) -> dict[str, float]:
    """Measures how far the records that are new since the champion's training are from those that it was trained on.

    New is a record whose id is not in the profile that is kept with the champion. Without a champion, or without new
    records, there is nothing to compare; the profile of this run's data is written all the same.

    Args:
        records: The records that ingest wrote.
        ingested: The counts that ingest wrote.
        near_duplicates: The similarity by which ingest removed near-duplicates; 0: it did not.
        champion: The registered version to compare with, as resolve refers to it; empty: none.
        registry: The champion's registry.
        model_name: The champion's registered name.
        rules: A YAML file of rules, by path or URI; empty: components/drift/rules.yaml.
        rules_digest: What resolve found for it.
        precision: fp32 (exact) or bf16 (half the memory), for the champion's perplexity.
        batch_size: Records a forward pass takes.
        trust_remote_code: Whether to run Python code that the champion's folder brings.
        metrics: Where to write what was found (JSON).
        panel: Where to write it for people (Markdown).
        profile: Where to write the profile of this run's data (folder).

    Returns:
        The measures that are numbers.

    Raises:
        ParameterError: rules that cannot be judged by.
        RegistryError: the champion cannot be read.
    """
    limits = load_drift_rules(fetch(Pinned(uri=rules, digest=rules_digest), "drift_rules") if rules else SHIPPED)
    data = read_data(records)
    now = make_profile(data, read_json(ingested), near_duplicates > 0)
    write_profile(profile, now, data.ids)
    reads = {"precision": precision, "batch_size": batch_size, "trust_remote_code": trust_remote_code}
    found = _compared(data, now, records, _fetched(champion, registry, model_name), reads)
    judged = [_judge(rule, found) for rule in limits]
    found |= {
        "drifted": any(one.passed is False for one in judged),
        "reasons": [one.reason for one in judged if one.passed is False],
        "rules": [asdict(one) for one in judged],
    }
    write_json(metrics, found)
    panel.parent.mkdir(parents=True, exist_ok=True)
    panel.write_text(markdown(found), encoding="utf-8")
    print(f"drift: {_told(found)}")
    return {name: float(value) for name, value in found["measures"].items() if value is not None}


def admit(*, drift: Path, on_drift: str, dataset_digest: str, registry: str, model_name: str) -> None:
    """Lets a run go on to its training, or ends it: when its data has drifted and the user asked for that.

    Args:
        drift: What the measuring found (JSON).
        on_drift: continue, or fail.
        dataset_digest: The dataset, under which the registry notes that it was stopped.
        registry: The model registry.
        model_name: The registered model's name.

    Raises:
        PipelineError: a rule was broken and on_drift is fail; with the rule and its figures.
    """
    if on_drift not in ON_DRIFT:
        raise ParameterError(f"on_drift={on_drift!r} is unknown; allowed: {', '.join(ON_DRIFT)}")
    found = read_json(drift)
    if found["drifted"] and on_drift == "fail":
        stop(open_registry(registry, model_name), dataset_digest, found["reasons"])
        raise PipelineError(f"on_drift=fail: the new data has drifted; {'; '.join(found['reasons'])}")
    print(f"admit: {'the new data has drifted, and on_drift=continue' if found['drifted'] else 'no rule was broken'}")


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """What became of a rule."""

    rule: str
    metric: str
    passed: bool | None  # None: there was nothing to judge
    value: float | None
    limit: float
    reason: str


def _compared(
    data: Data,
    now: Profile,
    records: Path,
    champion: tuple[Version, Path] | None,
    reads: dict[str, Any],
) -> dict[str, Any]:
    """Measures and counts; or only a note, where there is nothing to compare.

    Args:
        champion: its version and its folder.
        reads: how it reads records, for champion_figures.
    """
    nothing: dict[str, Any] = {"champion": None, "new_records": None, "measures": {}, "shifts": {}, "perplexity": None}
    if champion is None:
        return {**nothing, "records": len(data), "note": "there is no champion to compare with"}
    version, folder = champion
    if (kept := read_profile(folder)) is None:
        note = f"version {version.number} holds no profile of its data; the next version will"
        return {**nothing, "champion": version.number, "records": len(data), "note": note}
    old, known = kept
    new = are_new(data.ids, known)
    gone = old.records - int((~new).sum())
    counts = {
        "champion": version.number,
        "records": len(data),
        "old_records": old.records,
        "new_records": int(new.sum()),
        "gone_records": gone,
    }
    if not new.any():
        return {**nothing, **counts, "note": f"no record is new since version {version.number}"}
    found = shifts(old, data.select(new))
    figures = champion_figures(folder, _sample(records, data.ids[new]), **reads)
    measures = {
        "new_share": float(new.mean()),
        **{f"{name}_psi": population_stability_index(**_both(part)) for name, part in found.items()},
        **{f"{name}_js": jensen_shannon_distance(**_both(part)) for name, part in found.items()},
        "near_duplicate_rate": repeat_rate(old, now, grown=gone == 0),
        "bits_per_byte_ratio": _ratio(figures["bits_per_byte"], version),
    }
    names = {
        "length": [*(f"to {edge:.0f}" for edge in old.length_edges), "longer"],
        "category": [name for name in old.categories if name != "(other)"] + ["(other)"],
        "source": [name for name in old.sources if name != "(other)"] + ["(other)"],
    }
    return {
        **counts,
        "note": "",
        "measures": measures,
        "shifts": {name: {"bins": names[name], **part} for name, part in found.items()},
        "perplexity": {**figures, "registered_bits_per_byte": _registered(version)},
    }


def _fetched(champion: str, registry: str, model_name: str) -> tuple[Version, Path] | None:
    if not champion:
        return None
    store = open_registry(registry, model_name)
    version = store.version(champion)
    return version, store.download(version)


def _both(part: dict[str, list[int]]) -> dict[str, list[int]]:
    return {"old": part["old"], "new": part["new"]}


def _sample(records: Path, ids: np.ndarray) -> list[dict[str, Any]]:
    """The new records with the smallest ids: the same whenever the same records are new."""
    wanted = set(heapq.nsmallest(SAMPLE, ids.tolist()))
    return [record for record in read_table(records) if int(record["id"][:16], 16) in wanted]


def _registered(version: Version) -> float | None:
    """The figure that the champion had on its own test records."""
    text = version.tags.get("tuned_bits_per_byte")
    return float(text) if text else None


def _ratio(value: float | None, version: Version) -> float | None:
    registered = _registered(version)
    return value / registered if value is not None and registered else None


def _judge(rule: DriftRule, found: dict[str, Any]) -> Judgement:
    value = found["measures"].get(rule.metric)
    count = found["new_records"] or 0
    if found["note"]:
        why = found["note"]
    elif count < rule.min_records:
        why = f"{count} new records are fewer than min_records={rule.min_records}"
    elif value is None:
        why = "it was not measured"
    else:
        why = ""
    passed = None if why else value <= rule.at_most
    outcome = f"not judged, {why}" if why else f"{'yes' if passed else 'no'}: {rule.metric} {value:.4g}"
    limit = "" if why else f", must be at most {rule.at_most:g}"
    return Judgement(
        rule=rule.rule,
        metric=rule.metric,
        passed=passed,
        value=value,
        limit=rule.at_most,
        reason=f"{rule.rule}: {outcome}{limit}",
    )


def _told(found: dict[str, Any]) -> str:
    if found["note"]:
        return f"not measured, {found['note']}"
    measures = ", ".join(f"{name} {value:.3g}" for name, value in found["measures"].items() if value is not None)
    verdict = "; ".join(found["reasons"]) if found["drifted"] else "no rule is broken"
    return f"{found['new_records']} new records beside {found['old_records']} old ones: {measures}; {verdict}"
