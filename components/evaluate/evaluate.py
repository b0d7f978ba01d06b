"""Scores base, tuned and champion on the same test records, the same texts, questions and tasks."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.evaluate.subjects import (
    Measured,
    Subject,
    answerable,
    check_precision,
    fitting,
    measure,
    subjects,
)
from components.evaluate.tasks import check_harness, compare_tasks
from components.models import MODEL_FILES
from components.records import read_table, write_json
from components.registry import open_registry
from components.sources import Pinned, fetch
from components.tasks import is_folder

if TYPE_CHECKING:
    from components.perplexity import Scores

SAMPLES = 3  # questions shown with the models' answers, when samples are wanted at all


def evaluate(
    *,
    records: Path,
    test: Path,
    model: Path,
    base_model: str,
    base_model_digest: str,
    champion: str = "",
    registry: str = "",
    model_name: str = "",
    corpora: dict[str, Any] | None = None,
    stride: int = 0,
    prompts: int = 8,
    tasks: dict[str, Any] | None = None,
    precision: str = "fp32",
    batch_size: int = 8,
    include_samples: bool = False,
    trust_remote_code: bool = False,
    evaluation: Path,
    errors: Path,
) -> dict[str, float]:
    """Measures perplexity and bits per byte of base, tuned and champion, and how they answer.

    Base and tuned see the same tokens. A champion with another tokenizer sees the same records and texts through its
    own; it is compared by bits per byte.

    Args:
        records: The records that ingest wrote.
        test: The test rows that split wrote.
        model: The tuned model's folder.
        base_model: Local folder, fsspec URI or pinned hub id of the base model.
        base_model_digest: What resolve found for it.
        champion: The registered version to compare with, as resolve refers to it; empty: none.
        registry: The champion's registry.
        model_name: The champion's registered name.
        corpora: Texts to score beside the records, as resolve pinned them: by name, a mapping of uri and digest.
        stride: Tokens between the windows over a text; 0: windows that do not overlap.
        prompts: Test questions that each model answers; 0: none.
        tasks: Downstream tasks, as resolve pinned them: by name or folder, a mapping of uri and digest.
        precision: fp32 (exact) or bf16 (half the memory).
        batch_size: Records a forward pass takes.
        include_samples: Whether to write questions, answers and the worst records' text; these are record text.
        trust_remote_code: Whether to run Python code that a model's folder brings.
        evaluation: Where to write the figures (JSON).
        errors: Where to write which groups and records the tuned model does worst on (JSON).

    Returns:
        The figures that a run is judged by: <model>_perplexity and <model>_bits_per_byte, on records and each text,
        and <model>_<task>_<metric>; without a perplexity that no float64 can hold.

    Raises:
        ModelError: a model cannot be loaded.
        DataError: a text or a task's data cannot be read, or no record fits into every model.
        ParameterError: tasks without lm-evaluation-harness, or one that it does not know.
        PipelineError: a loss is not finite.
    """
    check_precision(precision)
    if tasks:
        check_harness()
    folders = {"base": fetch(Pinned(uri=base_model, digest=base_model_digest), "model", MODEL_FILES), "tuned": model}
    if champion:
        store = open_registry(registry, model_name)
        folders["champion"] = store.download(store.version(champion))
    paths = {name: fetch(Pinned(**pinned), "corpus") for name, pinned in (corpora or {}).items()}
    on_tasks = {
        entry: fetch(Pinned(**pinned), "tasks") if is_folder(entry) else None for entry, pinned in (tasks or {}).items()
    }
    rows, texts = _test_set(test, records)
    compared, too_long = fitting(subjects(folders, rows, texts, trust_remote_code))
    rows = list(compared[0].rows)
    questions = _questions(compared, texts, prompts)
    measured = {
        subject.name: measure(
            subject,
            paths=paths,
            stride=stride,
            questions=questions,
            tasks=on_tasks,
            precision=precision,
            batch_size=batch_size,
        )
        for subject in compared
    }
    result, analysis = _results(measured, rows, texts, include_samples)
    result |= {
        "too_long": too_long,
        "precision": precision,
        "stride": stride,
        "generation": _generation(measured),
        "tasks": compare_tasks({name: given.tasks for name, given in measured.items()}),
        "samples": _samples(questions[:SAMPLES], measured) if include_samples else [],
    }
    write_json(evaluation, result)
    write_json(errors, analysis)
    return _told(result)


def _test_set(test: Path, records: Path) -> tuple[list[dict[str, Any]], dict[str, dict[str, Any]]]:
    """The test rows with their responses' words, and their records by id."""
    from components.perplexity import count_words

    rows = list(read_table(test))
    cuts = {row["id"]: row["context_length"] for row in rows}
    texts = {
        record["id"]: {**record, "context": record["context"][: cuts[record["id"]]]}
        for record in read_table(records)
        if record["id"] in cuts
    }
    return [{**row, "target_words": count_words(texts[row["id"]]["response"])} for row in rows], texts


