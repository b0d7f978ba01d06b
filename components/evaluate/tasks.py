"""Downstream tasks through lm-evaluation-harness, and how far tuned is from another model on the same samples."""

import contextlib
import importlib.util
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np

from components.errors import DataError, ModelError, ParameterError
from components.tasks import HARNESS, names_in

BOOTSTRAP = 1000  # draws for standard errors that have no formula
QUANTILE = 1.959964  # of the normal distribution: 95 % lie within


@dataclass(frozen=True, kw_only=True)
class TaskScore:
    """A model's figure of one metric of one task."""

    value: float
    stderr: float | None  # the harness's; None where it knows none
    higher_is_better: bool
    samples: np.ndarray  # the figure of each sample, where the metric is their mean; else empty


# By task and metric.
TaskScores = dict[str, dict[str, TaskScore]]


def check_harness() -> None:
    """Raises ParameterError when tasks are asked for and the harness is not installed."""
    if importlib.util.find_spec(HARNESS) is None:
        raise ParameterError(
            "evaluation_tasks needs lm-evaluation-harness; install the extra: pip install 'private-llm-pipeline[tasks]'"
        )


def run_tasks(
    model: Any, tokenizer: Any, folders: Mapping[str, Path | None], *, positions: int, batch_size: int
) -> TaskScores:
    """What a model scores on tasks, as the harness scores it: without a chat template, shots as the task says.

    Args:
        folders: by entry of the list, its folder; an entry without one is a task of the harness, whose data it asks
            the hub for. Files that a folder's tasks name are looked for in that folder.
        positions: tokens that the model takes at most.

    Raises:
        ParameterError: a task that the harness does not know.
        DataError: a task's data cannot be read.
        ModelError: the model fails on it.
    """
    from lm_eval.models.huggingface import HFLM

    logging.getLogger(HARNESS).setLevel(logging.ERROR)
    model.set_attn_implementation("eager" if model.config._attn_implementation == "eager" else "sdpa")
    harness = HFLM(pretrained=model, tokenizer=tokenizer, backend="causal", batch_size=batch_size, max_length=positions)
    found: TaskScores = {}
    named = [entry for entry, folder in folders.items() if folder is None]
    if named:
        found |= _scores(_evaluated(harness, named, None))
    for folder in folders.values():
        if folder is not None:
            with contextlib.chdir(folder):
                found |= _scores(_evaluated(harness, names_in(folder), folder))
    return found


def compare_tasks(models: Mapping[str, TaskScores]) -> dict[str, Any]:
    """Figures of each model by task and metric, and tuned's difference from each other one.

    Returns:
        by task: samples, and by metric: higher_is_better, models (value, stderr by name) and tuned_minus (by other
        model: difference, stderr, and interval, the difference +- 1.96 standard errors; None where one has none).
        The error is that of the paired difference where a metric is a mean over samples. A metric that a model has
        no finite figure of is left out.
    """
    compared = {
        task: {
            metric: _compared({name: scores[task][metric] for name, scores in models.items()})
            for metric in metrics
            if all(metric in scores.get(task, {}) for scores in models.values())
        }
        for task, metrics in models["tuned"].items()
    }
    return {task: metrics for task, metrics in compared.items() if metrics}


def _compared(scores: Mapping[str, TaskScore]) -> dict[str, Any]:
    tuned = scores["tuned"]
    return {
        "samples": len(tuned.samples),
        "higher_is_better": tuned.higher_is_better,
        "models": {name: {"value": score.value, "stderr": score.stderr} for name, score in scores.items()},
        "tuned_minus": {name: _difference(tuned, score) for name, score in scores.items() if name != "tuned"},
    }


def _difference(tuned: TaskScore, other: TaskScore) -> dict[str, Any]:
    difference = tuned.value - other.value
    if len(tuned.samples) > 1 and len(tuned.samples) == len(other.samples):
        stderr = float((tuned.samples - other.samples).std(ddof=1) / math.sqrt(len(tuned.samples)))
    elif tuned.stderr is not None and other.stderr is not None:
        stderr = math.hypot(tuned.stderr, other.stderr)
    else:
        return {"difference": difference, "stderr": None, "interval": None}
    around = QUANTILE * stderr
    return {"difference": difference, "stderr": stderr, "interval": [difference - around, difference + around]}


def _evaluated(harness: Any, names: list[str], folder: Path | None) -> dict[str, Any]:
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=folder and str(folder), include_defaults=folder is None)
    unknown = [name for name in names if name not in manager.all_tasks]
    if unknown:
        raise ParameterError(
            f"evaluation_tasks: lm-evaluation-harness knows no task {unknown[0]!r}"
            + (f" in {folder}" if folder else "; `lm-eval ls tasks` lists them, and a folder is written with a slash")
        )
    try:
        # seeds are the harness's own, the same each time
        answered = simple_evaluate(model=harness, tasks=names, task_manager=manager, bootstrap_iters=BOOTSTRAP)
    except (OSError, ValueError, KeyError, ConnectionError) as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise DataError(f"evaluation_tasks: {', '.join(names)} cannot be evaluated: {lines[0]}") from error
    if answered is None:
        raise ModelError("evaluation_tasks: the harness gave no results")
    return dict(answered)


def _scores(answered: dict[str, Any]) -> TaskScores:
    """The harness's answer by task and metric; a metric behind a filter is named metric_filter."""
    found: TaskScores = {}
    for task, figures in answered["results"].items():
        metrics: dict[str, TaskScore] = {}
        for key, value in figures.items():
            metric, _, kind = key.partition(",")
            if not kind or metric.endswith("_stderr") or not _number(value):
                continue
            error = figures.get(f"{metric}_stderr,{kind}")
            metrics[metric if kind == "none" else f"{metric}_{kind}"] = TaskScore(
                value=float(value),
                stderr=float(error) if _number(error) else None,
                higher_is_better=bool(answered["higher_is_better"].get(task, {}).get(metric, True)),
                samples=_samples(answered["samples"].get(task, []), metric, kind, float(value)),
            )
        if metrics:
            found[task] = metrics
    return found


def _samples(samples: list[dict[str, Any]], metric: str, kind: str, value: float) -> np.ndarray:
    """The metric of each sample, in the documents' order; empty unless it is their mean."""
    chosen = sorted((sample for sample in samples if sample["filter"] == kind), key=lambda sample: sample["doc_id"])
    found = [sample.get(metric) for sample in chosen]
    if not found or not all(_number(one) for one in found):
        return np.zeros(0)
    values = np.array(found, dtype=np.float64)
    return values if math.isclose(values.mean(), value, rel_tol=1e-9, abs_tol=1e-12) else np.zeros(0)


def _number(value: Any) -> bool:
    return isinstance(value, Real) and math.isfinite(value)
