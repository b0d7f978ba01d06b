"""What submit compare reads from logs is what the steps print."""

from pathlib import Path

from pipeline.compare import FIGURES, figures_in


def test_a_perplexity_that_no_number_holds_is_a_dash() -> None:
    said = figures_in("evaluate", ["evaluate: tuned perplexity –, 987.6543 bits per byte"])
    assert said == {"evaluate.tuned.perplexity": "–", "evaluate.tuned.bits_per_byte": "987.6543"}


def test_every_figure_is_found_in_the_logs_of_a_run(trained: Path) -> None:
    found: dict[str, str] = {}
    for step in FIGURES:
        lines = (trained / "logs" / f"{step}.log").read_text(encoding="utf-8").splitlines()
        figures = figures_in(step, lines)
        assert figures, f"{step} printed none: {lines}"
        found |= figures
    assert int(found["ingest.rows"]) == 300
    assert {"split.train", "train.loss", "gate.verdict"} <= set(found)
    models = {name.split(".")[1] for name in found if name.endswith(".perplexity")}
    assert {"base", "tuned", "base on wikitext"} <= models
