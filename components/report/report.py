"""One self-contained HTML page about a run. No script, nothing loaded from elsewhere."""

from pathlib import Path

from jinja2 import Environment, PackageLoader, select_autoescape

from components.records import read_json
from components.report.plots import bars, curve, length_histogram


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
        page: Where to write the page (HTML).
    """
    data, tokens, sides, training = (read_json(path) for path in (ingested, tokenized, divided, trained))
    figures = read_json(evaluation)
    models = figures["models"]
    removed = {**data["removed"], **tokens["removed"], **sides["removed"]}
    plots = {
        "loss": curve(read_json(curves)),
        "lengths": length_histogram(tokens["lengths"], tokens["max_length"]),
        "rejects": bars("rows", {"rejected": data["rejected"], "removed": removed}),
        "categories": bars("perplexity", {name: models[name]["categories"] for name in models}),
    }
    environment = Environment(
        loader=PackageLoader("components.report"), autoescape=select_autoescape(), trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["percent"] = lambda share: f"{share:.1%}"
    html = environment.get_template("page.html").render(
        data=data,
        tokens=tokens,
        sides=sides,
        training=training,
        figures=figures,
        models=models,
        removed=removed,
        verdict=read_json(verdict),
        registered=read_json(registered),
        plots=plots,
    )
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(html, encoding="utf-8")
    print(f"report: written, {page.stat().st_size // 1024} KiB")
