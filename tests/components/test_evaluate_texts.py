"""Whole texts: every token is scored once, and as the field's own recipes score it."""

import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer

from components.corpora import read_documents
from components.errors import DataError, ModelError, ParameterError
from components.evaluate.corpora import encode, score_corpus
from components.evaluate.windows import windows
from components.models import load_model
from components.rendering import load_tokenizer
from tests.conftest import ROOT, shared, write_jsonl

WINDOW = 128


@given(length=st.integers(1, 300), size=st.integers(2, 40), stride=st.integers(0, 39))
def test_every_token_but_the_prefix_is_scored_once_with_context(length: int, size: int, stride: int) -> None:
    found = windows(length, size, min(stride, size - 1))
    targets = [index for window in found for index in range(window.scored, window.end)]
    assert targets == list(range(1, length))
    for window in found:
        assert window.begin < window.scored, "something predicts the first target"
        assert window.end - 1 - window.begin <= size, "the model takes no more than size tokens"


def test_the_last_window_is_filled_with_context() -> None:
    assert [(w.begin, w.scored, w.end) for w in windows(24, 10)] == [(0, 1, 11), (10, 11, 21), (13, 21, 24)]
    assert [(w.begin, w.scored, w.end) for w in windows(24, 10, 5)] == [
        (0, 1, 10),
        (5, 10, 15),
        (10, 15, 20),
        (15, 20, 24),
    ]


@pytest.fixture(scope="module")
def documents(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five documents: two longer than a window, a short one, one of a single token, and one of none."""
    text = shared("text", "wikitext-2.valid.txt").read_text(encoding="utf-8")[:900]
    rows = [{"text": part} for part in (text[:600], text[600:], "Once upon a time.", "a", "")]
    return write_jsonl(tmp_path_factory.mktemp("texts") / "documents.jsonl", rows)


def scored(folder: Path, path: Path, *, stride: int = 0, batch_size: int = 8) -> Any:
    corpus = encode(load_tokenizer(folder), path, window=WINDOW, stride=stride)
    model = load_model(folder, 0, torch.float32)
    return score_corpus(model, corpus, batch_size=batch_size, description="test")


def independent_nll(folder: Path, ids: list[int], stride: int) -> float:
    """A document's NLL in float64: for each token the context that its window gives it, softmax over everything."""
    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager", dtype=torch.float64).eval()
    total = 0.0
    with torch.no_grad():
        for begin, first, end in contexts(len(ids), stride):
            probabilities = model(torch.tensor([ids[begin : end - 1]])).logits[0].softmax(dim=-1)
            total -= sum(math.log(probabilities[at - begin - 1, ids[at]].item()) for at in range(first, end))
    return total


def contexts(length: int, stride: int) -> Iterator[tuple[int, int, int]]:
    """First token seen, first scored, end: written as the harness and the transformers guide say it in words."""
    done = 1
    while done < length:
        if stride:
            begin = 0 if done == 1 else -(-(done - WINDOW) // stride) * stride + stride
            end = min(begin + WINDOW, length)
        else:
            end = min(done + WINDOW, length)
            begin = max(0, end - WINDOW - 1)
        yield begin, done, end
        done = end


@pytest.mark.parametrize("stride", [0, 50])
def test_texts_equal_an_independent_float64_computation(stories: Path, documents: Path, stride: int) -> None:
    scores = scored(stories, documents, stride=stride)
    tokenizer = load_tokenizer(stories)
    texts = [text for text in read_documents(documents) if text]
    expected = [
        independent_nll(stories, [1, *tokenizer(text, add_special_tokens=False)["input_ids"]], stride) for text in texts
    ]
    np.testing.assert_allclose(scores.nll, expected, rtol=1e-6)
    figures = scores.figures()
    words = sum(len(re.split(r"\s+", text)) for text in texts)
    assert figures["word_perplexity"] == pytest.approx(math.exp(sum(expected) / words), rel=1e-5)
    size = sum(len(text.encode()) for text in texts)
    assert figures["byte_perplexity"] == pytest.approx(math.exp(sum(expected) / size), rel=1e-6)


@pytest.mark.parametrize("stride", [0, 50])
def test_the_batch_size_does_not_change_a_text(stories: Path, documents: Path, stride: int) -> None:
    one = scored(stories, documents, stride=stride, batch_size=1)
    many = scored(stories, documents, stride=stride, batch_size=32)
    np.testing.assert_allclose(many.nll, one.nll, rtol=1e-6)


def test_a_stride_gives_the_windows_of_the_transformers_guide(stories: Path, tmp_path: Path) -> None:
    """The guide's loop, with its mean losses weighted by the tokens that they are means of."""
    text = shared("text", "wikitext-2.valid.txt").read_text(encoding="utf-8")[:1500]
    (tmp_path / "text.txt").write_text(text, encoding="utf-8")
    ids = AutoTokenizer.from_pretrained(stories)(text, return_tensors="pt").input_ids
    model = AutoModelForCausalLM.from_pretrained(stories).eval()
    nll, count, previous, stride = 0.0, 0, 0, 64
    for begin in range(0, ids.size(1), stride):
        end = min(begin + WINDOW, ids.size(1))
        window = ids[:, begin:end]
        targets = window.clone()
        targets[:, : -(end - previous)] = -100
        with torch.no_grad():
            loss = model(window, labels=targets).loss
        weight = int((targets[:, 1:] != -100).sum())
        nll, count, previous = nll + loss.item() * weight, count + weight, end
        if end == ids.size(1):
            break
    # this tokenizer reads <unk>, which the text holds, as its own token, and so do we
    mine = scored(stories, tmp_path / "text.txt", stride=stride)
    assert int(mine.tokens.sum()) == count
    assert mine.perplexity == pytest.approx(math.exp(nll / count), rel=1e-6)


def test_a_text_is_the_same_in_every_format(tmp_path: Path) -> None:
    text = "Ein Körper.\nNoch ein Satz.\r\n"
    (tmp_path / "a.txt").write_bytes(text.encode())
    write_jsonl(tmp_path / "a.jsonl", [{"text": text, "url": "x"}])
    pq.write_table(pa.table({"text": [text]}), tmp_path / "a.parquet")
    for name in ("a.txt", "a.jsonl", "a.parquet"):
        assert list(read_documents(tmp_path / name)) == [text]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b"text\nx\n", "is not a text file; allowed: .txt, .jsonl, .parquet"),
        ("a.txt", b"\xff\xfe", "is not UTF-8"),
        ("a.txt", b"", "is empty: it has no document with a token in it"),
        ("a.jsonl", b'{"text": "x"}\nno json\n', "line 2 is not JSON"),
        ("a.jsonl", b'{"page": "x"}\n', "line 1 has no field 'text' with a string in it"),
        ("a.jsonl", b'{"text": "x \\ud800"}\n', "line 1 has no field 'text' with a string in it"),
        ("a.jsonl", b"\n\n", "is empty"),
        ("a.parquet", b"PAR1", "is not a readable Parquet file"),
    ],
)
def test_a_text_that_cannot_be_read_is_one_line(
    stories: Path, tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=re.escape(message)) as error:
        encode(load_tokenizer(stories), tmp_path / name, window=WINDOW)
    assert "\n" not in str(error.value)


