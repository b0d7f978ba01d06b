"""Templates: one renderer for training and serving, whichever template; what repeats is encoded once, the same."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.errors import ModelError, ParameterError
from components.records import path_digest, read_table
from components.rendering import Renderer, load_tokenizer, user_message
from components.sources import pin
from components.templates import apply_template, pin_template
from components.tokenize.tokenize import tokenize
from pipeline.parameters import Parameters
from tests.conftest import CHATML, make_record, write_records

MODELS = ("gpt-neox", "gpt-neox-bos", "t5", "bert-uncased", "stories260K")
RECORD = make_record("What is it?", "A logger.", "The Tern T2.")


def make_renderer(folder: Path, template: str = "dolly") -> Renderer:
    tokenizer = load_tokenizer(folder)
    apply_template(tokenizer, template)
    return Renderer(tokenizer)


def whole_prompts(renderer: Renderer, messages: list[str]) -> list[list[int]]:
    """Prompts rendered by the saved template alone and encoded whole, as a server does."""
    conversations = [[{"role": "user", "content": message}] for message in messages]
    rendered = renderer.tokenizer.apply_chat_template(conversations, tokenize=False, add_generation_prompt=True)
    backend = renderer.tokenizer.backend_tokenizer
    return [row.ids for row in backend.encode_batch_fast(rendered, add_special_tokens=False)]


def prompts(renderer: Renderer, records: list[dict[str, Any]]) -> list[list[int]]:
    return [row.input_ids[: row.loss_start] for row in renderer.encode(records)]


@pytest.fixture(scope="module")
def questions(dolly: Path) -> list[dict[str, Any]]:
    """Every prompt of dolly-15k; the answers, which are encoded on their own, are short."""
    rows = (json.loads(line) for line in dolly.read_text(encoding="utf-8").splitlines())
    return [{**row, "response": "-"} for row in rows]


# the whole of dolly-15k with each takes a minute; benchmarks/data.py compares them all
@pytest.mark.parametrize(("name", "step"), [("gpt-neox", 10), ("gpt-neox-bos", 30), ("t5", 30), ("bert-uncased", 30)])
def test_encoding_what_repeats_once_gives_the_ids_of_the_whole_prompt(
    tokenizer_folder: Callable[[str], Path], questions: list[dict[str, Any]], name: str, step: int
) -> None:
    renderer = make_renderer(tokenizer_folder(name))
    assert renderer.head
    records = questions[::step]
    messages = [user_message(record["instruction"], record["context"]) for record in records]
    assert prompts(renderer, records) == whole_prompts(renderer, messages)


@pytest.fixture(scope="module", params=MODELS)
def renderer(request: pytest.FixtureRequest, tokenizer_folder: Callable[[str], Path]) -> Renderer:
    return make_renderer(tokenizer_folder(request.param))


@settings(max_examples=50)
@given(
    message=st.text(min_size=1)
    | st.lists(st.sampled_from(["###", " ", "\n", "▁", "é", "{{ x }}", "a"]), min_size=1).map("".join)
)
def test_any_text_is_put_into_dollys_template_as_the_saved_template_puts_it(renderer: Renderer, message: str) -> None:
    (row,) = renderer.encode([make_record(message, "b")])
    if not row.neutralised:
        assert [row.input_ids[: row.loss_start]] == whole_prompts(renderer, [message])


def test_nothing_is_taken_out_where_a_longer_control_token_could_begin(
    tokenizer_folder: Callable[[str], Path],
) -> None:
    from tokenizers import AddedToken

    tokenizer = load_tokenizer(tokenizer_folder("gpt-neox"))
    longer = AddedToken("request.\n\n### Instruction:\nSing", special=True, normalized=False)
    tokenizer.add_tokens([longer], special_tokens=True)
    apply_template(tokenizer, "dolly")
    assert Renderer(tokenizer).head == ""


def run(folder: Path, base_model: Path, template: str, **arguments: Any) -> tuple[list[dict[str, Any]], Any]:
    """Token rows of one record, and the tokenizer as a server loads it."""
    tokenize(
        records=write_records(folder / "records", [RECORD]),
        base_model=str(base_model),
        base_model_digest="",
        template=template,
        tokens=folder / "tokens",
        tokenizer=folder / "tokenizer",
        metrics=folder / "tokenize.json",
        **arguments,
    )
    return list(read_table(folder / "tokens")), load_tokenizer(folder / "tokenizer")


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_a_users_template_is_saved_with_the_tokenizer_and_gives_the_same_prompt(
    tokenizer_folder: Callable[[str], Path], tmp_path: Path, scheme: str
) -> None:
    own = tmp_path / "own.jinja"
    own.write_text(CHATML.replace("<|im_start|>", "<<").replace("<|im_end|>", "<|endoftext|>"), encoding="utf-8")
    (row,), served = run(tmp_path, tokenizer_folder("gpt-neox"), f"{scheme}{own}")
    message = user_message(RECORD["instruction"], RECORD["context"])
    prompt, targets = row["input_ids"][: row["loss_start"]], row["input_ids"][row["loss_start"] :]
    assert served.decode(prompt) == f"<<user\n{message}<|endoftext|>\n<<assistant\n"
    assert served.decode(targets) == RECORD["response"] + "<|endoftext|>"
    assert whole_prompts(Renderer(served), [message]) == [prompt]
    assert (tmp_path / "tokenizer" / "chat_template.jinja").read_text(encoding="utf-8") == own.read_text("utf-8")


@pytest.mark.parametrize("call", ['strftime_now("%d %b %Y")', "strftime_now( '%d %b %Y' )"])
def test_a_template_that_asks_for_the_date_gives_the_same_tokens_every_day(
    tokenizer_folder: Callable[[str], Path], tmp_path: Path, call: str
) -> None:
    own = tmp_path / "own.jinja"
    dated = "{% if strftime_now is defined %}{{ 'Today: ' + " + call + " }}{% endif %}"
    own.write_text(dated + CHATML, encoding="utf-8")
    (row,), served = run(tmp_path, tokenizer_folder("gpt-neox-chatml"), str(own))
    assert served.decode(row["input_ids"]).startswith("Today: 26 Jul 2024<|im_start|>user")
    assert (tmp_path / "tokenizer" / "chat_template.jinja").read_text(encoding="utf-8") == own.read_text("utf-8")


def test_a_template_at_a_uri_is_pinned_like_data(
    stories: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fsspec

    monkeypatch.setenv("PRIVATE_LLM_CACHE", str(tmp_path / "cache"))
    store = fsspec.filesystem("memory")
    store.pipe("/templates/own.jinja", CHATML.encode())
    try:
        digest = pin_template("memory://templates/own.jinja").digest
        rows, _ = run(tmp_path, stories, "memory://templates/own.jinja", template_digest=digest)
        store.pipe("/templates/own.jinja", CHATML.replace("user", "you").encode() + b" ")
        with pytest.raises(ModelError, match="changed after it was resolved"):
            run(tmp_path, stories, "memory://templates/own.jinja", template_digest=digest)
    finally:
        store.rm("/templates", recursive=True)
    assert len(rows) == 1


def test_a_template_file_that_changed_since_resolve_is_refused(stories: Path, tmp_path: Path) -> None:
    own = tmp_path / "own.jinja"
    own.write_text(CHATML, encoding="utf-8")
    assert pin_template(str(own)).digest == pin(str(own), "template").digest == path_digest(own)
    assert (pin_template("dolly").digest, pin_template("base").digest) == ("", "")
    with pytest.raises(ModelError, match="changed after it was resolved"):
        run(tmp_path, stories, str(own), template_digest="sha256:0")


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (b"{% for m in messages %}{{ m['content'] }}", "template: line 1: Unexpected end of template"),
        (b"\n\n{{ messages | nosuch }}", "template: line 3: No filter named 'nosuch'"),
        (b"{{ messages[7]['content'] }}", "template: it cannot render a question and its answer: "),
        (b"{{ raise_exception('roles\nmust alternate') }}", "its answer: roles"),
        (b"{{ ''.__class__.__mro__ }}", "template: it cannot render a question and its answer: "),
        (b"{{ messages | length }}", "template: its prompt is not a prefix of the whole conversation"),
        (b"\xff{{ x }}", "is not UTF-8 text"),
    ],
)
def test_a_bad_template_is_refused_in_one_line(stories: Path, tmp_path: Path, template: bytes, message: str) -> None:
    own = tmp_path / "own.jinja"
    own.write_bytes(template)
    with pytest.raises(ModelError) as caught:
        run(tmp_path, stories, str(own))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_template_that_fails_on_a_record_does_not_tell_its_text(stories: Path, tmp_path: Path) -> None:
    own = tmp_path / "own.jinja"
    own.write_text(
        "{% if 'T2' in messages[0]['content'] %}{{ raise_exception(messages[0]['content']) }}{% endif %}" + CHATML,
        encoding="utf-8",
    )
    with pytest.raises(ModelError) as caught:
        run(tmp_path, stories, str(own))
    assert str(caught.value) == "template: it fails on a record: TemplateError"


@pytest.mark.parametrize("template", ["alpaca", "", "own.txt", "s3://bucket/template"])
def test_what_is_no_template_is_named_before_anything_runs(template: str) -> None:
    for door in (pin_template, lambda template: Parameters(template=template)):
        with pytest.raises(ParameterError, match="is unknown; allowed: dolly, base, or the path or URI of a Jinja"):
            door(template)


def test_a_template_that_is_not_there_is_named(stories: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="does not exist"):
        run(tmp_path, stories, str(tmp_path / "none" / "own.jinja"))
