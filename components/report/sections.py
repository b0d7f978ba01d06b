"""What the page says, from the steps' figures: rows of tables, and the plots. Parts that a run lacks are left out."""

from pathlib import PurePosixPath
from typing import Any

from components import __version__, code_digest
from components.report.numbers import NOTHING, change, figure, percent
from components.report.plots import Bars, bars, length_histogram, lines, own_ids

MOST_BARS = 20  # a plot shows


def funnel(data: dict[str, Any], tokens: dict[str, Any], sides: dict[str, Any]) -> list[dict[str, Any]]:
    """Where the rows went, step by step: what, how many, and the reasons with their counts."""
    removed = {**data["removed"], **tokens["removed"], **sides["removed"]}
    return [
        {"what": "rows read", "count": data["rows"], "reasons": {}},
        {"what": "rejected: no valid record", "count": sum(data["rejected"].values()), "reasons": data["rejected"]},
        {"what": "removed: valid, not used", "count": sum(removed.values()), "reasons": removed},
        {"what": "train", "count": sides["train"], "reasons": {}},
        {"what": f"test ({sides['test_fraction']:.1%} of the keys)", "count": sides["test"], "reasons": {}},
    ]


def about(pinned: dict[str, str], configuration: dict[str, Any]) -> str:
    """What the run made, in one line; empty where nothing is known of it."""
    base, dataset = (PurePosixPath(pinned.get(name, "").partition("@")[0]).name for name in ("base_model", "dataset"))
    name = configuration.get("model_name", "")
    return f"{name}: {base}, tuned on {dataset}" if name and base and dataset else ""


def headline(
    figures: dict[str, Any], sides: dict[str, Any], training: dict[str, Any], price: float
) -> list[tuple[str, str, str]]:
    """The run in a few figures: what, the figure, and a word about it."""
    models = figures["models"]
    rows = [
        (
            "perplexity, base to tuned",
            f"{figure(models['base']['perplexity'], 2)} → {figure(models['tuned']['perplexity'], 2)}",
            f"{figures['records']:,} test records",
        )
    ]
    for name, over in figures.get("tuned_over", {}).items():
        ends = over["interval"]
        note = f"95 %: {ends[0] - 1:+.1%} to {ends[1] - 1:+.1%}" if ends else "less is better"
        rows.append((f"bits per byte against {name}", change({**over, "interval": None}), note))
    rows.append(("records trained on", f"{sides['train']:,}", f"{training['tokens']:,} tokens in all"))
    if hours := training.get("accelerator_hours"):
        unit = "CPU process-hours" if training["device"] == "cpu" else "accelerator-hours"
        rows.append((unit, f"{hours:,.3f}", f"price {hours * price:,.2f}" if price else ""))
    return rows


def missed(verdict: dict[str, Any]) -> list[str]:
    """Why the model was rejected, in sentences; nothing for an accepted one, whose rules stand in a table."""
    return [rule["reason"] for rule in verdict["rules"] if rule["passed"] is False]


