"""gate: a model is accepted by rules that anybody can read, and the verdict says what each of them found."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from components.errors import ParameterError, PipelineError
from components.gate.gate import SHIPPED, enforce, gate
from components.records import path_digest, read_json, write_json
from components.rules import load_rules

BETTER = {"rule": "better", "against": "base", "min_improvement": 0.0}
share = st.floats(0, 0.99)


def compared(tuned: float, other: float, spread: float | None) -> dict[str, Any]:
    """What evaluate says of two models: the ratio, and an interval that reaches `spread` to both sides."""
    ratio = tuned / other
    return {
        "bits_per_byte_ratio": ratio,
        "interval": None if spread is None else [ratio * (1 - spread), ratio * (1 + spread)],
    }


def figures(bits: dict[str, float], spread: float | None = 0.0) -> dict[str, Any]:
    """Bits per byte of the models on one set of texts, in evaluate's form."""
    return {
        "models": {
            name: {"bits_per_byte": value, "byte_perplexity": 2**value, "word_perplexity": None}
            for name, value in bits.items()
        },
        "tuned_over": {name: compared(bits["tuned"], value, spread) for name, value in bits.items() if name != "tuned"},
    }


def evaluation(tuned: float = 0.9, base: float = 1.0, champion: float | None = None, **more: Any) -> dict[str, Any]:
    bits = {"tuned": tuned, "base": base} | ({} if champion is None else {"champion": champion})
    spread = more.pop("spread", 0.0)
    return {**figures(bits, spread), "corpora": {}, "tasks": {}, "generation": {"models": {}}, **more}


def run(folder: Path, content: dict[str, Any], rules: Any = None, **shares: float) -> dict[str, Any]:
    """The verdict that gate wrote about these figures."""
    write_json(folder / "evaluation.json", content)
    path = ""
    if rules is not None:
        path = str(folder / "rules.yaml")
        Path(path).write_text(rules if isinstance(rules, str) else yaml.safe_dump(rules), encoding="utf-8")
    returned = gate(
        evaluation=folder / "evaluation.json",
        rules=path,
        min_improvement=shares.get("min_improvement", 0.0),
        max_regression=shares.get("max_regression", 0.0),
        verdict=folder / "verdict.json",
        panel=folder / "verdict.md",
    )
    verdict: dict[str, Any] = read_json(folder / "verdict.json")
    assert verdict == returned
    return verdict


@pytest.mark.parametrize(
    ("tuned", "champion", "shares", "verdict"),
    [
        (0.9, None, {}, "accepted"),
        (1.1, None, {}, "rejected"),
        (1.0, None, {}, "rejected"),
        (0.9, 0.95, {}, "accepted"),
        (0.9, 0.9, {}, "accepted"),
        (0.9, 0.89, {}, "rejected"),
        (1.1, 1.2, {}, "rejected"),
        (0.9, None, {"min_improvement": 0.05}, "accepted"),
        (0.9, None, {"min_improvement": 0.2}, "rejected"),
        (0.75, None, {"min_improvement": 0.25}, "rejected"),
        (0.9, 0.88, {"max_regression": 0.05}, "accepted"),
        (0.9, 0.8, {"max_regression": 0.05}, "rejected"),
        (0.75, 0.5, {"max_regression": 0.5}, "accepted"),
    ],
)
def test_verdicts_of_the_shipped_rules(
    tmp_path: Path, tuned: float, champion: float | None, shares: dict[str, float], verdict: str
) -> None:
    assert run(tmp_path, evaluation(tuned, 1.0, champion), **shares)["verdict"] == verdict


@given(
    tuned=st.floats(0.01, 20),
    champion=st.none() | st.floats(0.01, 20),
    spread=st.none() | st.floats(0, 0.5),
    improvement=share,
    regression=share,
)
def test_the_worse_end_of_the_paired_interval_decides(
    tmp_path: Path, tuned: float, champion: float | None, spread: float | None, improvement: float, regression: float
) -> None:
    content = evaluation(tuned, 1.0, champion, spread=spread)
    verdict = run(tmp_path, content, min_improvement=improvement, max_regression=regression)
    worse = 1 + (spread or 0)
    better = tuned / 1.0 * worse < 1 - improvement
    behind = champion is not None and tuned / champion * worse > 1 + regression
    assert (verdict["verdict"] == "accepted") == (better and not behind)


def test_an_improvement_or_regression_inside_the_noise_does_not_pass(tmp_path: Path) -> None:
    assert run(tmp_path, evaluation(0.99, spread=0.02))["verdict"] == "rejected"
    even = evaluation(0.5, 1.0, 0.5, spread=0.02)
    assert run(tmp_path, even)["verdict"] == "rejected"
    assert run(tmp_path, even, max_regression=0.03)["verdict"] == "accepted"


