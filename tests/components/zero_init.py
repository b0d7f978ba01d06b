"""Under torchrun: loads a model as the train step does under ZeRO-3, and prints what this rank holds of it."""

import sys
from pathlib import Path

import deepspeed
import torch.distributed as dist
from transformers.integrations import HfDeepSpeedConfig

from components.train.config import TrainConfig
from components.train.deepspeed import deepspeed_config
from components.train.engine import prepare
from components.train.worker import leave_out_shared_memory_op

unused = Path("unused")
config = TrainConfig(
    train=unused,
    test=unused,
    tokenizer=unused,
    model=unused,
    curves=unused,
    metrics=unused,
    base_model=sys.argv[1],
    precision="fp32",
    zero_stage=3,
)
leave_out_shared_memory_op()
deepspeed.init_distributed("gloo", verbose=False)
kept = HfDeepSpeedConfig(deepspeed_config(config, 2))
weights = list(prepare(config, 0).parameters())
whole, part = sum(w.numel() for w in weights), sum(w.ds_tensor.numel() for w in weights)
sys.stdout.write(f"held {whole} {part} {sum(w.ds_numel for w in weights)}\n")  # at once: two ranks write
dist.destroy_process_group()
