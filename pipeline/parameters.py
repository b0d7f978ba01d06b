"""The pipeline's parameters: what a person chooses per run. The KFP UI, `--param` and the README read this table."""

import math
from dataclasses import Field, dataclass, field, fields
from typing import Any

from components.corpora import parse_corpora
from components.datasets import parse_columns
from components.drift.drift import ON_DRIFT
from components.errors import ParameterError
from components.evaluate.subjects import PRECISIONS as EVAL_PRECISIONS
from components.gate.gate import ON_REJECT
from components.ingest.cleaning import SWITCHES, parse_cleaning
from components.ingest.privacy import POLICIES
from components.registry import check_address
from components.repeats import check_similarity
from components.resolve.news import ON_UNCHANGED, START_FROM
from components.sources import check_uri
from components.split.split import test_fraction
from components.tasks import parse_tasks
from components.templates import check_template
from components.tokenize.tokenize import TOO_LONG
from components.train.config import (
    METHODS,
    NO_NEW_TOKENS,
    OFFLOADS,
    PRECISIONS,
    SCHEDULES,
    check_offload,
    check_precision,
)

# What names one file or folder, or one place in a store.
PLACES = ("dataset", "base_model", "template", "gate_rules", "drift_rules", "checkpoints", "ingest_cache")
QUOTED = "; put on, off, yes and no into quotes, YAML reads them as true or false"


def parameter(
    default: Any,
    description: str,
    *,
    choices: tuple[Any, ...] | None = None,
    minimum: float | None = None,
    above: float | None = None,
    below: float | None = None,
) -> Any:
    """A field with what the UI shows and what a value must be."""
    limits = {"choices": choices, "minimum": minimum, "above": above, "below": below}
    return field(default=default, metadata={"description": description, **limits})


