"""Loads a causal language model to stand behind a given tokenizer: the same way for training and evaluation."""

import re
from contextlib import AbstractContextManager, nullcontext
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from components.errors import ModelError
from components.records import digest
from components.sources import NOT_READ, aside, cache_folder
from components.store import Store

TOKENIZER_FILES = [
    "config.json",
    "tokenizer*",
    "vocab*",
    "merges*",
    "special_tokens*",
    "added_tokens*",
    "chat_template*",
    "*.py",  # fetched with the rest, and run only with trust_remote_code
]
MODEL_FILES = [
    "config.json",
    "generation_config.json",
    "*.safetensors",
    "*.safetensors.index.json",
    *TOKENIZER_FILES[1:],
]


UNPACKABLE = (
    "base_model: models of type {} are not supported, because they cannot keep packed rows apart; "
    "use a decoder with full or sliding-window attention, such as Llama, GPT-NeoX, Qwen or Mistral"
)
BOTH_WAYS = (
    "base_model: {} is an encoder (type {}), whose tokens see those behind them too, and so cannot write a text; "
    "use a decoder, such as Llama, GPT-NeoX, Qwen or Mistral"
)
# In transformers 5.23, the first two make their masks without positions, so packed rows would see each other; the last
# does not hand the rows' lengths on to its attention.
NOT_APART = ("afmoe", "gpt_oss", "nemotron")
APART = "Weights and config.json do not belong together; save both again with save_pretrained"


def model_folder(place: str) -> Path:
    """A trained model's folder on this machine: where it is, or a copy of what lies at a URI.

    Raises:
        ModelError: nothing lies there any more.
        StorageError: the store cannot be read.
    """
    if "://" not in place:
        return Path(place)
    folder = cache_folder() / "trained" / digest(place)
    if not folder.exists():
        partial = aside(folder)
        Store(place).get(partial)
        if not (partial / "config.json").is_file():
            raise ModelError(f"no model lies at {place} any more; start the run again without cache")
        partial.rename(folder)
    return folder


def files_read(folder: Path) -> list[str]:
    """The names of the files in a model's folder that are read, without what is there for other programs."""
    names = {file.name for pattern in MODEL_FILES for file in folder.glob(pattern)}
    return sorted(name for name in names if not any(fnmatch(name, pattern) for pattern in NOT_READ))


def load_config(folder: Path, trust_remote_code: bool = False) -> Any:
    """The configuration of a folder's model.

    Raises:
        ModelError: there is none, it is an encoder's, or it needs code of its own and that is not trusted.
    """
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(str(folder), local_files_only=True, trust_remote_code=trust_remote_code)
    except (OSError, ValueError) as error:
        raise ModelError(
            f"base_model: cannot read the configuration in {folder}: {told(error, trust_remote_code)}"
        ) from error
    if not looks_back_only(config):
        raise ModelError(BOTH_WAYS.format(folder, config.model_type))
    return config


def looks_back_only(config: Any) -> bool:
    """Whether a configuration is a decoder's, whose tokens see what is before them alone.

    The class does not tell: transformers has a causal one for encoders too.
    """
    from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

    text = config.get_text_config()
    encoders = {*MODEL_FOR_MASKED_LM_MAPPING_NAMES, "bert-generation"}  # the last fills in no masks
    has_encoder = text.is_encoder_decoder or text.model_type in encoders
    both_ways = getattr(text, "use_bidirectional_attention", None) in (True, "all")
    return not both_ways and (not has_encoder or bool(getattr(text, "is_decoder", False)))


def told(error: Exception, trust_remote_code: bool) -> str:
    """What transformers says of a folder in a line, and of code that it did not run what to do."""
    if "trust_remote_code" in str(error) and not trust_remote_code:
        return "it brings Python code of its own, which is not run; read it, and then set trust_remote_code=true"
    return str(error).splitlines()[0]


