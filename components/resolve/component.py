"""resolve as a KFP component. Never cached: it is what finds out whether anything has changed."""

from typing import NamedTuple

from kfp.dsl import Markdown, Output

from components.kfp_step import step


@step
def resolve(
    dataset: str,
    base_model: str,
    template: str,
    license: str,
    registry: str,
    model_name: str,
    evaluation_corpora: str,
    evaluation_tasks: str,
    decontaminate: str,
    gate_rules: str,
    drift_rules: str,
    start_from: str,
    on_unchanged: str,
    configuration: dict,  # type: ignore[type-arg]  # KFP knows the bare dict only
    run_id: str,
    notice: Output[Markdown],
) -> NamedTuple(  # type: ignore[valid-type]
    "Resolved",
    [
        ("Output", str),  # run or skip; kfp.local finds an output that a condition asks for by this name alone
        ("dataset", str),
        ("dataset_digest", str),
        ("base_model", str),
        ("base_model_digest", str),
        ("template", str),
        ("template_digest", str),
        ("license", str),
        ("corpora", dict),
        ("tasks", dict),
        ("decontaminate", str),
        ("decontaminate_digest", str),
        ("gate_rules", str),
        ("gate_rules_digest", str),
        ("drift_rules", str),
        ("drift_rules_digest", str),
        ("champion", str),
        ("started_from", str),
        ("start", dict),
        ("inputs", dict),
        ("registry_id", str),
        ("run_digest", str),
        ("unchanged", str),
        ("news", str),
    ],
):
    """Pin the dataset, the base model, the template and the champion to digests; find out whether anything is new."""
    from pathlib import Path

    from components.resolve.resolve import resolve as run

    resolved = run(
        dataset=dataset,
        base_model=base_model,
        template=template,
        license=license,
        registry=registry,
        model_name=model_name,
        evaluation_corpora=evaluation_corpora,
        evaluation_tasks=evaluation_tasks,
        decontaminate=decontaminate,
        gate_rules=gate_rules,
        drift_rules=drift_rules,
        start_from=start_from,
        on_unchanged=on_unchanged,
        configuration=configuration,
        run_id=run_id,
        notice=Path(notice.path),
    )
    return tuple(resolved)  # by their order: the first has a name of its own here
