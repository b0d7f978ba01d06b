"""One self-contained HTML page about a run. No script, nothing loaded from elsewhere."""

from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, select_autoescape

from components.errors import ParameterError
from components.records import read_json
from components.report.numbers import change, figure, span
from components.report.sections import about, costs, drawings, funnel, headline, lineage, missed, rules


def report(
    *,
    ingested: Path,
    tokenized: Path,
    divided: Path,
    trained: Path,
    curves: Path,
    evaluation: Path,
    verdict: Path,
    registered: Path,
    drifted: Path | None = None,
    pinned: dict[str, str] | None = None,
    configuration: dict[str, Any] | None = None,
    price_per_accelerator_hour: float = 0.0,
    page: Path,
) -> None:
    """Writes the report of a run.

    Args:
        ingested: ingest's counts.
        tokenized: tokenize's counts and length histogram.
        divided: split's counts.
        trained: train's throughput and sizes.
        curves: train's loss curves.
        evaluation: evaluate's figures.
        verdict: gate's verdict.
        registered: What register registered.
        drifted: What drift found.
        pinned: What resolve pinned, for the lineage.
        configuration: The run's parameters, for the lineage.
        price_per_accelerator_hour: What an hour of a training process costs, in any currency; 0: no price is shown.
        page: Where to write the page (HTML).

    Raises:
        ParameterError: a negative price.
    """
    if price_per_accelerator_hour < 0:
        raise ParameterError(f"price_per_accelerator_hour={price_per_accelerator_hour:g} must be at least 0")
    data, tokens, sides, training = (read_json(path) for path in (ingested, tokenized, divided, trained))
    figures, decision, entry = read_json(evaluation), read_json(verdict), read_json(registered)
    drift = read_json(drifted) if drifted else None
    html = (
        _environment()
        .get_template("page.html")
        .render(
            data=data,
            tokens=tokens,
            figures=figures,
            verdict=decision,
            missed=missed(decision),
            rules=rules(decision["rules"]),
            about=about(pinned or {}, configuration or {}),
            headline=headline(figures, sides, training, price_per_accelerator_hour),
            registered=entry,
            drift=drift,
            funnel=funnel(data, tokens, sides),
            costs=costs(training, price_per_accelerator_hour),
            plots=drawings(data, tokens, sides, read_json(curves), figures, drift),
            lineage=lineage(pinned or {}, data.get("license", ""), entry),
            configuration=configuration or {},
        )
    )
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(html, encoding="utf-8")
    print(f"report: written, {page.stat().st_size // 1024} KiB")


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("components.report"), autoescape=select_autoescape(), trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"figure": figure, "span": span, "change": change, "share": lambda value: f"{value:.1%}"}
    return environment
