"""A training that begins with a registered version: the right files, and none with other tokens."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from components.errors import ModelError, RegistryError
from components.registry import Entry, Registry, Version, open_registry
from components.rendering import load_tokenizer
from components.templates import apply_template
from components.train.config import TrainConfig
from components.train.start import starting_with


@pytest.fixture
def store(empty_database: bytes, tmp_path: Path) -> Registry:
    (tmp_path / "mlflow.db").write_bytes(empty_database)
    return open_registry(f"sqlite:///{tmp_path / 'mlflow.db'}", "faq")


@pytest.fixture
def version(store: Registry, stories: Path, tmp_path: Path) -> Version:
    """stories260K with Dolly's template, registered."""
    folder = shutil.copytree(stories, tmp_path / "tuned", copy_function=shutil.copyfile)
    with_template(stories, folder, "dolly")
    return store.register(Entry(key="k" * 32, folder=folder, configuration={}, metrics={}, tags={}))[0]


def with_template(source: Path, folder: Path, template: str) -> Path:
    """Writes a model's tokenizer with a template, as tokenize does."""
    tokenizer = load_tokenizer(source)
    apply_template(tokenizer, template)
    tokenizer.save_pretrained(str(folder))
    return folder


def training(folder: Path, tokenizer: Path) -> TrainConfig:
    places: dict[str, Any] = {name: folder / name for name in ("train", "test", "model", "curves", "metrics")}
    return TrainConfig(**places, tokenizer=tokenizer, base_model="/models/base")


def start(store: Registry, version: Version) -> dict[str, str]:
    return {
        "registry": store.address,
        "model_name": store.name,
        "version": version.reference,
        "digest": version.tags["content_digest"],
    }


def test_the_version_takes_the_base_models_place_by_the_digest_of_its_files(
    store: Registry, version: Version, stories: Path, tmp_path: Path
) -> None:
    config = training(tmp_path, with_template(stories, tmp_path / "tokenizer", "dolly"))
    begun = starting_with(config, start(store, version))
    assert (Path(begun.base_model) / "model.safetensors").read_bytes() == (stories / "model.safetensors").read_bytes()
    assert begun.base_model_digest == version.tags["content_digest"]
    assert begun.learning_rate == config.learning_rate


def test_other_tokens_or_another_template_are_refused_with_what_to_do(
    store: Registry, version: Version, tokenizer_folder: Callable[[str], Path], stories: Path, tmp_path: Path
) -> None:
    neox = with_template(tokenizer_folder("gpt-neox"), tmp_path / "neox", "dolly")
    own = tmp_path / "own.jinja"
    own.write_text("{% for message in messages %}{{ message['content'] }}\n{% endfor %}")
    other = with_template(tmp_path / "tuned", tmp_path / "other", str(own))
    for tokenizer, what in ((neox, "vocabulary"), (other, "chat template")):
        message = f"^start_from=champion: version 1 of faq has another {what} than this run; take start_from=base$"
        with pytest.raises(ModelError, match=message):
            starting_with(training(tmp_path, tokenizer), start(store, version))


def test_a_version_that_went_away_meanwhile_is_named(store: Registry, version: Version, tmp_path: Path) -> None:
    gone = {**start(store, version), "version": "1:another"}
    with pytest.raises(RegistryError, match="version 1 is no longer the one that was resolved"):
        starting_with(training(tmp_path, tmp_path / "tokenizer"), gone)