@dataclass(frozen=True, kw_only=True)
class Parameters:
    """Values of one run.

    Raises:
        ParameterError: a value has the wrong type or is not allowed; the message names it and what is.
    """

    dataset: str = parameter(
        "databricks/databricks-dolly-15k",
        "Records: a hub id (org/name@revision:split), a file, folder or glob by path or URI, or a YAML list of these.",
    )
    base_model: str = parameter(
        "EleutherAI/pythia-2.8b",
        "The model to start from: a hub id (org/name@revision), a folder, or a URI of one, in safetensors.",
    )
    trust_remote_code: bool = parameter(
        False, "Run Python code that the base model's folder brings; read it first. Recorded with the version."
    )
    model_name: str = parameter("private-llm", "Name under which accepted models are registered.")
    columns: str = parameter(
        "",
        "Where the fields stand when their columns have other names: instruction=question,response=answer; "
        "messages=dialogue; text=body.",
    )
    license: str = parameter(
        "unknown", "Licence of what names none of its own, carried to the model card, such as cc-by-sa-3.0."
    )
    max_reject_fraction: float = parameter(
        0.1, "Share of rows that may be invalid before the run fails.", minimum=0, below=1
    )
    cleaning: str = parameter(
        ",".join(SWITCHES),
        "What is cleaned in every record: control characters, whitespace, reference marks such as [1], Unicode NFC.",
    )
    pii: str = parameter(
        "redact",
        "Personal data and secrets: redact (placeholders such as [EMAIL_1]), drop (the record), report (count) or off.",
        choices=POLICIES,
    )
    pii_names: str = parameter(
        "", "A function in the image that also finds people's names, package.module:function; empty: none."
    )
    near_duplicates: float = parameter(
        0.7, "From this similarity on (0.5 to 1) a record repeats an earlier one and is removed; 0: none is.", minimum=0
    )
    decontaminate: str = parameter(
        "",
        "Evaluation sets to keep out, written as evaluation_corpora is: a record with 13 words in a row of one goes.",
    )
    ingest_cache: str = parameter(
        "",
        "Folder or URI that outlives the run, where prepared rows are kept by their content: of data that grew only "
        "what is new is prepared; empty: none are.",
    )
    template: str = parameter(
        "dolly",
        "How a record is put to the model: dolly, base for the base model's own chat template, "
        "or the path or URI of a Jinja chat template (*.jinja).",
    )
    max_length: int = parameter(
        0,
        "A record fits if it has fewer tokens; 0: what the model was built for, at most 2048.",
        minimum=0,
    )
    too_long: str = parameter(
        "drop",
        "What becomes of a record that does not fit: drop it; truncate_context, and drop it if that is not enough; "
        "or error. Counted by category.",
        choices=TOO_LONG,
    )
    test_size: float = parameter(
        0.1,
        "Below 1: the fraction held out. From 1: at most that many records, taken from a tenth that is held out.",
        above=0,
    )
    seed: int = parameter(42, "Seed of split, order and initialisation.", minimum=0)
    start_from: str = parameter(
        "base",
        "The weights that training begins with: the base model's, or the registered champion's where there is one.",
        choices=START_FROM,
    )
    method: str = parameter(
        "full", "full: every weight is trained; lora: adapters, merged at the end.", choices=METHODS
    )
    epochs: float = parameter(2.0, "Passes over the training records.", above=0)
    learning_rate: float = parameter(5e-6, "Peak learning rate; for lora about 2e-4.", above=0)
    lr_scheduler: str = parameter("constant_with_warmup", "Learning-rate schedule.", choices=SCHEDULES)
    warmup_steps: int = parameter(50, "Optimizer steps until the peak learning rate.", minimum=0)
    weight_decay: float = parameter(0.0, "AdamW's weight decay.", minimum=0)
    per_device_batch_size: int = parameter(6, "Records that a GPU takes at a time.", minimum=1)
    per_device_eval_batch_size: int = parameter(6, "Held-out records that a GPU takes at a time.", minimum=1)
    gradient_accumulation_steps: int = parameter(1, "Batches that a GPU takes before an optimizer step.", minimum=1)
    gradient_checkpointing: bool = parameter(
        True, "Recompute activations in the backward pass: less memory, more time."
    )
    precision: str = parameter("bf16", "Number format of training: bf16, fp16 (V100) or fp32.", choices=PRECISIONS)
    zero_stage: int = parameter(3, "DeepSpeed ZeRO stage.", choices=(0, 1, 2, 3))
    num_nodes: int = parameter(1, "Nodes that train together; more than 1 need a profile with TrainJobs.", minimum=1)
    nproc_per_node: int = parameter(0, "Training processes on a node; 0: one a GPU.", minimum=0)
    lora_rank: int = parameter(16, "Rank of the adapters.", minimum=1)
    lora_alpha: int = parameter(32, "Scale of the adapters.", minimum=1)
    save_adapters: bool = parameter(False, "LoRA: keep the adapters by themselves too, in the model's folder.")
    logging_steps: int = parameter(10, "Optimizer steps between points of the loss curve.", minimum=1)
    eval_steps: int = parameter(50, "Optimizer steps between points of the held-out curve; 0: one an epoch.", minimum=0)
    checkpoints: str = parameter(
        "",
        "Folder or URI that outlives the run, for checkpoints to resume from; empty: the installation's, or none.",
    )
    save_steps: int = parameter(200, "Optimizer steps between checkpoints.", minimum=1)
    save_total_limit: int = parameter(3, "Checkpoints to keep; the best one stays besides.", minimum=1)
    early_stopping_patience: int = parameter(
        0,
        "Held-out evaluations in a row without a lower loss that end the training with the best weights; 0: never.",
        minimum=0,
    )
    offload: str = parameter(
        "none", "What ZeRO keeps in the host's memory; parameters means the optimizer's state too.", choices=OFFLOADS
    )
    grace_seconds: int = parameter(120, "Seconds for a last checkpoint after SIGTERM.", minimum=0)
    eval_precision: str = parameter("fp32", "Number format of the evaluation.", choices=EVAL_PRECISIONS)
    evaluation_corpora: str = parameter(
        "",
        "Texts that are scored beside the test records, so that forgetting shows: name=path or URI of a txt, jsonl or "
        "parquet file (with text), separated by commas.",
    )
    evaluation_stride: int = parameter(
        0, "Tokens between the windows over these texts; 0: windows that do not overlap.", minimum=0, below=2048
    )
    evaluation_prompts: int = parameter(
        8, "Test questions that each model answers, to see whether it stops, repeats or is silent; 0: none.", minimum=0
    )
    evaluation_tasks: str = parameter(
        "",
        "Tasks of lm-evaluation-harness that each model does: names, or folders of task files by path or URI (with a "
        "slash), separated by commas.",
    )
    include_samples: bool = parameter(
        False, "Show test questions with the models' answers, and the worst records. This is record text."
    )
    gate_rules: str = parameter(
        "", "Rules by which a model is accepted: a YAML file, by path or URI; empty: those that are shipped."
    )
    min_improvement: float = parameter(
        0.0, "Share by which bits per byte must at worst fall below the base model's.", minimum=0, below=1
    )
    max_regression: float = parameter(
        0.01, "Share by which bits per byte may at worst exceed the champion's.", minimum=0, below=1
    )
    on_reject: str = parameter(
        "continue",
        "What a rejected model does to its run; it is not registered either way.",
        choices=ON_REJECT,
    )
    on_unchanged: str = parameter(
        "skip",
        "What a run does whose data and configuration were trained on before: skip the rest, or run all the same.",
        choices=ON_UNCHANGED,
    )
    drift_rules: str = parameter(
        "", "Rules by which new data is judged: a YAML file, by path or URI; empty: those that are shipped."
    )
    on_drift: str = parameter(
        "continue", "What new data that breaks such a rule does to its run, before training.", choices=ON_DRIFT
    )
    price_per_accelerator_hour: float = parameter(
        0.0, "What an hour of a training process costs, in any currency, for the report; 0: not shown.", minimum=0
    )
    registry: str = parameter(
        "http://mlflow:5000",
        "Model registry: http(s)://HOST or sqlite:///FILE (MLflow), or kubeflow://HOST:PORT?artifacts=URI.",
    )

    def __post_init__(self) -> None:
        for entry in fields(self):
            _check(entry, getattr(self, entry.name))
        parse_columns(self.columns)
        check_template(self.template)
        parse_cleaning(self.cleaning)
        check_similarity(self.near_duplicates)
        test_fraction(self.test_size)
        parse_tasks(self.evaluation_tasks)
        places = [(name, getattr(self, name)) for name in PLACES]
        for name in ("evaluation_corpora", "decontaminate"):
            places += [(name, uri) for uri in parse_corpora(getattr(self, name), name).values()]
        for name, uri in places:
            check_uri(name, uri)
        if self.registry:  # a local run fills in its own
            check_address(self.registry)
        for name in ("dataset", "base_model", "model_name"):
            if not getattr(self, name):
                raise ParameterError(f"{name} must not be empty")
        if {"/", ":"} & set(self.model_name):
            raise ParameterError(f"model_name={self.model_name!r} must hold no / and no :, which no registry takes")
        if self.method == "lora" and self.template == "dolly" and self.zero_stage == 3:
            raise ParameterError(f"zero_stage=3 is not allowed with method=lora and template=dolly: {NO_NEW_TOKENS}")
        check_offload(self.offload, self.zero_stage)
        check_precision(self.precision, self.zero_stage)

    @classmethod
    def parse(cls, texts: dict[str, str], defaults: dict[str, Any] | None = None) -> "Parameters":
        """From name=value texts of a command line, over a profile's values."""
        given = {name: _parse(_field(cls, name), text) for name, text in texts.items()}
        return cls(**{_field(cls, name).name: value for name, value in (defaults or {}).items()} | given)


