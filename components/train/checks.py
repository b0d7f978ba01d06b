"""What is refused before any rank starts, in one line, because it would fail later, or hours later."""

import json
import tempfile
from pathlib import Path
from types import SimpleNamespace

from components.errors import DataError, ParameterError
from components.models import load_config, max_positions
from components.records import column_names
from components.rendering import load_tokenizer
from components.train.config import NO_NEW_TOKENS, TrainConfig
from components.train.rows import COLUMNS, Rows


def check_inputs(config: TrainConfig, base_model: Path) -> None:
    """Checks rows and tokenizer against the base model in a folder.

    Raises:
        DataError: there are no rows, none has a target token, or one is longer than the model can be given.
        ParameterError: adapters should train new tokens under ZeRO-3.
    """
    trust = config.trust_remote_code
    check_rows("train", config.train, base_model, trust)
    check_rows("test", config.test, base_model, trust)
    in_parts = config.method == "lora" and config.zero_stage == 3
    if in_parts and len(load_tokenizer(config.tokenizer, trust)) > len(load_tokenizer(base_model, trust)):
        raise ParameterError(f"zero_stage=3: {NO_NEW_TOKENS}")


def check_table(side: str, path: Path) -> None:
    """Raises DataError when a side is no table of token rows."""
    try:
        found = column_names(path)
    except DataError as error:
        raise DataError(f"{side}: {path} is no Parquet file; give the {side} rows that split wrote") from error
    if missing := [name for name in COLUMNS if name not in found]:
        raise DataError(f"{side}: {path} has no {', '.join(missing)}; give the {side} rows that split wrote")


def check_rows(side: str, path: Path, base_model: Path, trust: bool) -> None:
    """Raises DataError when the rows of a side can be no part of a training of the model in a folder."""
    check_table(side, path)
    rows = Rows(path)
    if not len(rows):
        raise DataError(f"{side}: {path} holds no rows; give more records, or another test_size")
    if not rows.targets.any():
        raise DataError(f"{side}: no row of {path} has a target token, so there is nothing to learn or to measure")
    told = SimpleNamespace(**json.loads((base_model / "config.json").read_text(encoding="utf-8")))
    limit, longest = max_positions(told), int(rows.lengths.max())
    # a model with rotary positions has one for every length; transformers takes a second to say so, so it is asked last
    if limit and longest > limit and not getattr(load_config(base_model, trust), "rope_parameters", None):
        raise DataError(
            f"{side}: a row has {longest} tokens and the base model has {limit} positions; "
            f"tokenize with max_length={limit + 1} or less"
        )


def check_outputs(config: TrainConfig) -> None:
    """Raises ParameterError when what the training is to leave cannot be written: now, and not at its end."""
    outputs: dict[str, Path | None] = {
        "model": config.model.parent,
        "curves": config.curves.parent,
        "metrics": config.metrics.parent,
        "checkpoints": config.checkpoints,
    }
    for name, folder in outputs.items():
        try:
            if folder is not None:
                folder.mkdir(parents=True, exist_ok=True)
                with tempfile.TemporaryFile(dir=folder):
                    pass
        except OSError as error:
            raise ParameterError(
                f"{name}: {folder} cannot be written ({error.strerror}); give another folder"
            ) from error
