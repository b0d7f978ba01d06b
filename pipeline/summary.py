"""A run in figures: summary.json, and the table that a run prints last."""

import shlex
import sys
import textwrap
from pathlib import Path
from typing import Any

from components.records import read_json
from pipeline.parameters import Parameters

UNCHANGED = "unchanged"
SUMMARISED = ("ingest_metrics", "drift", "tokenize_metrics", "split_metrics", "evaluation", "verdict", "registered")


def summarise(
    told: dict[str, str], artifacts: dict[str, dict[str, str]], steps: dict[str, dict[str, Any]]
) -> dict[str, Any]:
    """The content of summary.json.

    Args:
        told: what resolve said: news and started_from.
        artifacts: path and digest by name.
        steps: seconds and cached by name.
    """
    data, drift, tokens, sides, evaluation, verdict, registered = (
        read_json(Path(artifacts[name]["path"])) for name in SUMMARISED
    )
    removed = sum(sum(counts["removed"].values()) for counts in (data, tokens, sides))
    records = {
        "in": data["rows"],
        "rejected": sum(data["rejected"].values()),
        "removed": removed,
        "train": sides["train"],
        "test": sides["test"],
    }
    if records["in"] != sum(records.values()) - records["in"]:
        raise AssertionError(f"records were lost between steps: {records}")
    models = evaluation["models"]
    figures = {name: {figure: models[name][figure] for figure in ("perplexity", "bits_per_byte")} for name in models}
    return {
        "outcome": verdict["verdict"],
        "news": told["news"],
        "started_from": told["started_from"].partition(":")[0] or "base",
        "records": records,
        "drift": {name: drift[name] for name in ("note", "new_records", "measures", "drifted", "reasons")},
        "base": figures["base"],
        "tuned": figures["tuned"],
        "champion": figures.get("champion"),
        "gate": {"verdict": verdict["verdict"], "reasons": verdict["reasons"]},
        "registered": registered,
        "steps": steps,
        "artifacts": artifacts,
    }


def summarise_unchanged(
    told: dict[str, str], artifacts: dict[str, dict[str, str]], steps: dict[str, dict[str, Any]]
) -> dict[str, Any]:
    """The content of summary.json where nothing was new, so that nothing was done."""
    return {
        "outcome": UNCHANGED,
        "news": told["news"],
        "gate": {"verdict": told["unchanged"], "reasons": []},
        "steps": steps,
        "artifacts": artifacts,
    }


def show(summary: dict[str, Any], parameters: Parameters, output: Path) -> None:
    """Prints the summary, the answers where they were asked for, and where to look next."""
    if summary["outcome"] == UNCHANGED:
        _print([("outcome", UNCHANGED), ("", summary["news"]), ("time", _times(summary))])
        print(f"\n{'summary':<12}{output.absolute() / 'summary.json'}")
        print(f"{'':<12}on_unchanged=run goes through all steps, from the cache where it has them")
        return
    records, registered = summary["records"], summary["registered"]
    lines = [
        ("news", summary["news"]),
        ("records", "in {in}, rejected {rejected}, removed {removed}, train {train}, test {test}".format(**records)),
        ("drift", _drift(summary["drift"])),
        *((name, _figures(summary[name])) for name in ("base", "tuned", "champion") if summary[name]),
        ("verdict", summary["gate"]["verdict"]),
        *(("", reason) for reason in summary["gate"]["reasons"]),
        ("registered", _entry(registered)),
        ("time", _times(summary)),
    ]
    _print(lines)
    for sample in read_json(Path(summary["artifacts"]["evaluation"]["path"]))["samples"]:
        print()
        for name, text in sample.items():
            print(textwrap.fill(" ".join(text.split()), 110, initial_indent=f"{name:<12}", subsequent_indent=" " * 12))
    print()
    print(f"{'summary':<12}{output.absolute() / 'summary.json'}")
    print(f"{'report':<12}{summary['artifacts']['report']['path']}")
    ui = parameters.registry
    if ui.startswith("sqlite:"):
        ui = f"{Path(sys.executable).with_name('mlflow')} ui --backend-store-uri {shlex.quote(ui)}"
    print(f"{'MLflow UI':<12}{ui}")


def _print(lines: list[tuple[str, str]]) -> None:
    print()
    for name, text in lines:
        print(f"{name:<12}{text}")


def _times(summary: dict[str, Any]) -> str:
    return ", ".join(
        f"{name} {'cached' if step['cached'] else format(step['seconds'], '.1f') + ' s'}"
        for name, step in summary["steps"].items()
    )


def _drift(drift: dict[str, Any]) -> str:
    if drift["note"]:
        return f"not measured, {drift['note']}"
    return f"{drift['new_records']} new records; " + ("; ".join(drift["reasons"]) or "no rule is broken")


def _entry(registered: dict[str, Any] | None) -> str:
    if registered is None:
        return "nothing"
    return f"{registered['name']} version {registered['version']}, alias {', '.join(registered['aliases']) or 'none'}"


def _figures(model: dict[str, Any]) -> str:
    perplexity = "–" if model["perplexity"] is None else f"{model['perplexity']:.3f}"  # too large for a number
    return f"perplexity {perplexity}, bits per byte {model['bits_per_byte']:.4f}"
