"""python -m pipeline.run: the same DAG on this machine, in plain processes or in containers."""

import argparse
import os
import shutil
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from components import code_digest
from components.corpora import parse_corpora
from components.datasets import check as check_dataset
from components.drift_rules import load_drift_rules
from components.errors import ParameterError, PipelineError
from components.evaluate.tasks import check_harness
from components.gate.gate import REJECTED
from components.records import path_digest, write_json
from components.rules import load_rules
from components.sources import check_local, local_path, where
from components.tasks import is_folder, parse_tasks, pin_tasks, task_names
from components.templates import TEMPLATES
from pipeline.containers import docker_runner, first_unfinished, forget_empty, identify
from pipeline.local_log import StepFailedError, StepLog
from pipeline.local_outputs import LocalOutputs
from pipeline.settings import Settings, load
from pipeline.summary import show, summarise, summarise_unchanged

RUNNERS = ("subprocess", "docker")
# What the run leaves in its folder: by artifact the step, its output, and a file; a name without a suffix is a folder.
FILES = {
    "notice": ("resolve", "notice", "notice.md"),
    "records": ("ingest", "records", "records.parquet"),
    "rejects": ("ingest", "rejects", "rejects.parquet"),
    "ingest_metrics": ("ingest", "metrics", "ingest.json"),
    "drift": ("drift", "metrics", "drift.json"),
    "drift_panel": ("drift", "panel", "drift.md"),
    "profile": ("drift", "profile", "profile"),
    "tokens": ("tokenize", "tokens", "tokens.parquet"),
    "tokenizer": ("tokenize", "tokenizer", "tokenizer"),
    "tokenize_metrics": ("tokenize", "metrics", "tokenize.json"),
    "train": ("split", "train", "train.parquet"),
    "test": ("split", "test", "test.parquet"),
    "split_metrics": ("split", "metrics", "split.json"),
    "model": ("train", "model", "model"),
    "curves": ("train", "curves", "curves.json"),
    "tensorboard": ("train", "tensorboard", "tensorboard"),
    "train_metrics": ("train", "metrics", "train.json"),
    "evaluation": ("evaluate", "evaluation", "evaluation.json"),
    "errors": ("evaluate", "errors", "errors.json"),
    "verdict": ("gate", "verdict", "verdict.json"),
    "panel": ("gate", "panel", "verdict.md"),
    "registered": ("register", "registered", "registered.json"),
    "report": ("report", "page", "report.html"),
}


