"""One rank of a training, as torchrun starts it."""

import time
from pathlib import Path
from typing import Any

import deepspeed
import pyarrow.parquet as pq
import torch
import transformers
from transformers import TrainingArguments

from components.models import load_model, whole
from components.records import write_json
from components.rendering import Renderer, load_tokenizer
from components.train.batches import Rows
from components.train.checkpoints import MarkComplete, newest_complete
from components.train.config import TrainConfig
from components.train.deepspeed import deepspeed_config
from components.train.trainer import ExactTrainer, Progress

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


def work(config: TrainConfig) -> None:
    """Trains on this rank; rank 0 writes the model, the curves and the metrics."""
    started = time.perf_counter()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    # First the arguments, which hold DeepSpeed's configuration, then the model: only so is it partitioned on loading.
    arguments = training_arguments(config)
    deepspeed.init_distributed("nccl" if arguments.device.type == "cuda" else "gloo", verbose=False)
    tokenizer = load_tokenizer(config.tokenizer)
    folder = Path(config.base_model)  # fetched by whoever started the ranks
    transformers.set_seed(config.seed)  # adapters start at random, before Trainer sets its own seed
    model = load_model(folder, len(tokenizer), DTYPES[config.precision])
    if config.method == "lora":
        model = add_adapters(model, config, list(range(len(load_tokenizer(folder)), len(tokenizer))))
    progress = Progress()
    trainer = ExactTrainer(
        model=model,
        args=arguments,
        train_rows=Rows(pq.read_table(config.train)),
        eval_rows=Rows(pq.read_table(config.test)),
        callbacks=[progress, MarkComplete()],
    )
    trainer.remove_callback(transformers.PrinterCallback)
    progress.trainer = trainer
    begun = time.perf_counter()
    resumed = newest_complete(config.checkpoints) if config.checkpoints else None
    if resumed and arguments.process_index == 0:
        print(f"train: resuming from {resumed}", flush=True)
    trainer.train(resume_from_checkpoint=resumed)
    seconds = time.perf_counter() - begun - trainer.evaluation_seconds
    sizes = {
        "parameters": parameter_count(trainer.model),
        "trainable_parameters": parameter_count(trainer.model, trainable=True),
    }
    save(trainer, tokenizer, config)
    tokens = torch.tensor([trainer.tokens_seen], dtype=torch.int64, device=arguments.device)
    if arguments.world_size > 1:
        torch.distributed.all_reduce(tokens)
    if arguments.process_index == 0:
        write_json(config.curves, trainer.state.log_history)
        write_json(
            config.metrics,
            {
                "steps": trainer.state.global_step,
                "train_loss": next(
                    entry["train_loss"] for entry in reversed(trainer.state.log_history) if "train_loss" in entry
                ),
                "tokens": int(tokens.item()),
                "tokens_per_second": int(tokens.item()) / seconds,
                "train_seconds": seconds,
                "startup_seconds": begun - started,
                **sizes,
                "world_size": arguments.world_size,
                "device": arguments.device.type,
            },
        )


def training_arguments(config: TrainConfig) -> TrainingArguments:
    """The training in transformers' words."""
    cuda = torch.cuda.is_available()
    return TrainingArguments(
        output_dir=str(config.checkpoints or config.model.parent / "unused"),
        deepspeed=deepspeed_config(config),
        use_cpu=not cuda,
        bf16=config.precision == "bf16",
        fp16=config.precision == "fp16",
        num_train_epochs=config.epochs,
        learning_rate=config.learning_rate,
        lr_scheduler_type=config.lr_scheduler,
        warmup_steps=config.warmup_steps,
        weight_decay=config.weight_decay,
        per_device_train_batch_size=config.per_device_batch_size,
        per_device_eval_batch_size=config.per_device_eval_batch_size,
        gradient_accumulation_steps=config.gradient_accumulation_steps,
        activation_checkpointing=config.gradient_checkpointing,
        activation_checkpointing_kwargs={"use_reentrant": False},
        average_tokens_across_devices=True,
        seed=config.seed,
        data_seed=config.seed,
        logging_steps=config.logging_steps,
        logging_nan_inf_filter=False,
        eval_strategy="steps" if config.eval_steps else "epoch",
        eval_steps=config.eval_steps or None,
        eval_on_start=True,  # the held-out curve begins with the base model
        save_strategy="steps" if config.checkpoints else "no",
        save_steps=config.save_steps,
        save_total_limit=config.save_total_limit,
        dataloader_pin_memory=cuda,
        remove_unused_columns=False,
        disable_tqdm=True,
        report_to=[],
    )


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


def save(trainer: ExactTrainer, tokenizer: Any, config: TrainConfig) -> None:
    """Writes the model as safetensors in the training's precision, with its tokenizer and its stop token."""
    model = trainer.accelerator.unwrap_model(trainer.model_wrapped)
    if config.zero_stage == 3:
        trainer.model_wrapped.empty_partition_cache()  # waits for what the last forward pass has prefetched
    if config.method == "full":
        state = trainer.accelerator.get_state_dict(trainer.model_wrapped)  # gathered on rank 0 under ZeRO-3
    else:
        with whole(list(model.parameters()), write=False):
            # in float32, and rounded once
            model = model.to(torch.float32).merge_and_unload().to(DTYPES[config.precision])
            state = {name: weight.clone() for name, weight in model.state_dict().items()}
    if trainer.args.process_index != 0:
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


def parameter_count(model: Any, trainable: bool = False) -> int:
    """The number of weights, also when ZeRO-3 holds them elsewhere."""
    chosen = (parameter for parameter in model.parameters() if parameter.requires_grad or not trainable)
    return sum(getattr(parameter, "ds_numel", parameter.numel()) for parameter in chosen)