def rules(judged: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each rule of the gate with its numbers in words."""
    return [_rule(rule) for rule in judged]


def _rule(rule: dict[str, Any]) -> dict[str, Any]:
    against, judged = rule["against"], rule["passed"] is not None
    return {
        "rule": rule["rule"],
        "place": f"{rule['data']}, {rule['metric'].replace('_', ' ')}",
        "passed": rule["passed"],
        "value": figure(rule["value"], 4),
        "other": f"{against} {figure(rule['other'], 4)}" if against and judged else against,
        "change": NOTHING if rule["change"] is None else percent(rule["change"], rule["interval"]),
        "limit": NOTHING if not judged else f"{rule['limit']:+.1%}" if against else f"{rule['limit']:.4g}",
        "remark": rule["would_pass"].removesuffix(" would have passed")
        if judged
        else rule["reason"].rpartition(", ")[2],
    }


def costs(training: dict[str, Any], price: float) -> list[tuple[str, str]]:
    """What the training took. Hours are of accelerators, or on a CPU of processes."""
    gpu = training["device"] != "cpu"
    unit = "accelerator" if gpu else "CPU process"
    count = training["world_size"]
    rows = [
        ("device", f"{count} {training['device']} process{'es' if count != 1 else ''}"),
        ("optimizer steps", f"{training['steps']:,}"),
        ("tokens", f"{training['tokens']:,} in {training['train_seconds']:,.0f} s"),
        ("throughput", f"{training['tokens_per_second']:,.0f} tokens/s"),
        ("weights trained", f"{training['trainable_parameters']:,} of {training['parameters']:,}"),
    ]
    if "peak_memory_gib" in training:
        rows.append(("peak memory of a process", f"{training['peak_memory_gib']:.2f} GiB"))
    if hours := training.get("accelerator_hours"):
        rows.append((f"{unit}-hours", f"{hours:,.3f}"))
        if price:
            rows.append((f"price at {price:g} per {unit}-hour", f"{hours * price:,.2f}"))
    return rows


def drawings(
    data: dict[str, Any],
    tokens: dict[str, Any],
    sides: dict[str, Any],
    curves: list[dict[str, float]],
    figures: Any,
    drift: dict[str, Any] | None = None,
) -> dict[str, list[dict[str, str]]]:
    """The page's plots by section: what a reader who does not see one is told, and the drawing."""
    removed = {**data["removed"], **tokens["removed"], **sides["removed"]}
    reasons = {"rejected": data["rejected"], "removed": removed}
    return {
        "groups": _present(
            "groups",
            [
                _group(title, groups, len(figures.get("groups", {}).get(title, ())))
                for title, groups in _groupings(figures).items()
            ],
        ),
        "training": _present(
            "training",
            [
                (
                    "Training and held-out loss by optimizer step",
                    lines(curves, {"loss": "training", "eval_loss": "held out"}, "loss (nats per target token)"),
                ),
                ("Learning rate by optimizer step", lines(curves, {"learning_rate": "learning rate"}, "learning rate")),
                ("Gradient norm by optimizer step", lines(curves, {"grad_norm": "gradient norm"}, "gradient norm")),
                ("Tokens per second by optimizer step", lines(curves, {"tokens_per_second": ""}, "tokens/s")),
            ],
        ),
        "drift": _present("drift", [_shift(name, part) for name, part in ((drift or {}).get("shifts") or {}).items()]),
        "data": _present(
            "data",
            [
                ("Rows rejected and removed by reason", bars("rows", {name: _plain(v) for name, v in reasons.items()})),
                ("Records by length in tokens", length_histogram(tokens["lengths"], tokens["max_length"])),
            ],
        ),
    }


def lineage(pinned: dict[str, str], license: str, registered: dict[str, Any] | None) -> list[tuple[str, str]]:
    """Where the model comes from."""
    named = {**pinned, "dataset_license": license or pinned.get("license", "")}
    rows = [(name.replace("_", " "), value) for name, value in sorted(named.items()) if value and name != "license"]
    rows += [("code version", __version__), ("code digest", code_digest())]
    if registered:
        rows.append(("registered", f"{registered['name']} version {registered['version']}"))
    return rows


def _present(section: str, drawn: list[tuple[str, str]]) -> list[dict[str, str]]:
    return [
        {"label": label, "svg": own_ids(svg, f"{section}{index}")} for index, (label, svg) in enumerate(drawn) if svg
    ]


def _groupings(figures: dict[str, Any]) -> dict[str, dict[str, Bars]]:
    """Perplexity by model and group, by grouping; with intervals where evaluate gives them."""
    if "groups" not in figures:
        models = figures["models"].items()
        return {"category": {name: _plain(model["categories"]) for name, model in models}}
    return {
        grouping: {
            name: {
                group: (part["models"][name]["perplexity"], part["models"][name].get("perplexity_interval"))
                for group, part in _largest(groups).items()
                if part["models"].get(name, {}).get("perplexity") is not None
            }
            for name in figures["models"]
        }
        for grouping, groups in figures["groups"].items()
        if len(groups) > 1 or grouping == "category"
    }


def _largest(groups: dict[str, Any]) -> dict[str, Any]:
    """Those with most records, in their order: a folder of files has a source a file, and a plot no room for all."""
    kept = set(sorted(groups, key=lambda name: -groups[name]["records"])[:MOST_BARS])
    return {name: part for name, part in groups.items() if name in kept}


def _group(title: str, groups: dict[str, Bars], count: int) -> tuple[str, str]:
    shown = f", the {MOST_BARS} of {count} with most records" if count > MOST_BARS else ""
    return f"Perplexity by {title} for each model{shown}", bars("perplexity", groups, least=1.0)


def _shift(name: str, part: dict[str, Any]) -> tuple[str, str]:
    """Shares of old and new records; bins that both lack are left out."""
    label = f"Share of old and new records by {name}" + (" in characters" if name == "length" else "")
    shown = [place for place, counts in enumerate(zip(part["old"], part["new"], strict=True)) if any(counts)][
        :MOST_BARS
    ]
    shares = {
        side: _plain({part["bins"][place]: part[side][place] / (sum(part[side]) or 1) for place in shown})
        for side in ("old", "new")
    }
    return label, bars("share", shares)


def _plain(values: dict[str, float]) -> Bars:
    return {name: (value, None) for name, value in values.items()}