def test_what_would_have_passed_does_pass(tmp_path: Path) -> None:
    content = evaluation(0.9, 1.0, 0.88, spread=0.01)
    verdict = run(tmp_path, content, min_improvement=0.3)
    said = [rule["would_pass"] for rule in verdict["rules"][:2]]
    shares = {name: float(value) for name, value in (re.findall(r"(\w+): (\S+) would", text)[0] for text in said)}
    assert run(tmp_path, content, **shares)["verdict"] == "accepted"
    tighter = {"min_improvement": shares["min_improvement"] + 2e-4, "max_regression": shares["max_regression"] - 2e-4}
    assert [rule["passed"] for rule in run(tmp_path, content, **tighter)["rules"][:2]] == [False, False]


def test_reasons_can_be_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    verdict = run(tmp_path, evaluation(0.9, 1.0, 0.8, spread=0.01), min_improvement=0.05, max_regression=0.1)
    assert verdict["reasons"] == [
        "better than the base model: yes: 0.9000 bits per byte against 1.0000 of base, -10.0%, at worst -9.1%; "
        "must be below -5.0%",
        "as good as the champion: no: 0.9000 bits per byte against 0.8000 of champion, +12.5%, at worst +13.6%; "
        "must be at most +10.0%; max_regression: 0.1363 would have passed",
    ]
    assert capsys.readouterr().out == f"gate: rejected; {'; '.join(verdict['reasons'])}\n"
    panel = (tmp_path / "verdict.md").read_text(encoding="utf-8")
    assert panel.startswith("# Model rejected\n")
    assert "| as good as the champion | records | **no** | bits_per_byte 0.9000 | champion 0.8000 | +12.5% " in panel
    assert "little forgotten: not judged, there are no texts" in panel


def test_rules_limit_texts_and_answers(tmp_path: Path) -> None:
    rules = [
        BETTER,
        {"rule": "all texts", "against": "base", "data": "corpora", "max_regression": 0.1},
        {"rule": "one text", "against": "base", "data": "news", "max_regression": 0.5},
        {"rule": "readable", "data": "news", "metric": "byte_perplexity", "at_most": 3},
        {"rule": "no words", "data": "news", "metric": "word_perplexity", "at_most": 1e9},
        {"rule": "stops", "data": "generation", "metric": "stop_rate", "at_least": 0.9},
    ]
    corpora = {
        "wiki": figures({"base": 1.0, "tuned": 1.05}, None),
        "news": figures({"base": 1.0, "tuned": 1.3}, None),
    }
    generation = {"models": {"tuned": {"stop_rate": 0.75}}}
    verdict = run(tmp_path, evaluation(corpora=corpora, generation=generation), rules)
    outcome = [(rule["rule"], rule["data"], rule["passed"]) for rule in verdict["rules"]]
    assert outcome == [
        ("better", "records", True),
        ("all texts", "wiki", True),
        ("all texts", "news", False),
        ("one text", "news", True),
        ("readable", "news", True),
        ("no words", "news", False),
        ("stops", "answers", False),
    ]
    assert verdict["rules"][-1]["reason"] == "stops (answers): no: stop_rate 0.75, must be at least 0.9; " + (
        "at_least: 0.75 would have passed"
    )
    without = run(tmp_path, evaluation(), [BETTER, rules[1], rules[5]])
    assert [rule["passed"] for rule in without["rules"]] == [True, None, None]
    assert without["verdict"] == "accepted"


def task(tuned: float, base: float, spread: float = 0.0, *, higher: bool = True) -> dict[str, Any]:
    """What evaluate says of one task."""
    difference = tuned - base
    interval = [difference - spread, difference + spread]
    found = {"difference": difference, "stderr": spread / 2, "interval": interval}
    models = {"base": {"value": base}, "tuned": {"value": tuned}}
    return {"acc": {"higher_is_better": higher, "models": models, "tuned_minus": {"base": found}}}


@pytest.mark.parametrize(
    ("tuned", "spread", "higher", "rule", "passed"),
    [
        (0.48, 0.0, True, {"against": "base", "max_regression": 0.05}, True),
        (0.47, 0.0, True, {"against": "base", "max_regression": 0.05}, False),
        (0.48, 0.01, True, {"against": "base", "max_regression": 0.05}, False),
        (0.52, 0.01, True, {"against": "base", "min_improvement": 0.01}, True),
        (0.52, 0.03, True, {"against": "base", "min_improvement": 0.0}, False),
        (0.52, 0.0, False, {"against": "base", "max_regression": 0.05}, True),
        (0.52, 0.01, False, {"against": "base", "max_regression": 0.05}, False),
        (0.48, 0.01, False, {"against": "base", "min_improvement": 0.01}, True),
        (0.48, 0.01, True, {"at_least": 0.48}, True),
        (0.48, 0.01, True, {"at_least": 0.5}, False),
    ],
)
@pytest.mark.parametrize("data", ["tasks", "boolq"])
def test_rules_limit_tasks(
    tmp_path: Path, data: str, tuned: float, spread: float, higher: bool, rule: dict[str, Any], passed: bool
) -> None:
    content = evaluation(tasks={"boolq": task(tuned, 0.5, spread, higher=higher)})
    verdict = run(tmp_path, content, [BETTER, {"rule": "reads", "data": data, "metric": "acc", **rule}])
    assert (verdict["rules"][1]["data"], verdict["rules"][1]["passed"]) == ("boolq", passed)


