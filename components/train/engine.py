"""The model inside DeepSpeed's engine: made, loaded from a checkpoint, and saved as a model again."""

from collections.abc import Callable
from copy import copy
from pathlib import Path
from typing import Any

import deepspeed
import torch
import transformers

from components.models import load_model, whole
from components.rendering import Renderer, load_tokenizer
from components.train.config import TrainConfig

ADAPTERS = "adapters"  # in the model's folder
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


def prepare(config: TrainConfig, vocabulary_size: int) -> Any:
    """The base model, with adapters where they are asked for."""
    folder = Path(config.base_model)  # fetched by whoever started the ranks
    transformers.set_seed(config.seed)  # adapters start at random
    model = load_model(folder, vocabulary_size, DTYPES[config.precision], config.trust_remote_code)
    if config.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    if config.method == "lora":
        known = len(load_tokenizer(folder, config.trust_remote_code))
        model = add_adapters(model, config, list(range(known, vocabulary_size)))
    return model


def add_adapters(model: Any, config: TrainConfig, new_tokens: list[int]) -> Any:
    """LoRA on every linear layer; the rows of new tokens, such as Dolly's stop token, are trained as well."""
    from peft import LoraConfig, get_peft_model

    lora = LoraConfig(
        r=config.lora_rank,
        lora_alpha=config.lora_alpha,
        target_modules="all-linear",
        trainable_token_indices=new_tokens or None,
        task_type="CAUSAL_LM",
    )
    if config.gradient_checkpointing:
        model.enable_input_require_grads()
    return get_peft_model(model, lora)


def make_engine(model: Any, config: TrainConfig, settings: dict[str, Any]) -> Any:
    """DeepSpeed's engine around a model, with AdamW; biases and norms do not decay."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    shapes = {id(parameter): getattr(parameter, "ds_shape", parameter.shape) for parameter in trained}
    groups = [
        {"params": [p for p in trained if len(shapes[id(p)]) >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in trained if len(shapes[id(p)]) < 2], "weight_decay": 0.0},
    ]
    adamw = _adamw(config)
    optimizer = adamw([group for group in groups if group["params"]], lr=config.learning_rate)
    engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=settings)
    # its scripts beside a checkpoint are for users of DeepSpeed alone, and would fail on a full disk past our writer
    engine._copy_recovery_script = lambda _: None
    return engine


def _adamw(config: TrainConfig) -> Callable[..., Any]:
    if config.offload != "none":
        from deepspeed.ops.adam import DeepSpeedCPUAdam

        return lambda groups, lr: DeepSpeedCPUAdam(groups, lr=lr, adamw_mode=True)
    return lambda groups, lr: torch.optim.AdamW(groups, lr=lr, fused=True)


def schedule(config: TrainConfig, total_steps: int) -> Callable[[int], float]:
    """The learning rate as a function of the step, by transformers' schedules."""
    unused = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=config.learning_rate)
    scheduler = transformers.get_scheduler(
        config.lr_scheduler, unused, num_warmup_steps=config.warmup_steps, num_training_steps=total_steps
    )
    factor = scheduler.lr_lambdas[0]
    return lambda step: config.learning_rate * float(factor(step))


def load(engine: Any, checkpoint: Path, config: TrainConfig, universal: bool) -> None:
    """Puts a checkpoint's weights and optimizer state into the engine, also into one that has trained.

    Args:
        universal: whether the checkpoint is in DeepSpeed's universal form; asked for when it is read, not before.
    """
    engine._config.load_universal_checkpoint = universal
    if config.zero_stage == 3:
        engine.empty_partition_cache()  # waits for what the last forward pass has prefetched
    decay = [group["weight_decay"] for group in engine.optimizer.param_groups]
    engine.load_checkpoint(
        str(checkpoint.parent),
        tag=checkpoint.name,
        load_module_strict=config.method == "full",
        load_lr_scheduler_states=False,
    )
    # From a universal checkpoint, ZeRO-3 gives all groups the first one's options and one tensor as their step count,
    # which each of them then counts up.
    for group, value in zip(engine.optimizer.param_groups, decay, strict=True):
        group["weight_decay"] = value
    for state in engine.optimizer.optimizer.state.values() if config.zero_stage else ():
        if isinstance(state.get("step"), torch.Tensor):
            state["step"] = state["step"].clone()


def save(engine: Any, tokenizer: Any, config: TrainConfig, untrained: bool = False) -> None:
    """Writes the model as safetensors in the training's precision, with its tokenizer and its stop token.

    Args:
        untrained: with the base model's weights, on the host, since there may be no room for another engine.
    """
    model = engine.module
    if untrained:
        if torch.distributed.get_rank() != 0:
            return
        model = prepare(config, len(tokenizer))
    elif config.zero_stage == 3:
        engine.empty_partition_cache()  # waits for what the last forward pass has prefetched
    if config.method == "lora":
        with whole(list(model.parameters()), write=False):
            if torch.distributed.get_rank() == 0:
                if config.save_adapters:
                    save_adapters(model, config.model / ADAPTERS)
                # in float32, and rounded once; on the host, since a GPU that trains in bf16 may not hold twice as much
                model = model.cpu().to(torch.float32).merge_and_unload().to(DTYPES[config.precision])
                state = {name: weight.clone() for name, weight in model.state_dict().items()}
    elif config.zero_stage == 3 and not untrained:
        state = engine._zero3_consolidated_16bit_state_dict()  # on rank 0
    else:
        state = model.state_dict()
    if torch.distributed.get_rank() != 0:
        return
    model.generation_config = transformers.GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=Renderer(tokenizer).stop_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    tied = set(model.all_tied_weights_keys)  # copies that loading makes anew
    model.save_pretrained(
        str(config.model), state_dict={name: weight for name, weight in state.items() if name not in tied}
    )
    tokenizer.save_pretrained(str(config.model))


def save_adapters(model: Any, folder: Path) -> None:
    """Writes the adapters as PEFT reads them, with the rows of new tokens, and without where the base model was."""
    from peft import get_peft_model_state_dict
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    state = get_peft_model_state_dict(model, save_embedding_layers=False)
    file = folder / "adapter_model.safetensors"
    save_file({name: weight.detach().clone() for name, weight in state.items()}, file, metadata={"format": "pt"})
    settings = copy(model.peft_config["default"])
    settings.base_model_name_or_path, settings.inference_mode = "", True
    settings.save_pretrained(str(folder))


def parameter_count(model: Any, trainable: bool = False) -> int:
    """The number of weights, also when ZeRO-3 holds them elsewhere."""
    chosen = (parameter for parameter in model.parameters() if parameter.requires_grad or not trainable)
    return sum(getattr(parameter, "ds_numel", parameter.numel()) for parameter in chosen)
