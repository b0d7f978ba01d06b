"""gate: the tuned model must beat the base model and not fall behind the champion."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.errors import ParameterError
from components.gate.gate import gate
from components.records import path_digest, read_json, write_json

figure = st.floats(0.01, 20)
share = st.floats(0, 0.99)


def run(folder: Path, tuned: float, base: float, champion: float | None = None, **limits: float) -> dict[str, Any]:
    """The verdict that gate wrote about these bits per byte."""
    models = {"tuned": tuned, "base": base} | ({} if champion is None else {"champion": champion})
    figures = {name: {"bits_per_byte": value, "perplexity": 2**value} for name, value in models.items()}
    write_json(folder / "evaluation.json", {"models": figures})
    returned = gate(evaluation=folder / "evaluation.json", verdict=folder / "verdict.json", **limits)
    verdict: dict[str, Any] = read_json(folder / "verdict.json")
    assert verdict == returned
    return verdict


@pytest.mark.parametrize(
    ("tuned", "base", "champion", "limits", "verdict"),
    [
        (0.9, 1.0, None, {}, "accepted"),
        (1.1, 1.0, None, {}, "rejected"),
        (1.0, 1.0, None, {}, "rejected"),
        (0.9, 1.0, 0.95, {}, "accepted"),
        (0.9, 1.0, 0.9, {}, "accepted"),
        (0.9, 1.0, 0.89, {}, "rejected"),
        (1.1, 1.0, 1.2, {}, "rejected"),
        (0.9, 1.0, None, {"min_improvement": 0.05}, "accepted"),
        (0.9, 1.0, None, {"min_improvement": 0.2}, "rejected"),
        (0.75, 1.0, None, {"min_improvement": 0.25}, "rejected"),
        (0.9, 1.0, 0.88, {"max_regression": 0.05}, "accepted"),
        (0.9, 1.0, 0.8, {"max_regression": 0.05}, "rejected"),
        (0.75, 1.0, 0.5, {"max_regression": 0.5}, "accepted"),
    ],
)
def test_verdicts(
    tmp_path: Path, tuned: float, base: float, champion: float | None, limits: dict[str, float], verdict: str
) -> None:
    assert run(tmp_path, tuned, base, champion, **limits)["verdict"] == verdict


@given(tuned=figure, base=figure, champion=st.none() | figure, improvement=share, regression=share)
def test_accepted_is_better_than_the_base_and_no_worse_than_the_champion(
    tmp_path: Path, tuned: float, base: float, champion: float | None, improvement: float, regression: float
) -> None:
    limits = {"min_improvement": improvement, "max_regression": regression}
    verdict = run(tmp_path, tuned, base, champion, **limits)
    better = tuned < base * (1 - improvement)
    behind = champion is not None and tuned > champion * (1 + regression)
    assert (verdict["verdict"] == "accepted") == (better and not behind)
    assert [rule["passed"] for rule in verdict["rules"]] == [better] + ([not behind] if champion is not None else [])


def test_reasons_can_be_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    verdict = run(tmp_path, 0.9, 1.0, 0.8, min_improvement=0.05, max_regression=0.1)
    assert verdict["reasons"] == [
        "improves on the base model: 0.9000 bits per byte, must be < 0.9500 (base 1.0000 less 5.0%)",
        "falls behind the champion: 0.9000 bits per byte, must be <= 0.8800 (champion 0.8000 plus 10.0%)",
    ]
    assert capsys.readouterr().out == f"gate: rejected; {'; '.join(verdict['reasons'])}\n"
    verdict = run(tmp_path, 1.0, 1.0, 1.0)
    assert verdict["reasons"] == [
        "does not improve on the base model: 1.0000 bits per byte, must be < 1.0000 (base 1.0000 less 0.0%)",
        "does not fall behind the champion: 1.0000 bits per byte, must be <= 1.0000 (champion 1.0000 plus 0.0%)",
    ]


@pytest.mark.parametrize("name", ["min_improvement", "max_regression"])
@pytest.mark.parametrize("value", [-0.01, 1, 2, float("nan"), float("inf")])
def test_a_share_out_of_bounds_is_named(tmp_path: Path, name: str, value: float) -> None:
    with pytest.raises(ParameterError, match=f"{name}={value:g} must be a share from 0 to below 1"):
        run(tmp_path, 0.9, 1.0, **{name: value})


def test_the_same_figures_give_the_same_bytes(tmp_path: Path) -> None:
    for place in ("here", "there"):
        run(tmp_path / place, 0.9, 1.0, 0.95)
    assert path_digest(tmp_path / "here" / "verdict.json") == path_digest(tmp_path / "there" / "verdict.json")
