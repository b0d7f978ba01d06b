"""Whole-text perplexity: documents of a text file, scored in windows that never cross a document's border."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from components.corpora import read_documents
from components.errors import DataError, ModelError, ParameterError
from components.evaluate.windows import Window, windows
from components.perplexity import Scores, count_words, row_nll


@dataclass(frozen=True, kw_only=True)
class Documents(Sequence[dict[str, Any]]):
    """A corpus as token rows, one a window, made when they are asked for.

    Token 0 of a document is the prefix; `window` and `stride` are those of components.evaluate.windows.
    """

    numbers: list[int]  # which of the file's documents they are, from 1
    ids: list[np.ndarray]  # int32, a document each
    bytes: list[int]
    words: list[int]
    empty: int  # documents without a single token, which are not scored
    places: list[tuple[int, Window]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: Any) -> Any:
        document, place = self.places[index]
        ids = self.ids[document][place.begin : place.end].tolist()
        return {"id": f"document {self.numbers[document]}", "input_ids": ids, "loss_start": place.scored - place.begin}


def encode(tokenizer: Any, path: Path, *, window: int, stride: int = 0) -> Documents:
    """A corpus as windows of tokens.

    Text is encoded as the tokenizer does it by itself, without special tokens around it; the prefix is its BOS or
    else its end-of-text token, as in lm-evaluation-harness.

    Raises:
        DataError: the file cannot be read, or no document has a token.
        ModelError: the tokenizer has no token to stand before a text.
        ParameterError: stride is not below window.
    """
    if not 0 <= stride < window:
        raise ParameterError(f"stride={stride} is not allowed; it must be from 1 to {window - 1}, or 0 for none")
    prefix = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    if prefix is None:
        raise ModelError("the tokenizer has neither a BOS nor an end-of-text token to stand before a text")
    corpus = Documents(numbers=[], ids=[], bytes=[], words=[], empty=0)
    texts = list(read_documents(path))
    for number, text in enumerate(texts, start=1):
        ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        if ids:
            length = len(ids) + 1
            corpus.places.extend((len(corpus.ids), place) for place in windows(length, window, stride))
            corpus.numbers.append(number)
            corpus.ids.append(np.array([prefix, *ids], dtype=np.int32))
            corpus.bytes.append(len(text.encode()))
            corpus.words.append(count_words(text))
    if not corpus.ids:
        raise DataError(f"{path} is empty: it has no document with a token in it")
    return Documents(**{**vars(corpus), "empty": len(texts) - len(corpus.ids)})


def score_corpus(model: Any, corpus: Documents, *, batch_size: int, description: str) -> Scores:
    """Scores of each document.

    Raises:
        PipelineError: a loss is not finite; with the documents' numbers, from 1.
    """
    nll = row_nll(model, corpus, batch_size=batch_size, description=description, unit="windows")
    document = [number for number, _ in corpus.places]
    return Scores(
        nll=np.bincount(document, weights=nll),
        tokens=np.array([len(ids) - 1 for ids in corpus.ids], dtype=np.int64),
        bytes=np.array(corpus.bytes, dtype=np.int64),
        words=np.array(corpus.words, dtype=np.int64),
    )
