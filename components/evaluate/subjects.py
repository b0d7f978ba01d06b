"""The models that are compared: how each reads records and texts, and what it gives them."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import compress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.errors import DataError, ModelError, ParameterError
from components.models import load_config, load_model, max_positions
from components.rendering import Renderer, encoded_by_champion, load_tokenizer

if TYPE_CHECKING:  # torch is loaded with the first model, not with the command line
    from components.evaluate.generation import Answer
    from components.evaluate.tasks import TaskScores
    from components.perplexity import Scores

PRECISIONS = ("fp32", "bf16")
WINDOW = 2048  # tokens of a text that a model takes at a time, unless it was built for fewer
DEFAULT_POSITIONS = 1024  # by Dolly's rule, where a model does not say what it was built for


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A model to measure: its folder, its token rows, and the tokenizers through which it reads."""

    name: str
    folder: Path
    tokenizer: Any  # with its template, for records and questions
    reader: Any  # for texts, which are no conversations
    rows: Sequence[dict[str, Any]]
    positions: int  # tokens that it takes at most
    trust_remote_code: bool


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What a model gave: scores of the records, of each text's documents and of tasks, and its answers."""

    scores: "Scores"
    corpora: dict[str, "Scores"]
    numbers: dict[str, list[int]]  # of each text: which of its documents have a token
    documents: dict[str, dict[str, int]]  # of each text: documents, empty_documents, window
    answers: list["Answer"]
    tasks: "TaskScores"


def check_precision(precision: str) -> None:
    """Raises ParameterError unless it is one of PRECISIONS."""
    if precision not in PRECISIONS:
        raise ParameterError(f"precision={precision!r} is unknown; allowed: {', '.join(PRECISIONS)}")


def subjects(
    folders: dict[str, Path],
    rows: list[dict[str, Any]],
    texts: dict[str, dict[str, Any]],
    trust_remote_code: bool = False,
) -> list[Subject]:
    """Base, tuned and champion.

    The base model meets the tuned one's template and tokens; a champion brings its own. Texts are no conversations:
    base and tuned read them through the base model's tokenizer, which has no tokens of a template.

    Args:
        folders: the models' folders by name.
        rows: the test rows, as the tuned model's tokenizer made them.
        texts: the records of these rows by id.
        trust_remote_code: whether to run Python code that a folder brings.
    """
    found = []
    trust = trust_remote_code
    for name, folder in folders.items():
        tokenizer = load_tokenizer(folders["tuned"] if name == "base" else folder, trust)
        if name == "champion":
            check_vocabulary(folder, tokenizer, trust)
        found.append(
            Subject(
                name=name,
                folder=folder,
                tokenizer=tokenizer,
                reader=load_tokenizer(folders["base"] if name == "tuned" else folder, trust),
                rows=_encoded_by(tokenizer, rows, texts) if name == "champion" else rows,
                positions=positions(folder, trust_remote_code=trust),
                trust_remote_code=trust,
            )
        )
    return found


def fitting(found: list[Subject]) -> tuple[list[Subject], dict[str, int]]:
    """The models with the records that each of them can take, and of how many each one is too short.

    A champion may have been built for fewer tokens, or spell the same record with more of them; then nobody is
    compared on that record.

    Raises:
        DataError: no record is left.
    """
    limits = {one.name: positions(one.folder, sys.maxsize, trust_remote_code=one.trust_remote_code) for one in found}
    fits = {one.name: [len(row["input_ids"]) <= limits[one.name] for row in one.rows] for one in found}
    kept = [all(each) for each in zip(*fits.values(), strict=True)]
    if not any(kept):
        sizes = ", ".join(f"{name} {limit}" for name, limit in limits.items() if limit < sys.maxsize)
        raise DataError(f"no test record fits into the tokens that every model takes: {sizes}")
    chosen = [replace(one, rows=list(compress(one.rows, kept))) for one in found]
    return chosen, {name: each.count(False) for name, each in fits.items() if not all(each)}


def positions(folder: Path, unsaid: int = DEFAULT_POSITIONS, *, trust_remote_code: bool = False) -> int:
    """How many tokens a folder's model was built to take; `unsaid` where it does not say."""
    return max_positions(load_config(folder, trust_remote_code)) or unsaid


