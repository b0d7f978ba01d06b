"""DeepSpeed's configuration as a pure function of the training's."""

from typing import Any

from components.train.config import TrainConfig


def deepspeed_config(config: TrainConfig) -> dict[str, Any]:
    """The JSON that DeepSpeed reads; `auto` values are filled in by transformers from the training arguments."""
    stage: dict[str, Any] = {"stage": config.zero_stage, "overlap_comm": False, "contiguous_gradients": True}
    if config.zero_stage == 3:
        stage |= {
            "reduce_bucket_size": "auto",
            "stage3_prefetch_bucket_size": "auto",
            "stage3_param_persistence_threshold": "auto",
            "stage3_gather_16bit_weights_on_model_save": True,
        }
    return {
        "bf16": {"enabled": config.precision == "bf16"},
        "fp16": {"enabled": config.precision == "fp16"},
        "zero_optimization": stage,
        "zero_allow_untested_optimizer": True,
        "gradient_clipping": "auto",
        "gradient_accumulation_steps": "auto",
        "train_micro_batch_size_per_gpu": "auto",
        "train_batch_size": "auto",
        "steps_per_print": 1_000_000_000,  # progress is ours
    }