def main(argv: list[str] | None = None) -> int:
    """Returns the exit code: 0, 1 when a step fails, 2 for bad input."""
    parser = argparse.ArgumentParser(
        prog="python -m pipeline.run",
        description="Run the whole pipeline on this machine. Steps whose inputs did not change come from the cache.",
    )
    parser.add_argument(
        "--profile", default="local", help="a shipped profile's name, or a YAML file (default: %(default)s)"
    )
    parser.add_argument(
        "--param",
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME=VALUE",
        help="parameters of the run, over the profile's",
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("runs/local"),
        help="folder of this run (default: %(default)s); its parent keeps the cache and the registry",
    )
    parser.add_argument(
        "--runner",
        choices=RUNNERS,
        default="subprocess",
        help="plain processes, or containers of the profile's images (default: %(default)s)",
    )
    arguments = parser.parse_args(argv)
    try:
        wanted = load(arguments.profile, parse_pairs(arguments.param))
        settings = prepare(wanted, arguments.output, arguments.runner)
        summary = run(settings, arguments.output, arguments.runner)
    except StepFailedError as error:
        print(f"run: step {error.step} failed: {error.reason}\nrun: its log is {error.log}", file=sys.stderr)
        return 1
    except PipelineError as error:
        print(f"run: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("run: interrupted; the same command goes on from the last finished step", file=sys.stderr)
        return 130
    show(summary, settings.parameters, arguments.output)
    if wanted.parameters.on_reject == "fail" and summary["outcome"] == REJECTED:
        print("run: on_reject=fail, and the gate rejected the model", file=sys.stderr)
        return 1
    return 0


def parse_pairs(pairs: list[str]) -> dict[str, str]:
    """name=value texts as a mapping.

    Raises:
        ParameterError: one is not of this form, or a name comes twice.
    """
    values: dict[str, str] = {}
    for pair in pairs:
        name, separator, value = pair.partition("=")
        if not separator or name in values:
            raise ParameterError(
                f"--param {pair!r} " + ("is given twice" if separator else "is not of the form name=value")
            )
        values[name] = value
    return values


def prepare(settings: Settings, output: Path, runner: str = "subprocess") -> Settings:
    """Settings for this machine: absolute paths, a registry and checkpoints beside the output, this code's digest.

    Raises:
        UserError: a file that is missing, or a value that a step would refuse; nothing has run then.
    """
    p = settings.parameters
    check_dataset(p.dataset)
    check_local(p.base_model, "model")
    own_template = p.template not in TEMPLATES
    if own_template:
        check_local(p.template, "template")
    corpora, sets = parse_corpora(p.evaluation_corpora), parse_corpora(p.decontaminate, "decontaminate")
    for uri in corpora.values():
        check_local(uri, "corpus")
    for uri in sets.values():
        check_local(uri, "evaluation_set")
    tasks = parse_tasks(p.evaluation_tasks)
    if tasks and runner == "subprocess":
        check_harness()
    for entry in filter(is_folder, tasks):
        check_local(entry, "tasks")
    if p.drift_rules:
        check_local(p.drift_rules, "drift_rules")
        if where(p.drift_rules) == "local":
            load_drift_rules(local_path(p.drift_rules))
    if p.gate_rules:
        check_local(p.gate_rules, "rules")
        if all(where(uri) == "local" for uri in (p.gate_rules, *filter(is_folder, tasks))):
            load_rules(local_path(p.gate_rules), corpora, task_names(pin_tasks(p.evaluation_tasks)))
    if output.exists() and not output.is_dir():
        raise ParameterError(f"--output {output} is a file; give a folder")
    shared = shared_folder(output)
    registry = p.registry or f"sqlite:///{output.absolute().parent / 'mlflow.db'}"
    parameters = replace(
        p,
        dataset=_absolute(p.dataset),
        base_model=_absolute(p.base_model),
        template=_absolute(p.template) if own_template else p.template,
        evaluation_corpora=_all_absolute(corpora),
        evaluation_tasks=",".join(_absolute(entry) if is_folder(entry) else entry for entry in tasks),
        decontaminate=_all_absolute(sets),
        gate_rules=p.gate_rules and _absolute(p.gate_rules),
        drift_rules=p.drift_rules and _absolute(p.drift_rules),
        on_reject="continue",  # here the run itself says so at its end, when its files are in place
        ingest_cache=_local_folder(p.ingest_cache),
        checkpoints=p.checkpoints or str(shared / "checkpoints"),
        registry=registry,
    )
    settings = replace(settings, launcher="local", parameters=parameters)  # there are no TrainJobs here
    if runner == "docker":
        identify(settings)
        return settings
    # The image's name is part of every cache key: with the code's digest in it, changed code is never a hit.
    image = f"python-private-llm:{code_digest()}"
    return replace(settings, data_image=image, train_image=image)


def _absolute(uri: str) -> str:
    return str(local_path(uri)) if where(uri) == "local" else uri


def _local_folder(uri: str) -> str:
    """A folder that may not be there yet, so that its name could be a hub id's."""
    return uri if "://" in uri or not uri else str(local_path(uri))


def _all_absolute(named: dict[str, str]) -> str:
    return ",".join(f"{name}={_absolute(uri)}" for name, uri in named.items())


def run(settings: Settings, output: Path, runner: str = "subprocess") -> dict[str, Any]:
    """Runs the DAG and writes its artifacts, logs and summary.json into the output folder.

    Raises:
        StepFailedError: a step failed; with its reason and its log.
    """
    from kfp import local

    from pipeline.dag import build

    shared = shared_folder(output)
    try:
        output.mkdir(parents=True, exist_ok=True)
        (output / "summary.json").unlink(missing_ok=True)  # an earlier run's, which would outlive a failure of this one
        (shared / "artifacts").mkdir(parents=True, exist_ok=True)
    except OSError as refused:
        raise ParameterError(f"--output {output} cannot be written: {refused.strerror}") from None
    root = Path(tempfile.mkdtemp(prefix=f"{output.name}-", dir=shared / "artifacts"))
    docker = runner == "docker"
    cache = shared / (f"cache-{identify(settings)}" if docker else "cache")
    local.init(
        docker_runner(settings, output) if docker else local.SubprocessRunner(use_venv=False),
        pipeline_root=str(root),
        cache_root=str(cache),
        enable_caching=True,
    )
    pipeline = build(settings)
    with StepLog(output / "logs") as log:
        error = None
        try:
            pipeline()
        except (RuntimeError, ValueError) as raised:  # the second where outputs are missing of what kfp took for done
            error = raised
        unfinished = first_unfinished(root, log.steps) if docker else None
        if error or unfinished:
            if docker:
                forget_empty(cache)
            raise log.failure(unfinished) from error
    outputs = LocalOutputs(root, cache, log.cache_keys)
    skipped = outputs.value("resolve", "Output") == "skip"
    if skipped == ("ingest" in log.steps):  # kfp.local takes a condition that it cannot evaluate for false
        raise PipelineError("resolve's decision was not followed; this is a defect of this program or of kfp")
    joined = {"ingest": "merge", "tokenize": "join"} if settings.shards > 1 else {}
    artifacts = {
        name: collect(outputs.path(joined.get(step, step), key), output / file)
        for name, (step, key, file) in FILES.items()
        if step == "resolve" or not skipped
    }
    told = {name: outputs.value("resolve", name) for name in ("news", "unchanged", "started_from")}
    summary = summarise_unchanged(told, artifacts, log.steps) if skipped else summarise(told, artifacts, log.steps)
    write_json(output / "summary.json", summary)
    return summary


def shared_folder(output: Path) -> Path:
    """What the runs beside each other share: artifacts, cache, checkpoints."""
    return output.absolute().parent / ".pipeline"


def collect(source: Path, target: Path) -> dict[str, str]:
    """Puts an artifact into the run's folder, by hard links where the file system has them, and digests it."""
    if target.is_dir():
        shutil.rmtree(target)
    target.unlink(missing_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, copy_function=_link)
    else:
        _link(str(source), str(target))
    return {"path": str(target.absolute()), "digest": path_digest(target)}


def _link(source: str, target: str) -> str:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
    return target


if __name__ == "__main__":
    raise SystemExit(main())