def test_a_fallen_task_is_told_with_its_numbers(tmp_path: Path) -> None:
    rule = {"rule": "reads", "data": "boolq", "metric": "acc", "against": "base", "max_regression": 0.05}
    verdict = run(tmp_path, evaluation(tasks={"boolq": task(0.568, 0.673, 0.02)}), [BETTER, rule])
    assert verdict["reasons"][1] == (
        "reads (boolq): no: 0.5680 acc against 0.6730 of base, -15.6%, at worst -18.6%; must be at least -5.0%; "
        "max_regression: 0.1858 would have passed"
    )
    none = run(tmp_path, evaluation(tasks={"boolq": task(0.5, 0.0)}), [BETTER, rule])
    assert none["rules"][1]["reason"] == "reads: not judged, acc of base is 0, of which there are no shares"


def test_a_champion_that_is_certain_of_every_token_is_not_replaced_by_one_that_is_not(tmp_path: Path) -> None:
    content = evaluation(champion=0.5)
    content["models"]["champion"]["bits_per_byte"] = 0.0
    content["tuned_over"]["champion"] = {"bits_per_byte_ratio": None, "interval": None}
    verdict = run(tmp_path, content)
    assert verdict["verdict"] == "rejected"
    assert (
        verdict["reasons"][1]
        == "as good as the champion: no: champion is certain of every token there, and tuned is not"
    )


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ("- rule: 2026-02-30", "rules.yaml is not YAML: day is out of range for month"),
        ("- rule: [", "rules.yaml is not YAML: "),
        ("rule: better", "must be a list of rules"),
        ([BETTER, {"against": "base"}], "entry 2 must be a mapping with a name behind `rule:`"),
        ([BETTER, "faster"], "entry 2 must be a mapping"),
        ([{**BETTER, "min_gain": 1}], "rule 'better': 'min_gain' is unknown; allowed: rule, data, against, metric, "),
        ([{**BETTER, "against": "rival"}], "against='rival' is unknown; allowed: base, champion"),
        ([{**BETTER, "min_improvement": "much"}], "min_improvement='much' must be a share from 0 to below 1, or param"),
        ([{**BETTER, "min_improvement": True}], "min_improvement=True must be a share"),
        ([{**BETTER, "max_regression": 0.1}], "needs one of min_improvement and max_regression, has min_improvement, "),
        ([{"rule": "x", "at_least": 1}], "metric='' is unknown; allowed: bits_per_byte, perplexity"),
        ([{"rule": "x", "data": "generation", "metric": "perplexity", "at_most": 9}], "allowed: mean_tokens"),
        ([BETTER, BETTER], "two rules have the name 'better'"),
        (
            [{**BETTER, "data": "wikitext"}],
            "data='wikitext' is no text of evaluation_corpora and no task of evaluation_tasks; allowed: rec",
        ),
        ([{"rule": "x", "against": "champion", "max_regression": 0}], "one rule must ask for min_improvement against "),
        (
            [{"rule": "x", "data": "tasks", "against": "base", "max_regression": 0}],
            "needs the task's metric, such as acc",
        ),
        (
            [BETTER, {"rule": "x", "data": "boolq", "metric": "f1", "at_least": 0}],
            "no task has the metric 'f1', only acc",
        ),
        ([], "one rule must ask for min_improvement against base"),
    ],
)
def test_rules_that_nobody_can_judge_by_are_one_line(tmp_path: Path, rules: Any, message: str) -> None:
    with pytest.raises(ParameterError, match=re.escape(message)) as error:
        run(tmp_path, evaluation(tasks={"boolq": task(0.6, 0.6)}), rules)
    assert "\n" not in str(error.value)
    assert str(error.value).startswith("gate_rules: ")


def test_the_shipped_rules_are_as_documented() -> None:
    names = [rule.rule for rule in load_rules(SHIPPED, [])]
    assert names == ["better than the base model", "as good as the champion", "little forgotten"]


@pytest.mark.parametrize("name", ["min_improvement", "max_regression"])
@pytest.mark.parametrize("value", [-0.01, 1, 2, float("nan"), float("inf")])
def test_a_share_out_of_bounds_is_named(tmp_path: Path, name: str, value: float) -> None:
    with pytest.raises(ParameterError, match=f"{name}={value:g} must be a share from 0 to below 1"):
        run(tmp_path, evaluation(), **{name: value})


def test_a_user_may_have_a_rejected_model_fail_the_run(tmp_path: Path) -> None:
    run(tmp_path, evaluation(0.9))
    enforce(tmp_path / "verdict.json")
    run(tmp_path, evaluation(1.1))
    with pytest.raises(PipelineError, match=r"^on_reject=fail: the gate rejected the model; better than the base mod"):
        enforce(tmp_path / "verdict.json")


def test_the_same_figures_give_the_same_bytes(tmp_path: Path) -> None:
    for place in ("here", "there"):
        run(tmp_path / place, evaluation(0.9, 1.0, 0.95))
    for name in ("verdict.json", "verdict.md"):
        assert path_digest(tmp_path / "here" / name) == path_digest(tmp_path / "there" / name)
