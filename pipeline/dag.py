"""The pipeline: what happens, in order."""

from typing import Any

from kfp import dsl

from components.drift.component import admit, drift
from components.evaluate.component import evaluate
from components.gate.component import enforce, gate
from components.ingest.component import ingest
from components.join.component import join
from components.merge.component import merge
from components.notify.component import notify
from components.register.component import register
from components.report.component import report
from components.resolve.component import resolve
from components.split.component import split
from components.tokenize.component import tokenize
from components.train.component import TRAIN
from components.train.config import TRAINING_PARAMETERS
from pipeline.kfp_glue import Placement, anything_new, as_pipeline, in_shards
from pipeline.settings import Settings

# What only says where things are, or what a report shows; everything else decides what the result is.
NOT_CONFIGURATION = (
    *("dataset", "base_model", "evaluation_corpora", "evaluation_tasks", "decontaminate", "gate_rules", "registry"),
    *("checkpoints", "ingest_cache", "on_reject", "include_samples", "price_per_accelerator_hour"),
    *("on_unchanged", "on_drift", "drift_rules"),
)
# What resolve pinned that is no part of a model's lineage, or no text (corpora, tasks): KFP puts values into JSON as
# they are.
NOT_LINEAGE = (
    *("corpora", "tasks", "decontaminate", "decontaminate_digest", "gate_rules", "gate_rules_digest"),
    *("drift_rules", "drift_rules_digest", "start", "inputs", "unchanged", "news", "notice", "Output"),
)


def build(settings: Settings) -> Any:
    """The KFP pipeline of a profile."""
    on = Placement(settings)

    def private_llm(p: dict[str, Any]) -> None:
        """Turn an organisation's own instruction records into its own language model."""
        configuration = {name: value for name, value in p.items() if name not in NOT_CONFIGURATION}

        ended = on(
            notify(
                run_id=dsl.PIPELINE_JOB_ID_PLACEHOLDER,
                registry=p["registry"],
                model_name=p["model_name"],
                ui=settings.ui,
            )
        ).set_caching_options(False)
        with dsl.ExitHandler(ended, name="run"):
            pinned = on(
                resolve(
                    dataset=p["dataset"],
                    base_model=p["base_model"],
                    template=p["template"],
                    license=p["license"],
                    registry=p["registry"],
                    model_name=p["model_name"],
                    evaluation_corpora=p["evaluation_corpora"],
                    evaluation_tasks=p["evaluation_tasks"],
                    decontaminate=p["decontaminate"],
                    gate_rules=p["gate_rules"],
                    drift_rules=p["drift_rules"],
                    start_from=p["start_from"],
                    on_unchanged=p["on_unchanged"],
                    configuration=configuration,
                    run_id=dsl.PIPELINE_JOB_ID_PLACEHOLDER,
                )
            ).set_caching_options(False)
            pins = pinned.outputs
            base = {name: pins[name] for name in ("base_model", "base_model_digest")}
            lineage = {name: pins[name] for name in pins if name not in NOT_LINEAGE}

            with dsl.If(anything_new(pinned), name="something-is-new"):
                data = in_shards(
                    on,
                    settings.shards,
                    ingest,
                    merge,
                    {"prepared_shards": "records"},
                    dataset=pins["dataset"],
                    dataset_digest=pins["dataset_digest"],
                    columns=p["columns"],
                    license=p["license"],
                    max_reject_fraction=p["max_reject_fraction"],
                    cleaning=p["cleaning"],
                    pii=p["pii"],
                    pii_names=p["pii_names"],
                    near_duplicates=p["near_duplicates"],
                    decontaminate=pins["decontaminate"],
                    decontaminate_digest=pins["decontaminate_digest"],
                    ingest_cache=p["ingest_cache"],
                )

                drifted = on(
                    drift(
                        records=data["records"],
                        ingested=data["metrics"],
                        near_duplicates=p["near_duplicates"],
                        champion=pins["champion"],
                        registry=p["registry"],
                        model_name=p["model_name"],
                        rules=pins["drift_rules"],
                        rules_digest=pins["drift_rules_digest"],
                        precision=p["eval_precision"],
                        batch_size=p["per_device_eval_batch_size"],
                        trust_remote_code=p["trust_remote_code"],
                    )
                ).outputs
                admitted = on(
                    admit(
                        drift=drifted["metrics"],
                        on_drift=p["on_drift"],
                        dataset_digest=pins["dataset_digest"],
                        registry=p["registry"],
                        model_name=p["model_name"],
                    )
                )

                encoded = in_shards(
                    on,
                    settings.shards,
                    tokenize,
                    join,
                    {"token_shards": "tokens", "tokenizer_shards": "tokenizer", "metric_shards": "metrics"},
                    records=data["records"],
                    template=pins["template"],
                    template_digest=pins["template_digest"],
                    max_length=p["max_length"],
                    too_long=p["too_long"],
                    trust_remote_code=p["trust_remote_code"],
                    **base,
                )

                sides = on(
                    split(records=data["records"], tokens=encoded["tokens"], test_size=p["test_size"], seed=p["seed"])
                ).outputs

                tuned = on(
                    TRAIN[settings.launcher](
                        train=sides["train"],
                        test=sides["test"],
                        tokenizer=encoded["tokenizer"],
                        settings={name: p[name] for name in TRAINING_PARAMETERS},
                        checkpoints=p["checkpoints"],
                        launcher=settings.launch(),
                        start=pins["start"],
                        **base,
                    ).after(admitted)
                ).outputs

                scored = on(
                    evaluate(
                        records=data["records"],
                        test=sides["test"],
                        model=tuned["model"],
                        champion=pins["champion"],
                        registry=p["registry"],
                        model_name=p["model_name"],
                        corpora=pins["corpora"],
                        stride=p["evaluation_stride"],
                        prompts=p["evaluation_prompts"],
                        tasks=pins["tasks"],
                        precision=p["eval_precision"],
                        batch_size=p["per_device_eval_batch_size"],
                        include_samples=p["include_samples"],
                        trust_remote_code=p["trust_remote_code"],
                        **base,
                    )
                ).outputs

                decision = on(
                    gate(
                        evaluation=scored["evaluation"],
                        rules=pins["gate_rules"],
                        rules_digest=pins["gate_rules_digest"],
                        min_improvement=p["min_improvement"],
                        max_regression=p["max_regression"],
                    )
                ).outputs

                entry = on(
                    register(
                        model=tuned["model"],
                        train=sides["train"],
                        test=sides["test"],
                        curves=tuned["curves"],
                        evaluation=scored["evaluation"],
                        verdict=decision["verdict"],
                        profile=drifted["profile"],
                        inputs=pins["inputs"],
                        configuration=configuration,
                        pinned=lineage,
                        license=pins["license"],
                        registry=p["registry"],
                        model_name=p["model_name"],
                    )
                ).outputs

                page = on(
                    report(
                        ingested=data["metrics"],
                        drifted=drifted["metrics"],
                        tokenized=encoded["metrics"],
                        divided=sides["metrics"],
                        trained=tuned["metrics"],
                        curves=tuned["curves"],
                        evaluation=scored["evaluation"],
                        verdict=decision["verdict"],
                        registered=entry["registered"],
                        pinned=lineage,
                        configuration=configuration,
                        price_per_accelerator_hour=p["price_per_accelerator_hour"],
                    )
                ).outputs

                with dsl.If(p["on_reject"] == "fail"):
                    on(enforce(verdict=decision["verdict"], page=page["page"]))

    return as_pipeline(private_llm, settings)