def test_a_stride_must_be_below_the_window_and_a_prefix_must_exist(stories: Path, documents: Path) -> None:
    tokenizer = load_tokenizer(stories)
    for stride in (-1, WINDOW):
        with pytest.raises(ParameterError, match=f"stride={stride} is not allowed; it must be from 1 to 127"):
            encode(tokenizer, documents, window=WINDOW, stride=stride)
    tokenizer.bos_token = tokenizer.eos_token = None
    with pytest.raises(ModelError, match="neither a BOS nor an end-of-text token"):
        encode(tokenizer, documents, window=WINDOW)


def by_hand(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "components.evaluate", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_by_hand_a_text_gives_one_json_object(stories: Path, documents: Path) -> None:
    finished = by_hand("--model", stories, "--data", documents, "--window", str(WINDOW), "--stride", "50")
    assert finished.returncode == 0, finished.stderr
    answer = json.loads(finished.stdout)
    expected = scored(stories, documents, stride=50).figures()
    assert {name: answer[name] for name in expected} == pytest.approx(expected)
    counts = {name: value for name, value in answer.items() if name not in expected}
    assert counts == {"documents": 4, "empty_documents": 1, "window": WINDOW, "stride": 50, "precision": "fp32"}


def test_by_hand_the_number_of_ranks_changes_no_bit(stories: Path, documents: Path) -> None:
    """With as many threads in each: torch's kernels round the end of a thread's share otherwise than the rest."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    arguments = ["components.evaluate", f"--model={stories}", f"--data={documents}", f"--window={WINDOW}"]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m"]
    alone, shared_out = (
        subprocess.run([*start, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        for start in ([sys.executable, "-m"], torchrun)
    )
    assert shared_out.returncode == 0, shared_out.stderr
    assert shared_out.stdout == alone.stdout, "one object, and the same"
    assert json.loads(alone.stdout)["documents"] == 4


def test_by_hand_records_give_what_the_run_gave(trained: Path, tmp_path: Path) -> None:
    tested = set(pq.read_table(trained / "test.parquet")["id"].to_pylist())
    records = pq.read_table(trained / "records.parquet").to_pylist()
    data = write_jsonl(tmp_path / "test.jsonl", [record for record in records if record["id"] in tested])
    finished = by_hand("--model", trained / "model", f"--data={data}")
    assert finished.returncode == 0, finished.stderr
    answer = json.loads(finished.stdout)
    in_run = json.loads((trained / "evaluation.json").read_text(encoding="utf-8"))["models"]["tuned"]
    for name in ("perplexity", "word_perplexity", "byte_perplexity", "bits_per_byte", "target_tokens", "nll"):
        assert answer[name] == pytest.approx(in_run[name]), name
    assert (answer["records"], answer["too_long"]) == (len(tested), 0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data=missing.txt"], "missing.txt"),
        (["--data={documents}", "--model=/nowhere"], "model: /nowhere is not a model folder: it has no config.json"),
        (["--data={documents}", "--batch_size=0"], "batch_size=0 must be at least 1"),
        (["--data={documents}", "--stride=512"], "stride=512 is not allowed; it must be from 1 to 511"),
        (["--data={documents}", "--model={mismatched}"], "its tokenizer has 512 tokens, its model only 500 embeddings"),
    ],
)
def test_by_hand_bad_input_is_one_line_and_exit_2(
    stories: Path, documents: Path, tmp_path: Path, arguments: list[str], message: str
) -> None:
    config = json.loads((stories / "config.json").read_text(encoding="utf-8"))
    for file in stories.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "config.json").write_text(json.dumps({**config, "vocab_size": 500}), encoding="utf-8")
    given = [argument.format(documents=documents, mismatched=tmp_path) for argument in arguments]
    finished = by_hand(f"--model={stories}", *given)
    assert (finished.returncode, finished.stdout) == (2, "")
    (line,) = finished.stderr.splitlines()
    assert line.startswith("evaluate: ")
    assert message in line
