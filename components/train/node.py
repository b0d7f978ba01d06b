"""python -m components.train.node: one node of a TrainJob whose nodes share an object store and no folder.

It downloads input and base model, trains as every node does, and the first node uploads what came of it, marker last.
"""

import json
from pathlib import Path

from components.cli import main
from components.errors import ModelError, StorageError
from components.sources import Pinned, fetch
from components.store import MARKER, Store
from components.train.bucket import on_disk
from components.train.config import TrainConfig
from components.train.train import train


def node(store: str, folder: Path) -> None:
    """Trains on one node of a TrainJob, on what the launcher put into an object store.

    Args:
        store: URI of the job's folder in the store.
        folder: a disk of this node, for input, checkpoints under way and output.

    Raises:
        StorageError: the store cannot be read or written.
        PipelineError: as train.
    """
    place = Store(store)
    told = place.read("config.json")
    if told is None:
        raise StorageError(f"{store}/config.json is not there; only the launcher of a TrainJob writes it")
    values = json.loads(told)
    place.at("input").get(folder / "input")
    values["base_model"] = str(base_model(values["base_model"], values["base_model_digest"], store, folder))
    config = on_disk(TrainConfig.from_plain(values), folder)
    config.metrics.parent.mkdir(parents=True, exist_ok=True)
    train(config, publish=lambda: publish(place, config))


def base_model(uri: str, digest: str, store: str, folder: Path) -> Path:
    """The base model on this node: the launcher's copy, or, at a URI of its own, what resolve has seen there.

    Raises:
        ModelError: it is not there.
    """
    if not uri.startswith(f"{store.rpartition('/runs/')[0]}/cache/"):
        return fetch(Pinned(uri=uri, digest=digest), "model")
    copy, target = Store(uri), folder / "base_model"
    try:
        copy.get(target, [MARKER])
        copy.get(target, json.loads((target / MARKER).read_text(encoding="utf-8")))
    except FileNotFoundError as missing:
        raise ModelError(
            f"base_model: {missing.filename} is missing; remove {uri}, and the next run makes it anew"
        ) from None
    return target


def publish(place: Store, config: TrainConfig) -> None:
    """Uploads the model, the curves and the metrics, marker last."""
    place.remove("model")
    place.at("model").put(config.model)
    if config.tensorboard:
        place.at("tensorboard").put(config.tensorboard)
    for file in (config.curves, config.metrics):
        place.put_file(file, file.name)
    place.write(MARKER, b"{}")


if __name__ == "__main__":
    raise SystemExit(main(node, prog="python -m components.train.node"))
