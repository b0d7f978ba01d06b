"""Under torchrun: loss and gradients of a training's first step, divided and computed in several ways, as safetensors.

One file a division, NAME.safetensors: the gradient of each weight, and `loss`.
"""

import contextlib
import io
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from deepspeed.utils import safe_get_full_grad
from safetensors.torch import save_file

from components.train.config import TrainConfig
from components.train.interruption import Interruption
from components.train.loop import Loop
from components.train.worker import Worker


def main(config: TrainConfig, folder: Path, divisions: dict[str, dict[str, Any]]) -> None:
    """Every division in turn, in one group of ranks."""
    with contextlib.redirect_stdout(io.StringIO()):
        worker = Worker(config)
        for name, division in divisions.items():
            attention = division.pop("attention", None)
            worker.config = replace(config, **division)
            state, engine = worker.begin(None)
            if attention:
                engine.module.set_attn_implementation(attention)
            loop = Loop(worker.config, engine, worker.rows, worker.held_out, state, None, Interruption(worker.group))
            found = first_step(loop, engine)
            engine.destroy()
            if worker.rank == 0:
                save_file(found, folder / f"{name}.safetensors")
    dist.destroy_process_group()


def first_step(loop: Loop, engine: Any) -> dict[str, torch.Tensor]:
    """What the first optimizer step is made from: looked at before the engine takes it."""
    found: dict[str, torch.Tensor] = {}
    take = engine.step

    def look_and_take() -> None:
        if engine.is_gradient_accumulation_boundary():
            named = engine.module.named_parameters()
            found.update({name: safe_get_full_grad(weight).detach().clone() for name, weight in named})
        take()

    engine.step = look_and_take
    loop.total_steps = 1
    loop.run()
    [loss] = [entry["loss"] for entry in loop.state.history if "loss" in entry]
    return {**found, "loss": torch.tensor(loss, dtype=torch.float64)}


settings = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
paths: dict[str, Any] = {name: Path(settings.pop(name)) for name in ("train", "test", "tokenizer")}
unused: dict[str, Any] = dict.fromkeys(("model", "curves", "metrics"), Path("unused"))
main(TrainConfig(**paths, **unused, **settings), Path(sys.argv[2]), json.loads(sys.argv[3]))
