"""DeepSpeed's configuration as a pure function of the training's."""

from typing import Any

from components.train.config import TrainConfig

MAX_GRADIENT_NORM = 1.0
BUCKET = 100_000_000  # elements that ranks exchange at a time


def deepspeed_config(config: TrainConfig, world_size: int = 1) -> dict[str, Any]:
    """The JSON that DeepSpeed reads.

    Args:
        world_size: ranks on all nodes.
    """
    stage: dict[str, Any] = {"stage": config.zero_stage, "overlap_comm": False, "contiguous_gradients": True}
    stage |= {"reduce_bucket_size": BUCKET, "allgather_bucket_size": BUCKET}
    if config.zero_stage == 3:
        stage["stage3_gather_16bit_weights_on_model_save"] = True
    if config.offload != "none":
        stage["offload_optimizer"] = {"device": "cpu", "pin_memory": True}
    if config.offload == "parameters":
        stage["offload_param"] = {"device": "cpu", "pin_memory": True}
    return {
        "bf16": {"enabled": config.precision == "bf16"},
        "fp16": {"enabled": config.precision == "fp16"},
        "zero_optimization": stage,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "gradient_clipping": MAX_GRADIENT_NORM,
        "gradient_accumulation_steps": config.gradient_accumulation_steps,
        "train_micro_batch_size_per_gpu": config.per_device_batch_size,
        "train_batch_size": config.per_device_batch_size * config.gradient_accumulation_steps * world_size,
        "steps_per_print": 1_000_000_000,  # progress is ours
    }
