"""Registers an accepted model with its lineage and model card; the same one twice makes one version."""

import json
import tempfile
from pathlib import Path
from typing import Any

from components.errors import PipelineError
from components.records import digest, read_json, write_json
from components.register.card import model_card
from components.register.lineage import execution, lineage
from components.register.signing import sign_if_asked
from components.registry import Entry, Registry, Version, open_registry
from components.run_notes import reject

# What can run code when it is loaded: pickles, and a model's own modules.
UNSAFE = (".bin", ".pt", ".pth", ".pkl", ".ckpt", ".py")
CODE = ".py"  # allowed where the user trusted it


def register(
    *,
    model: Path,
    train: Path,
    test: Path,
    curves: Path | None = None,
    evaluation: Path,
    verdict: Path,
    configuration: dict[str, Any],
    dataset: str,
    dataset_digest: str,
    base_model: str,
    base_model_digest: str,
    license: str,
    template: str,
    template_digest: str,
    champion: str,
    started_from: str = "",
    run_digest: str,
    inputs: dict[str, str] | None = None,
    profile: Path | None = None,
    registry: str,
    model_name: str,
    registered: Path,
) -> dict[str, Any]:
    """Registers the model, if it was accepted, as a version of the registered model and moves the champion alias to it.

    The alias stays where it is when another version got it after the model had been compared: they were not compared.

    That a model was rejected is noted in the registry, so that the same run need not be made again to find that out.

    With PRIVATE_LLM_SIGNING_KEY in the environment, the version's files are signed with that key.

    Args:
        model: The tuned model's folder.
        train: The rows that it was trained on.
        test: The rows that it was tested on.
        curves: The curves that train wrote; MLflow shows them with the version's run.
        evaluation: The figures that evaluate wrote.
        verdict: The verdict that gate wrote.
        configuration: The run's parameters.
        dataset: The dataset's pinned name.
        dataset_digest: Its digest.
        base_model: The base model's pinned name.
        base_model_digest: Its digest.
        license: The dataset's licence.
        template: The prompt template: dolly, base, or a Jinja file's pinned name.
        template_digest: Its digest.
        champion: The version that the model was compared with, as resolve refers to it; empty: none.
        started_from: The version whose weights the training began with, in the same way; empty: the base model's.
        run_digest: What resolve computed for the run.
        inputs: The digests that it is made of, by name.
        profile: The folder with the profile of the data, kept with the version so that later data can be compared.
        registry: The model registry: sqlite:///FILE, http(s)://HOST or kubeflow://HOST:PORT?artifacts=URI.
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
        broken = [rule["reason"] for rule in decision.get("rules", []) if rule["passed"] is False]
        reject(open_registry(registry, model_name), run_digest, champion, broken or decision["reasons"])
        write_json(registered, None)
        print("register: nothing, because the gate rejected the model: " + "; ".join(decision["reasons"]))
        return {}
    trusted = str(configuration.get("trust_remote_code", False)).lower() == "true"  # KFP hands on texts
    _check_safe(model, trusted)
    pinned = {
        "dataset": dataset,
        "dataset_digest": dataset_digest,
        "base_model": base_model,
        "base_model_digest": base_model_digest,
        "template": template,
        "template_digest": template_digest,
        "champion": champion,
        "started_from": started_from,
        "run_digest": run_digest,
    }
    origin: dict[str, Any] = {"trust_remote_code": trusted} if trusted else {}
    origin |= lineage(model=model, train=train, test=test, pinned=pinned, inputs=inputs or {}, license=license)
    figures = read_json(evaluation)
    beside = {part: figures[part] for part in ("corpora", "tasks")}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        _link(model, folder)
        if profile:
            _link(profile, folder)
        said = {**origin, "configuration": configuration, "evaluation": figures["models"], "gate": decision, **beside}
        _write(folder / "lineage.json", json.dumps(said, indent=2) + "\n")
        card = model_card(
            name=model_name,
            license=license,
            lineage=origin,
            models=figures["models"],
            records=figures["records"],
            **beside,
            stop=_stop_token(model),
            verdict=decision,
        )
        _write(folder / "README.md", card)
        signed = sign_if_asked(folder)
        entry = Entry(
            key=digest(run_digest, origin["model_digest"]),
            folder=folder,
            configuration=configuration,
            metrics=_metrics(figures),
            tags=_tags({**origin, "verdict": decision["verdict"], **execution()}),
            curves=read_json(curves) if curves else (),
        )
        store = open_registry(registry, model_name)
        version, created = store.register(entry)
    result = {"name": model_name, "version": version.number, "aliases": version.aliases}
    write_json(registered, result)
    print(
        f"register: {model_name} version {version.number} ({'new' if created else 'was there'}), "
        f"alias {', '.join(version.aliases) or _why_none(store, version)}" + (", signed" if signed and created else "")
    )
    return result


def _why_none(store: Registry, version: Version) -> str:
    champion = store.champion()
    if champion is None or any(move.to == version.number for move in store.moves()):
        return "none: it was moved away by hand"
    return (
        f"none: version {champion.number} became the champion meanwhile and was not compared with it; "
        "compare the two, and promote by hand"
    )


def _check_safe(model: Path, trusted: bool) -> None:
    refused = [suffix for suffix in UNSAFE if not (trusted and suffix == CODE)]
    unsafe = sorted(path.name for path in model.rglob("*") if path.suffix in refused)
    if unsafe or not any(model.glob("*.safetensors")):
        raise PipelineError(f"register: the model must be safetensors alone, found {', '.join(unsafe) or 'none'}")


def _link(source: Path, folder: Path) -> None:
    """A folder's files beside what is written about them, without a copy of the weights."""
    for path in source.rglob("*"):
        if path.is_file():
            place = folder / path.relative_to(source)
            place.parent.mkdir(parents=True, exist_ok=True)
            place.symlink_to(path.resolve())


def _write(path: Path, text: str) -> None:
    path.unlink(missing_ok=True)  # a link to the model's own file, which must stay as it is
    path.write_text(text, encoding="utf-8")


def _metrics(figures: dict[str, Any]) -> dict[str, float]:
    """The figures that versions are compared by, named as evaluate names them."""
    places = {"": figures, **{f"{title}_": corpus for title, corpus in figures["corpora"].items()}}
    return {
        f"{name}_{place}{figure}": model[figure]
        for place, part in places.items()
        for name, model in part["models"].items()
        for figure in ("perplexity", "bits_per_byte")
        if model[figure] is not None  # a perplexity beyond float64
    } | {
        f"{name}_{task}_{metric}": model["value"]
        for task, metrics in figures["tasks"].items()
        for metric, found in metrics.items()
        for name, model in found["models"].items()
    }


def _tags(values: dict[str, Any]) -> dict[str, str]:
    return {name: str(value) for name, value in values.items()}


def _stop_token(model: Path) -> str:
    settings = json.loads((model / "tokenizer_config.json").read_text(encoding="utf-8"))
    return str(settings.get("eos_token", ""))
