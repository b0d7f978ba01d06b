"""report: one page that needs nothing else, tells the verdict first and shows no text as markup."""

from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from components import __version__, code_digest
from components.errors import ParameterError
from components.records import path_digest, write_json
from components.report.report import report

MARKUP = '<script src="http://evil.example/x.js">alert("1")</script><img src=x onerror=alert(2)> & "quotes"'
VOID = {"meta", "link", "br", "img", "hr", "input"}


class Page(HTMLParser):
    """A page's elements with their attributes, its text, and which figures hold a drawing."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.attributes: list[tuple[str, str]] = []
        self.text = ""
        self.open: list[tuple[str, dict[str, str | None]]] = []
        self.drawings: Counter[str] = Counter()
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag in ("td", "th", "dt", "dd"):
            self.text += " "
        if tag == "svg":
            self.drawings.update(str(held["aria-label"]) for name, held in self.open if name == "figure")
        if tag not in VOID:
            self.open.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        while self.open and self.open.pop()[0] != tag:
            pass

    def handle_data(self, data: str) -> None:
        if not any(name == "style" for name, _ in self.open):
            self.text += data


def model(**changes: Any) -> dict[str, Any]:
    figures = {"perplexity": 8.25, "perplexity_interval": [8.0, 8.5], "bits_per_byte": 0.9, "target_tokens": 1234}
    return {**figures, "nll": 2604.0, "categories": {"open_qa": 8.0, "closed_qa": 8.6}, **changes}


def rule(**changes: Any) -> dict[str, Any]:
    """A rule of the gate that was met."""
    return {
        "rule": "better than the base model",
        "data": "records",
        "against": "base",
        "metric": "bits_per_byte",
        "passed": True,
        "value": 0.9,
        "other": 1.2,
        "change": -0.25,
        "interval": [-0.3, -0.2],
        "limit": -0.1,
        "would_pass": "",
        "reason": "better than the base model: yes: 0.9000 bits per byte against 1.2000 of base",
        **changes,
    }


def inputs() -> dict[str, Any]:
    """What the steps of a run hand to the report, in their own form."""
    return {
        "ingested": {
            "rows": 120,
            "records": 110,
            "rejected": {"not_json": 2, "wrong_type": 1},
            "removed": {"duplicate": 7},
            "categories": {"open_qa": 70, "closed_qa": 40},
            "license": "CC0-1.0",
        },
        "tokenized": {
            "records": 107,
            "removed": {"too_long": 3},
            "too_long_by_category": {"open_qa": 3},
            "truncated_by_category": {"closed_qa": 7, "open_qa": 5},
            "neutralised": 4,
            "max_length": 512,
            "template": "dolly",
            "tokens": 9000,
            "target_tokens": 4000,
            "lengths": {"width": 32, "counts": [0, 20, 40, 30] + [1] * 20, "beyond": 1},
        },
        "divided": {
            "train": 90,
            "test": 15,
            "removed": {"near_duplicate_of_test": 2},
            "test_fraction": 0.14,
            "train_by_category": {"open_qa": 60, "closed_qa": 30},
            "test_by_category": {"open_qa": 9, "closed_qa": 6},
        },
        "trained": {
            "steps": 30,
            "world_size": 2,
            "device": "cpu",
            "tokens": 18000,
            "train_seconds": 42.5,
            "tokens_per_second": 423.5,
            "train_loss": 2.1,
            "trainable_parameters": 5000,
            "parameters": 260000,
        },
        "curves": [{"step": step, "loss": 3 - step / 20} for step in range(1, 31)] + [{"step": 30, "eval_loss": 1.9}],
        "evaluation": {
            "models": {"base": model(perplexity=12.5), "tuned": model(), "champion": model(perplexity=9.0)},
            "tuned_minus": {"base": [-4.5, -4.0], "champion": [-1.0, -0.5]},
            "tuned_over": {
                "base": {"bits_per_byte_ratio": 0.75, "interval": [0.7, 0.8]},
                "champion": {"bits_per_byte_ratio": 0.98, "interval": None},
            },
            "records": 15,
            "records_by_category": {"open_qa": 9, "closed_qa": 6},
            "samples": [],
            "precision": "fp32",
        },
        "verdict": {"verdict": "accepted", "reasons": ["better than the base model: yes"], "rules": [rule()]},
        "registered": {"name": "private-llm", "version": "3", "aliases": ["champion"]},
    }


def write_page(folder: Path, content: dict[str, Any], **more: Any) -> str:
    for name, value in content.items():
        write_json(folder / f"{name}.json", value)
    page = folder / "new" / "report.html"
    files: dict[str, Any] = {name: folder / f"{name}.json" for name in content}
    report(**files, **more, page=page)
    return page.read_text(encoding="utf-8")


def test_the_page_loads_nothing_and_runs_nothing(tmp_path: Path) -> None:
    html = write_page(tmp_path, inputs())
    page = Page(html)
    assert not page.tags.keys() & {"script", "link", "iframe", "img", "object", "embed", "base", "form"}
    for name, value in page.attributes:
        assert not name.startswith("on")
        if name in ("src", "href", "xlink:href", "action", "data", "srcset"):
            assert value.startswith("#"), f"{name}={value}"
        assert "url(" not in value.replace("url(#", "")
    assert "@import" not in html


def test_the_verdict_comes_first(tmp_path: Path) -> None:
    page = Page(write_page(tmp_path, inputs()))
    body = " ".join(page.text.partition("Run report: accepted")[2].split())
    assert body.startswith(
        "Verdict: accepted Registered as private-llm version 3 (champion). perplexity, base to tuned"
    )
    found = "better than the base model records, bits per byte yes 0.9000 base 1.2000 -25.0% (-30.0% to -20.0%) -10.0%"
    assert body.index(found) < body.index("Models")


def test_the_headline_tells_the_run_in_a_few_figures(tmp_path: Path) -> None:
    content = inputs()
    content["trained"]["accelerator_hours"] = 1.5
    pinned = {"base_model": f"org/base@{'a' * 40}", "dataset": "/data/faq.csv"}
    configuration = {"model_name": "faq"}
    html = write_page(tmp_path, content, pinned=pinned, configuration=configuration, price_per_accelerator_hour=2.0)
    text = " ".join(Page(html).text.split())
    assert "Verdict: accepted faq: base, tuned on faq.csv" in text
    assert "perplexity, base to tuned 12.50 → 8.25 15 test records" in text
    assert "bits per byte against base -25.0% 95 %: -30.0% to -20.0%" in text
    assert "bits per byte against champion -2.0% less is better" in text
    assert "records trained on 90 18,000 tokens in all CPU process-hours 1.500 price 3.00" in text


def test_a_rejected_model_is_told_as_such(tmp_path: Path) -> None:
    behind = rule(passed=False, reason="falls behind the champion", would_pass="max_regression: 0.2 would have passed")
    rejected = {"verdict": "rejected", "reasons": ["falls behind the champion"], "rules": [rule(), behind]}
    page = Page(write_page(tmp_path, {**inputs(), "verdict": rejected, "registered": None}))
    assert "Verdict: rejected" in page.text
    text = " ".join(page.text.split())
    assert "Verdict: rejected falls behind the champion Nothing was registered." in text
    assert "max_regression: 0.2" in text


def test_loss_lengths_rejects_and_categories_each_have_a_drawing(tmp_path: Path) -> None:
    assert Page(write_page(tmp_path, inputs())).drawings == {
        "Training and held-out loss by optimizer step": 1,
        "Records by length in tokens": 1,
        "Rows rejected and removed by reason": 1,
        "Perplexity by category for each model": 1,
    }


def test_of_very_many_groups_the_largest_are_drawn(tmp_path: Path) -> None:
    """A folder of files has a source a file."""
    content = inputs()
    models = content["evaluation"]["models"]
    content["evaluation"]["groups"] = {
        "category": {"open_qa": {"records": 600, "models": models}},
        "source": {f"{name:03}.md": {"records": 1 + name % 30, "models": models} for name in range(600)},
    }
    page = Page(write_page(tmp_path, content))
    assert page.drawings["Perplexity by source for each model, the 20 of 600 with most records"] == 1
    assert page.drawings["Perplexity by category for each model"] == 1
    drawn = [word for word in page.text.split() if word.endswith(".md")]
    assert drawn == [f"{name:03}.md" for name in range(29, 600, 30)]


def test_drawings_name_what_they_show(tmp_path: Path) -> None:
    text = Page(write_page(tmp_path, inputs())).text
    for shown in ("optimizer step", "held out", "dropped from 512 tokens", "1 records are longer than shown"):
        assert shown in text
    for shown in ("not_json", "wrong_type", "duplicate", "too_long", "near_duplicate_of_test", "open_qa", "closed_qa"):
        assert shown in text


def drifted(**changes: Any) -> dict[str, Any]:
    """What drift found in records of a category that the champion never saw."""
    broken = {
        "rule": "the categories are as they were",
        "metric": "category_psi",
        "passed": False,
        "value": 2.5,
        "limit": 0.25,
        "reason": "the categories are as they were: no: category_psi 2.5, must be at most 0.25",
    }
    return {
        "note": "",
        "champion": "2",
        "records": 110,
        "old_records": 90,
        "new_records": 20,
        "gone_records": 0,
        "measures": {"category_psi": 2.5, "bits_per_byte_ratio": None},
        "shifts": {"category": {"bins": ["open_qa", MARKUP, "(other)"], "old": [50, 40, 0], "new": [0, 0, 20]}},
        "perplexity": {"records": 20, "perplexity": 31.5, "bits_per_byte": 1.75, "registered_bits_per_byte": 0.9},
        "drifted": True,
        "rules": [broken],
        **changes,
    }


def test_new_data_has_a_section_with_its_rules_measures_and_bars(tmp_path: Path) -> None:
    page = Page(write_page(tmp_path, {**inputs(), "drifted": drifted()}))
    text = " ".join(page.text.split())
    assert "20 records are new since version 2, which was made from 90; 0 of those are gone. The new data has" in text
    assert "the categories are as they were no 2.5000 0.2500" in text
    assert "perplexity 31.500, 1.7500 bits per byte; on its own test records 0.9000" in text
    assert page.drawings["Share of old and new records by category"] == 1
    assert page.tags["script"] == page.tags["img"] == 0


def test_new_data_that_was_not_compared_says_why(tmp_path: Path) -> None:
    nothing = {"note": "there is no champion to compare with", "measures": {}, "shifts": {}, "drifted": False}
    text = " ".join(Page(write_page(tmp_path, {**inputs(), "drifted": nothing})).text.split())
    assert "New data Not compared: there is no champion to compare with." in text
    assert "New data" not in Page(write_page(tmp_path, inputs())).text


def test_what_did_not_fit_is_counted_by_category(tmp_path: Path) -> None:
    text = Page(write_page(tmp_path, inputs())).text
    assert "they are dropped (open_qa 3)" in text
    assert "The end of the context was cut from closed_qa 7, open_qa 5, so that they fit." in text


def test_figures_stand_in_the_tables(tmp_path: Path) -> None:
    text = " ".join(Page(write_page(tmp_path, inputs())).text.split())
    for shown in ("12.500", "8.250", "9.000", "8.000 to 8.500", "0.9000", "15 test records, 1234 target tokens"):
        assert shown in text
    for shown in ("18,000 in 42 s", "5,000 of 260,000", "rows read 120", "test (14.0% of the keys) 15", "In 4 records"):
        assert shown in text
    for shown in ("3 not_json 2, wrong_type 1", "12 duplicate 7, too_long 3, near_duplicate_of_test 2"):
        assert shown in text
    assert "base 12.500 8.000 to 8.500 -4.500 to -4.000 0.9000 -25.0% (-30.0% to -20.0%)" in text
    assert "champion 9.000 8.000 to 8.500 -1.000 to -0.500 0.9000 -2.0%" in text


def test_the_price_is_that_of_the_hours(tmp_path: Path) -> None:
    content = inputs()
    assert "price" not in Page(write_page(tmp_path, content, price_per_accelerator_hour=2.5)).text, "no hours, no price"
    content["trained"]["accelerator_hours"] = 1.5
    text = " ".join(Page(write_page(tmp_path, content)).text.split())
    assert "CPU process-hours 1.500" in text
    assert "price" not in text
    priced = " ".join(Page(write_page(tmp_path, content, price_per_accelerator_hour=2.5)).text.split())
    assert "price at 2.5 per CPU process-hour 3.75" in priced
    with pytest.raises(ParameterError, match="price_per_accelerator_hour=-1 must be at least 0"):
        write_page(tmp_path, content, price_per_accelerator_hour=-1)


def test_the_lineage_is_what_was_pinned(tmp_path: Path) -> None:
    pinned = {"dataset": "org/data@abc", "dataset_digest": "git:abc", "champion": "", "base_model": "/models/base"}
    text = " ".join(Page(write_page(tmp_path, inputs(), pinned=pinned, configuration={"epochs": 2})).text.split())
    assert "base model /models/base dataset org/data@abc dataset digest git:abc dataset license CC0-1.0" in text
    assert f"code version {__version__} code digest {code_digest()}" in text
    assert "registered private-llm version 3" in text
    assert "epochs 2" in text.partition("Parameters of the run")[2]


def test_parts_that_a_run_has_beyond_the_records_are_shown(tmp_path: Path) -> None:
    content = inputs()
    figures = content["evaluation"]
    part = {**figures, "tuned_minus": {"base": None, "champion": [-1.5, -0.25]}}
    score = {"value": 0.568, "stderr": 0.008}
    difference = {"difference": -0.105, "stderr": 0.01, "interval": [-0.125, -0.085]}
    acc = {"higher_is_better": True, "models": dict.fromkeys(figures["models"], score)}
    others = dict.fromkeys(figures["tuned_minus"], difference)
    record = {"id": "a1b2", "category": "open_qa", "source": "faq.csv", "length": "0001-0063", "target_tokens": 3}
    figures |= {
        "corpora": {"wikitext": part},
        "groups": {"category": {"open_qa": part}, "length": {"0001-0063": part, "0064-0127": part}},
        "generation": {"prompts": 4, "max_new_tokens": 96, "models": {"tuned": {"stop_rate": 0.75}}},
        "tasks": {"boolq": {"acc_norm": {**acc, "tuned_minus": others}}},
        "worst": [{**record, "perplexity": {"base": 90.5, "tuned": 70.25, "champion": None}}],
    }
    unjudged = {"passed": None, "value": None, "other": None, "change": None, "interval": None}
    reason = "no forgetting: not judged, there is no champion"
    content["verdict"]["rules"] = [rule(rule="no forgetting", against="champion", **unjudged, reason=reason)]
    page = Page(write_page(tmp_path, content))
    text = " ".join(page.text.split())
    assert "no forgetting records, bits per byte not judged – champion – – there is no champion" in text
    assert "boolq acc norm 0.5680 (0.0080) 0.5680 (0.0080) 0.5680 (0.0080) -0.1250 to -0.0850" in text
    assert "a1b2 open_qa faq.csv 0001-0063 90.500 70.250 –" in text
    assert "Other texts wikitext" in text
    assert "-1.500 to -0.250" in text
    assert "tuned 0.750 4 prompts, greedy" in text
    assert page.drawings["Perplexity by length for each model"] == 1


def test_groups_that_lie_far_apart_get_a_logarithmic_axis(tmp_path: Path) -> None:
    content = inputs()
    assert "perplexity (logarithmic)" not in Page(write_page(tmp_path, content)).text
    content["evaluation"]["models"]["base"]["categories"]["open_qa"] = 4630.0
    text = Page(write_page(tmp_path, content)).text
    assert "perplexity (logarithmic)" in text
    assert "4,630" in text
    assert "$" not in text, "numbers at the axis, no formulas"


@pytest.mark.filterwarnings("error")
def test_a_model_that_diverged_has_a_page(tmp_path: Path) -> None:
    """Perplexities that no number holds, and in groups such as some can."""
    content = inputs()
    tuned = content["evaluation"]["models"]["tuned"]
    tuned |= {"perplexity": None, "perplexity_interval": None, "categories": {"open_qa": 1e260}}
    content["evaluation"]["tuned_minus"] = {"base": None}
    text = Page(write_page(tmp_path, content)).text
    assert "→ –" in text
    assert "0" * 30 not in text


def test_no_text_is_taken_for_markup(tmp_path: Path) -> None:
    content = inputs()
    sample = {"question": MARKUP, "reference": MARKUP, "base": MARKUP, "tuned": MARKUP, "champion": MARKUP}
    content["evaluation"]["samples"] = [sample]
    content["evaluation"]["records_by_category"] = {MARKUP: 15}
    for figures in content["evaluation"]["models"].values():
        figures["categories"] = {MARKUP: 8.0}
    content["verdict"]["rules"] = [rule(rule=MARKUP, reason=MARKUP, passed=False)]
    content["registered"]["name"] = MARKUP
    page = Page(write_page(tmp_path, content))
    assert not page.tags.keys() & {"script", "img"}
    assert not {name for name, _ in page.attributes} & {"onerror", "src"}
    assert page.text.count(MARKUP) >= 5 + 3 + 2


@pytest.mark.parametrize("name", ["a $b_{ $c", "$5 or $6", "要約", "naïve \\frac", "_private", "a\tb", "line\nend"])
def test_a_category_may_have_any_name(tmp_path: Path, name: str) -> None:
    content = inputs()
    content["evaluation"]["records_by_category"] = {name: 15}
    for figures in content["evaluation"]["models"].values():
        figures["categories"] = {name: 8.0}
    page = Page(write_page(tmp_path, content))
    assert "".join(name.split()) in "".join(page.text.split())
    assert page.drawings["Perplexity by category for each model"] == 1


def test_a_run_without_rejects_champion_or_held_out_points(tmp_path: Path) -> None:
    content = inputs()
    for name, key in (
        ("ingested", "rejected"),
        ("ingested", "removed"),
        ("tokenized", "removed"),
        ("divided", "removed"),
    ):
        content[name][key] = {}
    del content["evaluation"]["models"]["champion"]
    del content["evaluation"]["tuned_minus"]["champion"]
    content["curves"] = content["curves"][:1]
    page = Page(write_page(tmp_path, content))
    assert "No row was rejected or removed." in page.text
    assert "champion:" not in page.text
    assert "Rows rejected and removed by reason" not in page.drawings


@pytest.mark.parametrize("missing", ["rejected", "removed"])
def test_a_run_with_only_rejects_or_only_removals(tmp_path: Path, missing: str) -> None:
    content = inputs()
    for name in ("ingested", "tokenized", "divided"):
        content[name][missing] = {}
    assert Page(write_page(tmp_path, content)).drawings["Rows rejected and removed by reason"] == 1


def test_the_same_run_gives_the_same_bytes(tmp_path: Path) -> None:
    for place in ("here", "there"):
        write_page(tmp_path / place, inputs())
    assert path_digest(tmp_path / "here" / "new") == path_digest(tmp_path / "there" / "new")
