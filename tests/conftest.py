"""What tests share: an offline environment, the shared data, and small files to run steps on."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from components.records import RECORDS, TOKENS, record_id, split_key, write_table
from components.registry import open_registry

# Set before anything imports transformers or huggingface_hub, which read these once.
os.environ.update(HF_HUB_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1", TOKENIZERS_PARALLELISM="false")

# Machines of all speeds run these, and the same examples come each time.
settings.register_profile(
    "tests",
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],  # a busy machine is no fault
)
settings.load_profile("tests")

ROOT = Path(__file__).parents[1]
SHARED = Path(__file__).parents[2] / "shared" / "data"
CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Where the tests marked `cluster` run."""
    parser.addoption("--kubeconfig", help="a real cluster, in whose namespace manifests/ are applied")
    parser.addoption("--cluster-image", default="python:3.11-slim", help="an image with Python that it can pull")


@pytest.hookimpl(tryfirst=True)  # before xdist reads the marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keeps what reads the one run that `trained` makes on one of pytest's workers, so that it is made once.

    xdist 3.8 names a test's group where pytest 9.2 no longer looks; with these, each worker makes the run for itself.
    """
    for item in items:
        if "trained" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.xdist_group("trained"))


def write_jsonl(path: Path, rows: Iterable[Any]) -> Path:
    """Writes values as JSON, one a line."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def make_record(instruction: str, response: str, context: str = "", category: str = "open_qa") -> dict[str, str]:
    """A record as ingest writes it."""
    return {
        "id": record_id(instruction, context, response),
        "instruction": instruction,
        "context": context,
        "response": response,
        "category": category,
        "source": "test.jsonl",
        "license": "CC0-1.0",
        "history": "",
    }


def write_records(path: Path, records: Iterable[dict[str, str]]) -> Path:
    """Writes records as ingest does."""
    write_table(path, RECORDS, records)
    return path


def write_tokens(path: Path, records: Iterable[dict[str, str]]) -> Path:
    """Writes a token row for each record, with the ids and keys that tokenize gives and three tokens."""
    rows = (
        {
            "id": record["id"],
            "key": split_key(*(record[name] for name in ("instruction", "context", "response", "history"))),
            "category": record["category"],
            "input_ids": [1, 2, 3],
            "loss_start": 1,
            "target_bytes": len(record["response"].encode()),
            "context_length": len(record["context"]),
        }
        for record in records
    )
    write_table(path, TOKENS, rows)
    return path


def shared(*names: str) -> Path:
    """A path in the shared data; skips the test where there is none."""
    path = SHARED.joinpath(*names)
    if not path.exists():
        pytest.skip(f"the shared data is not here: {path}")
    return path


@pytest.fixture(scope="session")
def dolly() -> Path:
    """databricks-dolly-15k, whole."""
    return shared("instruct", "databricks-dolly-15k.jsonl")


@pytest.fixture(scope="session")
def stories() -> Path:
    """A model folder with a tokenizer that adds BOS and loads at once."""
    return shared("models", "stories260K")


@pytest.fixture(scope="session")
def dolly_slice(dolly: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first 300 records of databricks-dolly-15k, in a file that may be changed."""
    path = tmp_path_factory.mktemp("data") / "dolly300.jsonl"
    path.write_bytes(b"".join(dolly.read_bytes().splitlines(keepends=True)[:300]))
    return path


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """MLflow's tables in an embedded registry, which take it seconds to make."""
    path = tmp_path_factory.mktemp("empty") / "mlflow.db"
    assert open_registry(f"sqlite:///{path}", "m").versions() == []
    return path.read_bytes()


@pytest.fixture(scope="session")
def wikitext(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first 2,000 characters of wikitext-2's validation set: one document, some windows long."""
    path = tmp_path_factory.mktemp("texts") / "wikitext.txt"
    path.write_text(shared("text", "wikitext-2.valid.txt").read_text(encoding="utf-8")[:2000], encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def trained_arguments(dolly_slice: Path, stories: Path, wikitext: Path) -> list[str]:
    """The parameters of the run that `trained` is."""
    return [
        "--param",
        f"dataset={dolly_slice}",
        f"base_model={stories}",
        "license=cc-by-sa-3.0",
        "epochs=2",
        "learning_rate=2e-3",
        "warmup_steps=5",
        "precision=fp32",
        "gradient_checkpointing=false",
        "zero_stage=2",
        "nproc_per_node=2",
        "eval_steps=0",
        f"evaluation_corpora=wikitext={wikitext}",
    ]


@pytest.fixture(scope="session")
def trained(trained_arguments: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of one whole run of the pipeline on this machine."""
    output = tmp_path_factory.mktemp("runs") / "first"
    command = [sys.executable, "-m", "pipeline.run", "--output", str(output), *trained_arguments]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return output


@pytest.fixture(scope="session")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Makes the folder of a base model, without weights, from the name of a tokenizer.

    Beside the shared ones there are gpt-neox-bos, which puts a BOS before every text, and gpt-neox-chatml, which
    has a chat template of its own.
    """
    folders: dict[str, Path] = {}

    def make(name: str) -> Path:
        if name == "stories260K":
            return shared("models", name)
        if name not in folders:
            kind = "gpt-neox" if name.startswith("gpt-neox") else name
            folders[name] = tmp_path_factory.mktemp(name)
            shutil.copytree(
                shared("tokenizers", kind), folders[name], dirs_exist_ok=True, copy_function=shutil.copyfile
            )
            (folders[name] / "config.json").write_text('{"model_type": "gpt2", "n_positions": 1024}', encoding="utf-8")
            if name == "gpt-neox-bos":
                _add_bos(folders[name])
            if name == "gpt-neox-chatml":
                _add_chatml(folders[name])
        return folders[name]

    return make


def _add_bos(folder: Path) -> None:
    from tokenizers import AddedToken, Tokenizer
    from tokenizers.processors import TemplateProcessing

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.add_special_tokens([AddedToken("<|begin|>", special=True, normalized=False)])
    tokenizer.post_processor = TemplateProcessing(
        single="<|begin|> $A", special_tokens=[("<|begin|>", tokenizer.token_to_id("<|begin|>"))]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    _configure(folder, bos_token="<|begin|>")


def _add_chatml(folder: Path) -> None:
    from tokenizers import AddedToken, Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.add_special_tokens(
        [AddedToken(token, special=True, normalized=False) for token in ("<|im_start|>", "<|im_end|>")]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    _configure(folder, chat_template=CHATML)


def _configure(folder: Path, **settings: str) -> None:
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **settings}), encoding="utf-8")
