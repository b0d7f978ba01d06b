"""The champion's perplexity on records that are new to it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from components.models import load_model, max_positions
from components.rendering import encoded_by_champion, load_tokenizer


def champion_figures(
    folder: Path, records: Sequence[dict[str, Any]], *, precision: str, batch_size: int, trust_remote_code: bool = False
) -> dict[str, Any]:
    """Perplexity and bits per byte of a registered model on records, through its own tokenizer and template.

    Records that are longer than the model was built for are left out.

    Returns:
        records, perplexity and bits_per_byte; the last two are None where no record fits.
    """
    import torch
    import transformers

    from components.perplexity import score

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    tokenizer = load_tokenizer(folder, trust_remote_code)
    dtype = torch.float32 if precision == "fp32" else torch.bfloat16
    model = load_model(folder, len(tokenizer), dtype, trust_remote_code)
    positions = max_positions(model.config) or 1024
    rows = [
        {
            "id": record["id"],
            "input_ids": encoded.input_ids,
            "loss_start": encoded.loss_start,
            "target_bytes": len(record["response"].encode("utf-8")),
        }
        for record, encoded in zip(records, encoded_by_champion(tokenizer, records), strict=True)
        if 1 < len(encoded.input_ids) <= positions
    ]
    if not rows:
        return {"records": 0, "perplexity": None, "bits_per_byte": None}
    device = "cuda" if torch.cuda.is_available() else "cpu"
    scores = score(model.to(device), rows, batch_size=batch_size, description="drift champion")
    return {"records": len(rows), "perplexity": scores.figures()["perplexity"], "bits_per_byte": scores.bits_per_byte}
