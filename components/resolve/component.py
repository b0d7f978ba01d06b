"""resolve as a KFP component. Never cached: it is what finds out whether anything has changed."""

from typing import NamedTuple

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
    configuration: dict,  # type: ignore[type-arg]  # KFP knows the bare dict only
) -> NamedTuple(  # type: ignore[valid-type]
    "Resolved",
    [
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
        ("champion", str),
        ("registry_id", str),
        ("run_digest", str),
    ],
):
    """Pin the dataset, the base model, the template and the champion to digests."""
    from components.resolve.resolve import resolve as run

    return run(
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
        configuration=configuration,
    )
