"""Tells how a run ended: in the log, and to a webhook where one is set. Whatever goes wrong here fails no run."""

import os

from components.errors import PipelineError
from components.notify.webhook import post
from components.registry import Version, open_registry
from components.run_notes import Begun, Outcome, end, outcome

WEBHOOK = "PRIVATE_LLM_WEBHOOK_URL"  # from a secret alone: whoever knows such an address may post to it
SUCCEEDED, FAILED = "SUCCEEDED", "FAILED"
MAX_TEXT = 3000  # characters; Slack cuts a longer message into several
FIGURES = ("tuned", "base", "champion")


def notify(*, state: str, run_id: str, registry: str, model_name: str, ui: str = "") -> None:
    """Tells a run's outcome and posts it as {"text": …}, as Slack takes it, to PRIVATE_LLM_WEBHOOK_URL.

    Outcomes are accepted, rejected, unchanged (nothing was new), stopped (by drift) and failed. The text holds names,
    figures and the rules' reasons: no record's text, no address and no secret.

    Args:
        state: How KFP says that the run's steps ended, such as SUCCEEDED or FAILED.
        run_id: The run, as resolve noted it.
        registry: The model registry: sqlite:///FILE, http(s)://HOST or kubeflow://HOST:PORT?artifacts=URI.
        model_name: The registered model's name.
        ui: The address of KFP's UI, for a link to the run; empty: no link.
    """
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")  # a registry that is away shall not hold up the end
    try:
        text = message(state, run_id, registry, model_name, ui)
        print(f"notify: {text}")
        url = os.environ.get(WEBHOOK, "")
        print(f"notify: {post(url, {'text': text})}" if url else f"notify: posted nowhere, {WEBHOOK} is not set")
    except Exception as error:  # the run has ended, and its own outcome stands
        print(f"notify: could not tell how the run ended: {type(error).__name__}")


def message(state: str, run_id: str, registry: str, model_name: str, ui: str) -> str:
    """What is told of a run."""
    begun, found = None, Outcome(outcome="", reasons=[])
    try:
        store = open_registry(registry, model_name)
        begun = end(store, run_id)
        if begun:
            found = outcome(store, begun)
    except PipelineError as error:
        print(f"notify: {error}")
    link = f" {ui.rstrip('/')}/#/runs/details/{run_id}" if ui else ""
    run = f" (run {run_id}){link}"
    told, room = f"{model_name}: {_told(state, begun, found)}", MAX_TEXT - len(run)
    return (told if len(told) <= room else f"{told[: room - 1]}…") + run


def _told(state: str, begun: Begun | None, found: Outcome) -> str:
    if state == SUCCEEDED:
        if begun and begun.skipped:
            before = f"version {found.version.number}" if found.version else "a model that the gate rejected"
            return f"unchanged: the same data and configuration gave {before}; nothing was trained"
        if found.version:
            return f"accepted: {_figures(found.version)}"
        if found.outcome == "rejected":
            return _with_reasons("rejected by the gate", found.reasons)
        return "succeeded"
    if found.outcome == "stopped":
        return _with_reasons("stopped before training, because the new data has drifted", found.reasons)
    if found.outcome == "rejected" and begun and not begun.unchanged:
        return _with_reasons("rejected by the gate, and so failed", found.reasons)
    if state == FAILED:
        return "failed: the log of the step that failed says why"
    return f"ended before its end: {state.lower() or 'state unknown'}"


def _with_reasons(what: str, reasons: list[str]) -> str:
    return f"{what}: {'; '.join(reasons)}"


def _figures(version: Version) -> str:
    alias = f", {', '.join(version.aliases)}" if version.aliases else ""
    bits = {name: version.tags.get(f"{name}_bits_per_byte") for name in FIGURES}
    told = ", ".join(f"{name} {value}" for name, value in bits.items() if value)
    return f"version {version.number}{alias}" + (f"; bits per byte: {told}" if told else "")
