"""Where a model is computed: on a CPU, on one GPU, or, when it is too large for one, spread over all of them."""

import gc
from collections.abc import Sequence
from typing import Any

from components.errors import ModelError

SHARE = 0.8  # of a GPU's free memory for weights; the rest is for activations


def place(model: Any) -> Any:
    """Moves a model to where it is computed, once the one before is gone; under torchrun, to the GPU of this rank.

    Raises:
        ModelError: the GPUs together are too small for it.
    """
    import torch

    from components.ranks import ranks

    # The hooks of a model that was spread hold it in a cycle, and what torch keeps for reuse counts as used.
    gc.collect()
    torch.cuda.empty_cache()
    gpus = torch.cuda.device_count()
    if not gpus:
        return model
    if ranks() > 1:
        return model.to(torch.cuda.current_device())
    spread = layout(model, [torch.cuda.mem_get_info(number)[0] for number in range(gpus)])
    if len(set(spread.values())) == 1:
        return model.to(f"cuda:{next(iter(spread.values()))}")
    from accelerate import dispatch_model

    print(f"evaluate: the model is spread over {len(set(spread.values()))} GPUs")
    return dispatch_model(model, spread)


def layout(model: Any, free: Sequence[int]) -> dict[str, int]:
    """Which GPU holds which part of a model: all of it on the first that is large enough, else layer by layer.

    Args:
        free: bytes that are free on each GPU.

    Returns:
        the GPU's number by the module's name, as accelerate's device maps; "" is the whole model.

    Raises:
        ModelError: the GPUs together are too small.
    """
    from accelerate import infer_auto_device_map
    from accelerate.utils import compute_module_sizes

    needed = compute_module_sizes(model)[""]
    usable = [int(SHARE * size) for size in free]
    whole = 0 if len(free) == 1 else next((number for number, size in enumerate(usable) if size >= needed), None)
    if whole is not None:
        return {"": whole}
    room: dict[int | str, int] = dict(enumerate(usable))
    room["cpu"] = needed  # for what no GPU has room for
    blocks = list(model._no_split_modules or [])
    spread = infer_auto_device_map(model, max_memory=room, no_split_module_classes=blocks)
    if "cpu" in spread.values():
        raise ModelError(
            f"the model's weights take {needed / 2**30:.1f} GiB, and {len(free)} GPUs with {sum(free) / 2**30:.1f} GiB "
            "free are too few to evaluate it; give evaluate more GPUs, or use eval_precision=bf16"
        )
    return dict(spread)
