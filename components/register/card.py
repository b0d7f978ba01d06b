"""The model card: what the model is, what it was made from, how good it is and what it is not for."""

from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from components.register.lineage import card_name, hub_id

TEMPLATE = """\
---
{{ card_data }}
---

# {{ name }}

A language model fine-tuned from `{{ lineage.base_model }}` on the organisation's own instructions and answers
({{ lineage.train_records }} records; template `{{ lineage.template }}`, stop token `{{ stop }}`).
Training began with the weights of \
{% if lineage.started_from %}version {{ lineage.started_from.partition(":")[0] }} of this model, which was tuned \
from that base model before.{% else %}the base model.{% endif %}


## Evaluation

Held-out records: {{ records }}. Perplexity is exp(sum of NLL / number of target tokens), over answers and their stop
token alone.

| model | perplexity (95 % interval) | bits per byte |
|---|---|---|
{% for name, figures in models.items() -%}
| {{ name }} | {{ "–" if figures.perplexity is none else "%.3f" % figures.perplexity }}\
{% if figures.perplexity_interval %} ({{ "%.3f to %.3f" | format(*figures.perplexity_interval) }}){% endif %} \
| {{ "%.4f" % figures.bits_per_byte }} |
{% endfor %}
{% for title, corpus in corpora.items() %}
{%- if loop.first %}
| text | model | word perplexity | bits per byte |
|---|---|---|---|
{% endif -%}
{% for name, figures in corpus.models.items() -%}
| {{ title }} | {{ name }} | {{ "%.3f" % figures.word_perplexity if figures.word_perplexity else "–" }} \
| {{ "%.4f" % figures.bits_per_byte }} |
{% endfor %}
{%- endfor %}
{% for task, metrics in tasks.items() %}
{%- if loop.first %}
| task (lm-evaluation-harness) | metric | model | value | standard error |
|---|---|---|---|---|
{% endif -%}
{% for metric, found in metrics.items() %}
{%- for name, score in found.models.items() -%}
| {{ task }} | {{ metric }} | {{ name }} | {{ "%.4f" % score.value }} \
| {{ "%.4f" % score.stderr if score.stderr is not none else "" }} |
{% endfor %}
{%- endfor %}
{%- endfor %}
Gate: {{ verdict.verdict }}. {{ verdict.reasons | join("; ") }}.

## Intended use

Answers to questions like those in its training data, inside the organisation that trained it.

## Limits

It can be wrong with confidence, and it knows nothing that came after its data. Its training data may hold what the
data's source holds: check before you act on an answer or show one outside. Figures are of the held-out records above
and of no other use. The licence in the header is the dataset's; the base model's own licence holds as well.

## Lineage

| what | value |
|---|---|
{% for name, value in lineage.items() -%}
| {{ name }} | `{{ value }}` |
{% endfor %}
"""
# Of the hub's list, those of data sets and models; any other is "other" with the name beside it.
HUB_LICENSES = (
    *("apache-2.0", "mit", "bsd", "bsd-2-clause", "bsd-3-clause", "afl-3.0", "isc", "unlicense", "mpl-2.0", "wtfpl"),
    *("cc", "cc0-1.0", "cc-by-2.0", "cc-by-2.5", "cc-by-3.0", "cc-by-4.0", "cc-by-sa-3.0", "cc-by-sa-4.0"),
    *("cc-by-nc-2.0", "cc-by-nc-3.0", "cc-by-nc-4.0", "cc-by-nd-4.0", "cc-by-nc-nd-3.0", "cc-by-nc-nd-4.0"),
    *("cc-by-nc-sa-2.0", "cc-by-nc-sa-3.0", "cc-by-nc-sa-4.0", "odc-by", "odbl", "pddl", "unknown"),
    *("cdla-sharing-1.0", "cdla-permissive-1.0", "cdla-permissive-2.0", "gpl-2.0", "gpl-3.0", "lgpl-3.0", "agpl-3.0"),
    *("openrail", "bigscience-openrail-m", "llama2", "llama3", "llama3.1", "llama3.2", "llama3.3", "gemma"),
)


def model_card(*, name: str, license: str, lineage: dict[str, Any], models: dict[str, Any], **values: Any) -> str:
    """The card's text, in the hub's format with YAML front matter."""
    listed = license.lower() in HUB_LICENSES
    dataset = hub_id(lineage["dataset"])
    data = ModelCardData(
        license=license.lower() if listed else "other",
        license_name=None if listed else license,
        base_model=card_name(lineage["base_model"]),
        datasets=[card_name(lineage["dataset"])],
        metrics=["perplexity", "bits_per_byte"],
        tags=["text-generation"],
        library_name="transformers",
        model_name=name,
        eval_results=_results(dataset, models["tuned"]),
    )
    card = ModelCard.from_template(
        data, template_str=TEMPLATE, name=name, lineage=lineage, models=models, license=license, **values
    )
    return str(card)


def _results(dataset: str | None, figures: dict[str, Any]) -> list[EvalResult]:
    return [
        EvalResult(
            task_type="text-generation",
            dataset_type=dataset or "private",
            dataset_name=f"{dataset or 'private'}, held-out records",
            metric_type=metric,
            metric_name=metric.replace("_", " "),
            metric_value=round(figures[metric], 6),
        )
        for metric in ("perplexity", "bits_per_byte")
        if figures[metric] is not None
    ]
