"""Whole-text perplexity: documents of a text file, scored in windows that never cross a document's border."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from components.errors import DataError, ModelError, ParameterError
from components.evaluate.perplexity import Scores, count_words, row_nll
from components.evaluate.windows import Window, windows

TEXT = "text"  # the field of a JSON line, the column of a Parquet file


@dataclass(frozen=True, kw_only=True)
class Documents(Sequence[dict[str, Any]]):
    """A corpus as token rows, one a window, made when they are asked for.

    Token 0 of a document is the prefix; `window` and `stride` are those of components.evaluate.windows.
    """

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
        return {"id": f"document {document + 1}", "input_ids": ids, "loss_start": place.scored - place.begin}


def read_documents(path: Path) -> Iterator[str]:
    """The documents of a .txt file (the whole of it is one), or of the field `text` of .jsonl or .parquet rows.

    Raises:
        DataError: the file is not there, is not readable, or has no such field; with the place.
    """
    readers = {".txt": _txt, ".jsonl": _jsonl, ".parquet": _parquet}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise DataError(f"{path} is not a text file; allowed: {', '.join(readers)}")
    try:
        yield from reader(path)
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8: {error.reason} at byte {error.start}") from None
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from None


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
    corpus = Documents(ids=[], bytes=[], words=[], empty=0)
    texts = list(read_documents(path))
    for text in texts:
        ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        if ids:
            length = len(ids) + 1
            corpus.places.extend((len(corpus.ids), place) for place in windows(length, window, stride))
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


def _txt(path: Path) -> Iterator[str]:
    yield path.read_bytes().decode("utf-8-sig")


def _jsonl(path: Path) -> Iterator[str]:
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield _text(line, f"{path} line {number}")


def _text(line: bytes, place: str) -> str:
    try:
        row = json.loads(line.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        raise DataError(f"{place} is not JSON") from None
    text = row.get(TEXT) if isinstance(row, dict) else None
    if not isinstance(text, str):
        raise DataError(f"{place} has no field {TEXT!r} with a string in it")
    return text


def _parquet(path: Path) -> Iterator[str]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            if TEXT not in file.schema_arrow.names:
                raise DataError(f"{path} has no column {TEXT!r}, only {', '.join(file.schema_arrow.names)}")
            position = 0
            for batch in file.iter_batches(batch_size=1024, columns=[TEXT]):
                for text in batch.column(0).to_pylist():
                    position += 1
                    if not isinstance(text, str):
                        raise DataError(f"{path} row {position} has no string in column {TEXT!r}")
                    yield text
    except pa.ArrowException as error:
        raise DataError(f"{path} is not a readable Parquet file: {str(error).splitlines()[0]}") from None