def check_vocabulary(folder: Path, tokenizer: Any, trust_remote_code: bool = False) -> None:
    """Raises ModelError when a folder's tokenizer has tokens that its model has no embedding for."""
    rows = load_config(folder, trust_remote_code).get_text_config().vocab_size
    if len(tokenizer) > rows:
        raise ModelError(
            f"{folder}: its tokenizer has {len(tokenizer)} tokens, its model only {rows} embeddings; "
            "they do not belong together, save both again with save_pretrained"
        )


def measure(
    subject: Subject,
    *,
    paths: dict[str, Path],
    stride: int,
    questions: list[dict[str, Any]],
    tasks: dict[str, Path | None],
    precision: str,
    batch_size: int,
) -> Measured:
    """One model's scores and answers; the model is gone when this returns.

    Args:
        paths: the texts by name.
        stride: tokens between windows over a text; 0: windows that do not overlap.
        questions: the records whose questions it answers.
        tasks: as for run_tasks.
    """
    from components.evaluate.corpora import encode, score_corpus
    from components.evaluate.generation import answer
    from components.perplexity import score

    # a text that cannot be read fails before a model is loaded
    window = min(subject.positions, WINDOW)
    corpora = {name: encode(subject.reader, path, window=window, stride=stride) for name, path in paths.items()}
    model = load(subject.folder, len(subject.tokenizer), precision, subject.trust_remote_code)
    scores = score(model, subject.rows, batch_size=batch_size, description=f"evaluate {subject.name}")
    on_corpora = {
        name: score_corpus(model, corpus, batch_size=batch_size, description=f"evaluate {subject.name} on {name}")
        for name, corpus in corpora.items()
    }
    counts = {
        name: {"documents": len(corpus.ids), "empty_documents": corpus.empty, "window": window}
        for name, corpus in corpora.items()
    }
    answers = []
    if questions:
        renderer = Renderer(subject.tokenizer)
        prompts = [renderer.prompt_ids(record) for record in questions]
        answers = answer(model, subject.tokenizer, prompts, renderer.stop_id)
    return Measured(
        scores=scores,
        corpora=on_corpora,
        numbers={name: corpus.numbers for name, corpus in corpora.items()},
        documents=counts,
        answers=answers,
        tasks=_on_tasks(subject, model, tasks, batch_size) if tasks else {},
    )


def _on_tasks(subject: Subject, model: Any, tasks: dict[str, Path | None], batch_size: int) -> "TaskScores":
    """Each model through its own tokenizer: the base model has none of the template's tokens to stop at."""
    from components.evaluate.tasks import run_tasks

    tokenizer = subject.tokenizer if subject.name == "tuned" else subject.reader
    return run_tasks(model, tokenizer, tasks, positions=subject.positions, batch_size=batch_size)


def load(folder: Path, vocabulary_size: int, precision: str, trust_remote_code: bool = False) -> Any:
    """A folder's model on the GPUs where there are any, with an embedding for each token."""
    import torch
    import transformers

    from components.evaluate.devices import place
    from components.heap import keep_freed_memory

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    dtype = torch.float32 if precision == "fp32" else torch.bfloat16
    model = load_model(folder, vocabulary_size, dtype, trust_remote_code)
    if not torch.cuda.is_available():
        keep_freed_memory()
    return place(model)


def answerable(found: list[Subject], new_tokens: int) -> list[int]:
    """The numbers of the rows whose prompt leaves every model room for an answer of this many tokens."""
    count = len(found[0].rows)
    return [
        index
        for index in range(count)
        if all(subject.rows[index]["loss_start"] + new_tokens <= subject.positions for subject in found)
    ]


def _encoded_by(tokenizer: Any, rows: list[dict[str, Any]], texts: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """The same test records as tokens of another tokenizer and template."""
    encoded = encoded_by_champion(tokenizer, [texts[row["id"]] for row in rows])
    return [
        {**row, "input_ids": new.input_ids, "loss_start": new.loss_start}
        for row, new in zip(rows, encoded, strict=True)
    ]
