"""Which checkpoints can be resumed from: those that carry a marker, written after everything else."""

from pathlib import Path
from typing import Any

import torch.distributed as dist
from transformers import TrainerCallback

MARKER = "COMPLETE"


class MarkComplete(TrainerCallback):
    """Marks a checkpoint once all of its files are written."""

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if dist.is_initialized():
            dist.barrier()  # every rank writes a part
        if state.is_world_process_zero:
            (Path(args.output_dir) / f"checkpoint-{state.global_step}" / MARKER).touch()


def newest_complete(folder: Path) -> str | None:
    """The path of the marked checkpoint with the most steps."""
    complete = [marker.parent for marker in folder.glob(f"checkpoint-*/{MARKER}")]
    return str(max(complete, key=lambda path: int(path.name.rpartition("-")[2]))) if complete else None
