"""Code that a model's folder brings is run when the user asked for it, and never otherwise."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from components.errors import ModelError
from components.models import load_config, load_model
from components.rendering import load_tokenizer
from tests.conftest import ROOT

CODE = """
from pathlib import Path
from transformers import LlamaConfig, LlamaForCausalLM

Path(__file__).with_name("it-ran").touch()

class OwnConfig(LlamaConfig):
    model_type = "our-own"

class OwnForCausalLM(LlamaForCausalLM):
    config_class = OwnConfig
"""


@pytest.fixture
def own(stories: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small model whose class comes with it."""
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    folder = shutil.copytree(stories, tmp_path / "own", copy_function=shutil.copyfile)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    classes = {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnForCausalLM"}
    changed = {**config, "model_type": "our-own", "architectures": ["OwnForCausalLM"], "auto_map": classes}
    (folder / "config.json").write_text(json.dumps(changed), encoding="utf-8")
    (folder / "own.py").write_text(CODE, encoding="utf-8")
    return folder


def ran(folder: Path) -> bool:
    return any(folder.parent.rglob("it-ran"))


def test_it_is_not_run_unless_it_is_asked_for(own: Path) -> None:
    said = "it brings Python code of its own, which is not run; read it, and then set trust_remote_code=true"
    assert load_tokenizer(own), "which is no code"
    with pytest.raises(ModelError, match=said):
        load_config(own)
    with pytest.raises(ModelError, match=said):
        load_model(own, 0, torch.float32)
    assert not ran(own)


def test_it_is_run_when_it_is_asked_for_and_stays_with_the_model(own: Path, tmp_path: Path) -> None:
    model = load_model(own, 0, torch.float32, trust_remote_code=True)
    assert type(model).__name__ == "OwnForCausalLM"
    assert ran(own)
    model.save_pretrained(tmp_path / "tuned")
    assert (tmp_path / "tuned" / "own.py").is_file()


def test_by_hand_both_ways(own: Path, stories: Path, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("Once upon a time there was a dog.", encoding="utf-8")

    def measured(folder: Path, *more: str) -> "subprocess.CompletedProcess[str]":
        command = [
            sys.executable,
            "-m",
            "components.evaluate",
            f"--model={folder}",
            f"--data={tmp_path}/text.txt",
            *more,
        ]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    refused = measured(own)
    assert (refused.returncode, refused.stdout, refused.stderr.count("\n")) == (2, "", 1)
    assert "set trust_remote_code=true" in refused.stderr
    trusted = measured(own, "--trust_remote_code=true")
    assert trusted.returncode == 0, trusted.stderr
    assert json.loads(trusted.stdout)["nll"] == pytest.approx(json.loads(measured(stories).stdout)["nll"])