def _results(
    measured: dict[str, Measured],
    rows: list[dict[str, Any]],
    texts: dict[str, dict[str, Any]],
    include_samples: bool,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What evaluation.json says about records and texts, and the analysis of errors."""
    from components.evaluate import figures

    ids = [row["id"] for row in rows]
    labels = {
        "category": [row["category"] for row in rows],
        "source": [texts[row["id"]]["source"] for row in rows],
        "length": [figures.length_bucket(len(row["input_ids"])) for row in rows],
    }
    scores = {name: given.scores for name, given in measured.items()}
    groups = figures.grouped(scores, labels)
    result = figures.compare(scores)
    for name, model in result["models"].items():
        model["categories"] = {group: part["models"][name]["perplexity"] for group, part in groups["category"].items()}
    result |= {
        "records": len(rows),
        "records_by_category": {group: part["records"] for group, part in groups["category"].items()},
        "groups": groups,
        "corpora": {title: _corpus(title, measured) for title in measured["tuned"].corpora},
        "worst": _shown(figures.worst(scores, ids, labels), texts if include_samples else {}),
    }
    return result, figures.errors(scores, ids, labels)


def _corpus(title: str, measured: dict[str, Measured]) -> dict[str, Any]:
    """A text's figures, of the documents in which every tokenizer finds a token: some drop what others keep."""
    import numpy as np

    from components.evaluate.figures import compare

    common = set.intersection(*(set(given.numbers[title]) for given in measured.values()))
    scores: dict[str, Scores] = {
        name: given.corpora[title].select(np.isin(given.numbers[title], list(common)))
        for name, given in measured.items()
    }
    counts = measured["tuned"].documents[title]
    empty = counts["documents"] + counts["empty_documents"] - len(common)
    return {**counts, "documents": len(common), "empty_documents": empty, **compare(scores)}


def _questions(compared: list[Subject], texts: dict[str, dict[str, Any]], wanted: int) -> list[dict[str, Any]]:
    """The same test records whenever the test set is the same: short answers first, so that they can be read."""
    from components.evaluate.generation import MAX_NEW_TOKENS

    rows = [compared[0].rows[index] for index in answerable(compared, MAX_NEW_TOKENS)]
    rows = [row for row in rows if texts[row["id"]]["instruction"]]  # plain text asks nothing
    chosen = sorted(rows, key=lambda row: (row["category"] != "open_qa", row["id"]))[:wanted]
    return [texts[row["id"]] for row in chosen]


def _generation(measured: dict[str, Measured]) -> dict[str, Any]:
    from components.evaluate.generation import MAX_NEW_TOKENS, rates

    return {
        "prompts": len(measured["tuned"].answers),
        "max_new_tokens": MAX_NEW_TOKENS,
        "models": {name: rates(given.answers) for name, given in measured.items() if given.answers},
    }


def _samples(questions: list[dict[str, Any]], measured: dict[str, Measured]) -> list[dict[str, str]]:
    return [
        {
            "question": f"{record['instruction']}\n\n{record['context']}".strip(),
            "reference": record["response"],
            **{name: given.answers[index].text for name, given in measured.items()},
        }
        for index, record in enumerate(questions)
    ]


def _shown(worst: list[dict[str, Any]], texts: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """The worst records, with their text where it is wanted."""
    wanted = ("instruction", "context", "response") if texts else ()
    return [{**entry, **{field: texts[entry["id"]][field] for field in wanted}} for entry in worst]


def _told(result: dict[str, Any]) -> dict[str, float]:
    """Prints the figures, and returns them flat."""
    flat: dict[str, float] = {}
    for place, part in (("", result), *result["corpora"].items()):
        for name, model in part["models"].items():
            perplexity, bits = model["perplexity"], model["bits_per_byte"]
            where = f" on {place}" if place else ""
            shown = "–" if perplexity is None else f"{perplexity:.3f}"  # too large for a number
            print(f"evaluate: {name}{where} perplexity {shown}, {bits:.4f} bits per byte")
            prefix = f"{name}_{place}" if place else name
            flat |= {} if perplexity is None else {f"{prefix}_perplexity": perplexity}
            flat[f"{prefix}_bits_per_byte"] = bits
    for task, metrics in result["tasks"].items():
        for metric, figures in metrics.items():
            for name, model in figures["models"].items():
                print(f"evaluate: {name} on {task} {metric} {model['value']:.4f}")
                flat[f"{name}_{task}_{metric}"] = model["value"]
    return flat
