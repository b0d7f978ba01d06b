"""The model card: what the model is, what it was made from, how good it is and what it is not for."""

from typing import Any

from huggingface_hub import ModelCard, ModelCardData

TEMPLATE = """\
---
{{ card_data }}
---

# {{ name }}

A language model fine-tuned from `{{ lineage.base_model }}` on the organisation's own instructions and answers
({{ train }} records; template `{{ template }}`, stop token `{{ stop }}`).

## Evaluation

Held-out records: {{ records }}. Perplexity is exp(sum of NLL / number of target tokens), over answers and their stop
token alone.

| model | perplexity (95 % interval) | bits per byte |
|---|---|---|
{% for name, figures in models.items() -%}
| {{ name }} | {{ "%.3f (%.3f to %.3f)" | format(figures.perplexity, *figures.perplexity_interval) }} \
| {{ "%.4f" % figures.bits_per_byte }} |
{% endfor %}
Gate: {{ verdict.verdict }}. {{ verdict.reasons | join("; ") }}.

## Intended use and limits

Answers to questions like those in its training data, inside the organisation that trained it. It can be wrong with
confidence, it knows nothing that came after its data, and its training data may hold what the data's
source holds: check before you act on an answer or show one outside.

## Lineage

| what | value |
|---|---|
{% for name, value in lineage.items() -%}
| {{ name }} | `{{ value }}` |
{% endfor %}
"""


def model_card(*, name: str, license: str, **values: Any) -> str:
    """The card's text, in the hub's format with YAML front matter."""
    # A licence outside the hub's list is "other" with the name beside it.
    known = license.lower()
    data = ModelCardData(
        language=None,
        license=known if known in HUB_LICENSES else "other",
        tags=["text-generation"],
        library_name="transformers",
    )
    if known not in HUB_LICENSES:
        data.license_name = license
    return str(ModelCard.from_template(data, template_str=TEMPLATE, name=name, **values))


HUB_LICENSES = ("apache-2.0", "mit", "cc0-1.0", "cc-by-4.0", "cc-by-sa-3.0", "cc-by-sa-4.0", "cc-by-nc-4.0", "unknown")