def allowed(entry: "Field[Any]") -> str:
    """What a parameter may be, in Markdown."""
    if entry.type is bool:
        return "`true`, `false`"
    if entry.metadata["choices"]:
        return ", ".join(f"`{choice}`" for choice in entry.metadata["choices"])
    kind = {str: "text", int: "whole number", float: "number"}[entry.type]  # type: ignore[index]
    limits = _limits(entry)
    return f"{kind},{limits}" if limits else kind


def _field(cls: type[Parameters], name: str) -> "Field[Any]":
    by_name = {entry.name: entry for entry in fields(cls)}
    if name not in by_name:
        raise ParameterError(f"unknown parameter {name!r}; allowed: {', '.join(by_name)}")
    return by_name[name]


def _parse(entry: "Field[Any]", text: str) -> Any:
    if entry.type is bool:
        if text.lower() not in ("true", "false"):
            raise ParameterError(f"{entry.name}={text!r} must be true or false")
        return text.lower() == "true"
    try:
        return entry.type(text)  # type: ignore[operator]
    except ValueError:
        kind = "a whole number" if entry.type is int else "a number"
        raise ParameterError(f"{entry.name}={text!r} must be {kind}{_limits(entry)}") from None


def _check(entry: "Field[Any]", value: Any) -> None:
    expected = (int, float) if entry.type is float else entry.type
    if not isinstance(value, expected) or (entry.type is not bool and isinstance(value, bool)):  # type: ignore[arg-type]
        hint = QUOTED if entry.type is str and isinstance(value, bool) else ""
        raise ParameterError(f"{entry.name}={value!r} must be of type {entry.type.__name__}{hint}")  # type: ignore[union-attr]
    limits = entry.metadata
    if isinstance(value, str):
        # KFP puts values into JSON text as they are
        allowed = limits["choices"] is None or value in limits["choices"]
        allowed = allowed and not any(character in '"\\' or ord(character) < ord(" ") for character in value)
    elif limits["choices"] is not None:
        allowed = value in limits["choices"]
    else:
        allowed = math.isfinite(value)
        allowed = allowed and (limits["minimum"] is None or value >= limits["minimum"])
        allowed = allowed and (limits["above"] is None or value > limits["above"])
        allowed = allowed and (limits["below"] is None or value < limits["below"])
    if not allowed:
        must = _limits(entry) or " text without quotes, backslashes and line breaks or other control characters"
        raise ParameterError(f"{entry.name}={value!r} is not allowed; it must be{must}")


def _limits(entry: "Field[Any]") -> str:
    limits = entry.metadata
    if limits["choices"]:
        return " one of " + ", ".join(map(str, limits["choices"]))
    parts = [("at least", limits["minimum"]), ("above", limits["above"]), ("below", limits["below"])]
    words = [f"{word} {value:g}" for word, value in parts if value is not None]
    return (" " if words else "") + " and ".join(words)
