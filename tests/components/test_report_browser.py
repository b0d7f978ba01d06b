"""The report as a browser shows it: whole, quiet, alone, on a phone and on a desk, in light and dark."""

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.browser import CHROMIUM, Browser, browsing
from tests.components.test_report import MARKUP, inputs, rule, write_page
from tests.conftest import ROOT

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
SCREENSHOTS = ROOT / "build" / "screenshots"
WIDTHS = (360, 768, 1280)

# Text that stands on too little contrast with what is behind it (WCAG 2.2, 1.4.3), as "ratio text".
CONTRAST = """
(() => {
  const parse = colour => colour.match(/[\\d.]+/g).map(Number);
  const part = value => (value /= 255) <= 0.03928 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
  const light = ([r, g, b]) => 0.2126 * part(r) + 0.7152 * part(g) + 0.0722 * part(b);
  const behind = element => {
    for (let one = element; one; one = one.parentElement) {
      const found = parse(getComputedStyle(one).backgroundColor);
      if (found.length < 4 || found[3] > 0) return found;
    }
  };
  const found = [];
  for (const element of document.querySelectorAll("body *")) {
    const own = [...element.childNodes].filter(node => node.nodeType === 3 && node.data.trim());
    if (!own.length || element.tagName === "style") continue;
    const style = getComputedStyle(element);
    const colour = parse(element instanceof SVGElement ? style.fill : style.color);
    const pair = [light(colour), light(behind(element))].sort((a, b) => b - a);
    const ratio = (pair[0] + 0.05) / (pair[1] + 0.05);
    if (ratio < 4.5) found.push(ratio.toFixed(2) + " " + own[0].data.trim().slice(0, 40));
  }
  return found;
})()
"""
HEADINGS = "[...document.querySelectorAll('h1, h2, h3')].map(heading => Number(heading.tagName[1]))"
UNLABELLED = """
[...document.querySelectorAll("[role=img], [role=region]")].filter(one => !one.getAttribute("aria-label")).length
  + document.querySelectorAll("svg:not([aria-hidden=true])").length
  + document.querySelectorAll("th:not([scope])").length
  + (document.documentElement.lang === "en" && document.title ? 0 : 1)
"""
REPEATED_IDS = "(ids => ids.length - new Set(ids).size)([...document.querySelectorAll('[id]')].map(one => one.id))"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browsing(tmp_path_factory.mktemp("profile")) as running:
        yield running


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report with everything that one can hold, and with names that are hard to hold."""
    folder = tmp_path_factory.mktemp("report")
    pinned = {"dataset": f"org/data@{'a' * 40}", "dataset_digest": f"sha256:{'b' * 64}", "base_model": "/models/base"}
    write_page(
        folder, whole(), pinned=pinned, configuration={"epochs": 2, "model_name": "faq"}, price_per_accelerator_hour=2.5
    )
    return folder / "new" / "report.html"


def whole() -> dict[str, Any]:
    """The figures of a run, each part present."""
    content = inputs()
    figures = content["evaluation"]
    part = {name: figures[name] for name in ("models", "tuned_minus", "tuned_over")}
    figures["corpora"] = {"wikitext": part}
    group = {"records": 9, **part}
    figures["groups"] = {"category": {"open_qa": group, "closed_qa": group}}
    figures["generation"] = {"prompts": 4, "max_new_tokens": 96, "models": {"tuned": {"stop_rate": 0.75}}}
    score, difference = {"value": 0.568, "stderr": 0.008}, {"interval": [-0.125, -0.085]}
    acc = {"higher_is_better": True, "models": dict.fromkeys(figures["models"], score)}
    figures["tasks"] = {
        "a_task_of_our_own": {"acc": {**acc, "tuned_minus": dict.fromkeys(("base", "champion"), difference)}}
    }
    record = {"id": "c" * 32, "category": "open_qa", "source": "faq.csv", "length": "0001-0063"}
    figures["worst"] = [{**record, "perplexity": {"base": 90.5, "tuned": 70.25, "champion": 80.0}}]
    figures["samples"] = [{"question": MARKUP * 3, "reference": "x" * 300, "base": "no", "tuned": "yes"}]
    figures["records_by_category"] = {"open_qa": 9, "a_name_without_any_place_to_break_it_" * 3: 6}
    content["trained"] |= {"accelerator_hours": 1.5, "peak_memory_gib": 2.5}
    content["curves"] = [
        {**entry, "learning_rate": 1e-5, "grad_norm": 1.0, "tokens_per_second": 400.0} for entry in content["curves"]
    ]
    missed = rule(passed=False, would_pass="min_improvement: 0.1999 would have passed")
    content["verdict"] |= {"verdict": "rejected", "rules": [rule(), missed]}
    return content


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
def test_it_fits_is_quiet_and_can_be_read(browser: Browser, page: Path, width: int, dark: bool) -> None:
    browser.open(page, width=width, dark=dark)
    browser.screenshot(SCREENSHOTS / f"report-{width}-{'dark' if dark else 'light'}.png")
    assert browser.ask("document.documentElement.scrollWidth") <= width, "it scrolls sideways"
    assert browser.ask(CONTRAST) == []
    assert [sent["request"]["url"] for sent in browser.of("Network.requestWillBeSent")] == [page.as_uri()]
    assert browser.of("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded") == []


def test_who_does_not_see_it_can_follow_it(browser: Browser, page: Path) -> None:
    browser.open(page, width=768)
    levels = browser.ask(HEADINGS)
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels)), levels
    assert browser.ask(UNLABELLED) == 0
    assert browser.ask(REPEATED_IDS) == 0


def test_markup_in_a_record_is_text(browser: Browser, page: Path) -> None:
    browser.open(page, width=768)
    assert browser.ask("document.scripts.length + document.images.length") == 0
    assert MARKUP in browser.ask("document.body.textContent")
