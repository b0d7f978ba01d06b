"""Registers an accepted model with its lineage and model card; the same one twice makes one version."""

import json
import tempfile
from pathlib import Path
from typing import Any

from components import __version__, code_digest
from components.errors import PipelineError
from components.records import count_rows, digest, path_digest, read_json, write_json
from components.register.card import model_card
from components.registry import COMPARED_WITH, RUN_DIGEST, Registry


def register(
    *,
    model: Path,
    train: Path,
    test: Path,
    evaluation: Path,
    verdict: Path,
    configuration: dict[str, Any],
    dataset: str,
    dataset_digest: str,
    base_model: str,
    base_model_digest: str,
    license: str,
    champion: str,
    run_digest: str,
    registry: str,
    model_name: str,
    registered: Path,
) -> dict[str, Any]:
    """Registers the model, if it was accepted, as a version of the registered model and moves the champion alias to it.

    Args:
        model: The tuned model's folder.
        train: The rows that it was trained on.
        test: The rows that it was tested on.
        evaluation: The figures that evaluate wrote.
        verdict: The verdict that gate wrote.
        configuration: The run's parameters.
        dataset: The dataset's pinned name.
        dataset_digest: Its digest.
        base_model: The base model's pinned name.
        base_model_digest: Its digest.
        license: The dataset's licence.
        champion: The version that the model was compared with, as resolve refers to it; empty: none.
        run_digest: What resolve computed for the run.
        registry: The MLflow registry: sqlite:///FILE or http(s)://HOST.
        model_name: The registered model's name.
        registered: Where to write what was registered (JSON).

    Returns:
        name, version and aliases; empty when the verdict was to reject.

    Raises:
        RegistryError: the registry cannot be reached or refuses.
        PipelineError: the model is not in safetensors alone.
    """
    decision = read_json(verdict)
    if decision["verdict"] != "accepted":
        write_json(registered, None)
        print("register: nothing, because the gate rejected the model: " + "; ".join(decision["reasons"]))
        return {}
    unsafe = sorted(path.name for path in model.rglob("*") if path.suffix in (".bin", ".pt", ".pth", ".pkl", ".ckpt"))
    if unsafe or not any(model.glob("*.safetensors")):
        raise PipelineError(f"register: the model must be safetensors alone, found {', '.join(unsafe) or 'none'}")
    lineage = {
        "dataset": dataset,
        "dataset_digest": dataset_digest,
        "dataset_license": license,
        "base_model": base_model,
        "base_model_digest": base_model_digest,
        "train_digest": path_digest(train),
        "test_digest": path_digest(test),
        "model_digest": path_digest(model),
        RUN_DIGEST: run_digest,
        COMPARED_WITH: champion,
        "code_version": __version__,
        "code_digest": code_digest(),
    }
    figures = read_json(evaluation)
    tags = {name: str(value) for name, value in lineage.items()}
    with tempfile.TemporaryDirectory() as scratch:
        papers = Path(scratch)
        write_json(
            papers / "lineage.json",
            {**lineage, "configuration": configuration, "evaluation": figures["models"], "gate": decision},
        )
        (papers / "README.md").write_text(
            model_card(
                name=model_name,
                license=license,
                train=count_rows(train),
                records=figures["records"],
                template=configuration.get("template", ""),
                stop=_stop_token(model),
                models=figures["models"],
                verdict=decision,
                lineage=lineage,
            ),
            encoding="utf-8",
        )
        version, created = Registry(registry, model_name).register(
            key=digest(run_digest, lineage["model_digest"]),
            folders=[model, papers],
            params=configuration,
            metrics={
                f"{name}_{figure}": model[figure]
                for name, model in figures["models"].items()
                for figure in ("perplexity", "bits_per_byte")
            },
            tags=tags,
        )
    result = {"name": model_name, "version": version.number, "aliases": version.aliases}
    write_json(registered, result)
    print(
        f"register: {model_name} version {version.number} ({'new' if created else 'was there'}), "
        f"alias {', '.join(version.aliases) or 'none: it was moved away by hand'}"
    )
    return result


def _stop_token(model: Path) -> str:
    settings = json.loads((model / "tokenizer_config.json").read_text(encoding="utf-8"))
    return str(settings.get("eos_token", ""))
