"""A training that begins with a registered version's weights instead of the base model's."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from components.errors import ModelError
from components.registry import open_registry
from components.rendering import load_tokenizer
from components.train.config import TrainConfig


def starting_with(config: TrainConfig, start: Mapping[str, str]) -> TrainConfig:
    """The same training from a version's folder; its digest is that of the version's files.

    Args:
        start: registry, model_name, version (a reference) and digest.

    Raises:
        RegistryError: the version cannot be fetched, or is no longer the one that was resolved.
        ModelError: it has other tokens or another template than this run.
    """
    store = open_registry(start["registry"], start["model_name"])
    version = store.version(start["version"])
    folder = store.download(version)
    check_same_tokens(folder, config, f"version {version.number} of {version.name}")
    print(f"train: starting from version {version.number} of {version.name}", flush=True)
    return replace(config, base_model=str(folder), base_model_digest=start["digest"])


def check_same_tokens(model: Path, config: TrainConfig, name: str) -> None:
    """Raises ModelError unless a model's folder has this run's tokenizer, with its template."""
    theirs, ours = (load_tokenizer(path, config.trust_remote_code) for path in (model, config.tokenizer))
    for what, same in (
        ("vocabulary", theirs.get_vocab() == ours.get_vocab()),
        ("chat template", theirs.chat_template == ours.chat_template),
    ):
        if not same:
            raise ModelError(f"start_from=champion: {name} has another {what} than this run; take start_from=base")