def load_model(folder: Path, vocabulary_size: int, dtype: Any, trust_remote_code: bool = False) -> Any:
    """The model of a folder, with one embedding row at least for each token.

    Rows that are missing are added as the mean of the rows that are there, so a base model is the same
    wherever it is loaded, and a new token starts as an average one rather than at random.

    Args:
        vocabulary_size: the number of tokens of the tokenizer in use.
        dtype: a torch dtype.
        trust_remote_code: whether to run Python code that the folder brings.

    Raises:
        ModelError: the folder holds no causal language model in safetensors, not all of its weights, or one of a kind
            that cannot be packed.
    """
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM

    from components.packing import attention_for, register_attention

    register_attention()
    try:
        config = load_config(folder, trust_remote_code)
        model, loaded = AutoModelForCausalLM.from_pretrained(
            str(folder),
            dtype=dtype,
            attn_implementation=attention_for(config),
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=trust_remote_code,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are told below, by name
        )
    except SafetensorError as error:
        raise ModelError(
            f"base_model: the weights in {folder} are cut short or no safetensors at all, such as a Git LFS pointer; "
            f"copy them again: {told(error, trust_remote_code)}"
        ) from error
    except (OSError, ValueError) as error:
        raise ModelError(
            f"base_model: cannot load a causal language model from {folder}: {told(error, trust_remote_code)}"
        ) from error
    except RuntimeError as error:  # ZeRO-3 tells rank 0 so of shapes that do not match
        mismatch = re.search("size mismatch for .*", str(error))
        if not mismatch:
            raise
        raise ModelError(f"base_model: {folder}: {mismatch[0]} {APART}") from None
    except KeyError:  # older architectures look our attention up in a table of their own
        raise ModelError(UNPACKABLE.format(config.model_type)) from None
    if not keeps_rows_apart(model):
        raise ModelError(UNPACKABLE.format(config.model_type))
    check_whole(folder, loaded, model.all_tied_weights_keys)
    if vocabulary_size > _rows(model.get_input_embeddings().weight):
        grow_embeddings(model, vocabulary_size)
    return model


def check_whole(folder: Path, loaded: dict[str, Any], tied: dict[str, str]) -> None:
    """Raises ModelError when a folder did not give each weight of its model: transformers fills in random numbers.

    Args:
        loaded: transformers' output_loading_info.
        tied: the weights that are others' too, by name.
    """
    missing = sorted(loaded["missing_keys"] - tied.keys())
    if missing:
        raise ModelError(
            f"base_model: {folder} lacks {len(missing)} of its model's weights, such as {missing[0]}; "
            "copy all of its files again, or save it again as a causal language model"
        )
    for name, found, wanted in sorted(loaded["mismatched_keys"]):
        raise ModelError(
            f"base_model: {folder}: {name} has the shape {tuple(found)}, and by config.json {tuple(wanted)}. {APART}"
        )


def keeps_rows_apart(model: Any) -> bool:
    """Whether all that a model's tokens see of each other goes through an attention function that knows the rows."""
    text = model.config.get_text_config()
    kinds = set(getattr(text, "layer_types", None) or ["full_attention"])
    known = kinds <= {"full_attention", "sliding_attention"} and text.model_type not in NOT_APART
    return bool(model._supports_attention_backend) and known


def grow_embeddings(model: Any, rows: int) -> None:
    """Adds embedding rows, each the mean of those that were there."""
    import torch

    old = _rows(model.get_input_embeddings().weight)
    model.resize_token_embeddings(rows, mean_resizing=False)
    layers = (model.get_input_embeddings(), model.get_output_embeddings())
    tables = list({id(layer.weight): layer.weight for layer in layers}.values())  # one table when they are tied
    with torch.no_grad(), whole(tables, write=True):
        for weight in tables:
            if weight.numel():
                weight[old:] = weight[:old].float().mean(dim=0).to(weight.dtype)


def _rows(weight: Any) -> int:
    """The rows of a weight, also when ZeRO-3 holds it elsewhere."""
    return int(getattr(weight, "ds_shape", weight.shape)[0])


def whole(weights: list[Any], *, write: bool) -> AbstractContextManager[None]:
    """Inside, the weights are whole on every rank, where ZeRO-3 had them in parts; rank 0 may write them or not."""
    if not any(hasattr(weight, "ds_shape") for weight in weights):
        return nullcontext()
    import deepspeed

    gathered: AbstractContextManager[None] = deepspeed.zero.GatheredParameters(
        weights, modifier_rank=0 if write else None
    )
    return gathered


def max_positions(config: Any) -> int | None:
    """The longest sequence that a model was built for, by Dolly's rule.

    Args:
        config: transformers' configuration, or what stands at the top of a config.json.
    """
    if hasattr(config, "get_text_config"):
        config = config.get_text_config()  # of a model that also sees, what it reads by
    for name in ("n_positions", "max_position_embeddings", "seq_length"):
        value = getattr(config, name, None)
        if value:
            return int(value)
    return None
