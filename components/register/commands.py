"""What a person asks a registry: what is there, what is in use, and to use another version."""

import json as json_text
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from components.errors import ParameterError
from components.register.signing import verify as verify_signature
from components.registry import Move, Registry, Version, open_registry
from components.sources import cache_folder


def list_versions(*, registry: str, model_name: str, json: bool = False) -> None:
    """List the versions of a registered model, oldest first.

    Args:
        registry: The model registry: sqlite:///FILE, http(s)://HOST or kubeflow://HOST:PORT?artifacts=URI.
        model_name: The registered model's name.
        json: Print JSON instead of a table.
    """
    versions = _open(registry, model_name).versions()
    if json:
        _print_json([_summary(version) for version in versions])
        return
    header = ["version", "alias", "registered", "bits per byte", "perplexity", "dataset", "base model"]
    rows = [
        [
            version.number,
            ", ".join(version.aliases),
            _time(version.created),
            version.tags.get("tuned_bits_per_byte", ""),
            version.tags.get("tuned_perplexity", ""),
            _short(version.tags.get("dataset", "")),
            _short(version.tags.get("base_model", "")),
        ]
        for version in versions
    ]
    print(_table(header, rows) if rows else f"{model_name} has no version in {registry}")


def show(*, registry: str, model_name: str, version: str = "", json: bool = False) -> None:
    """Show one version with its lineage, and how the champion moved.

    Args:
        registry: The model registry: sqlite:///FILE, http(s)://HOST or kubeflow://HOST:PORT?artifacts=URI.
        model_name: The registered model's name.
        version: The version's number; the champion without it.
        json: Print JSON instead of tables.
    """
    store = _open(registry, model_name)
    shown, moves = _chosen(store, version), store.moves()
    if json:
        _print_json({**_summary(shown), "champion_moves": [_moved(move) for move in moves]})
        return
    about = {"version": shown.number, "alias": ", ".join(shown.aliases), "registered": _time(shown.created)}
    print(_table(["what", "value"], [[name, value] for name, value in {**about, **_sorted(shown.tags)}.items()]))
    if moves:
        rows = [[_time(move.at), move.previous or "none", move.to, move.reason] for move in moves]
        print(_table(["champion moved", "from", "to", "reason"], rows))


def promote(*, registry: str, model_name: str, version: str, reason: str, json: bool = False) -> None:
    """Make a version the champion.

    Args:
        registry: The model registry: sqlite:///FILE, http(s)://HOST or kubeflow://HOST:PORT?artifacts=URI.
        model_name: The registered model's name.
        version: The version's number.
        reason: Why; it is kept with the model.
        json: Print JSON instead of a line.
    """
    store = _open(registry, model_name)
    _tell(store, store.promote(store.numbered(version), reason), json)


def rollback(*, registry: str, model_name: str, reason: str, version: str = "", json: bool = False) -> None:
    """Make an earlier version the champion again.

    Args:
        registry: The model registry: sqlite:///FILE, http(s)://HOST or kubeflow://HOST:PORT?artifacts=URI.
        model_name: The registered model's name.
        reason: Why; it is kept with the model.
        version: The earlier version's number; without it, the champion before the present one.
        json: Print JSON instead of a line.
    """
    store = _open(registry, model_name)
    champion = store.champion()
    target = store.numbered(version) if version else store.previous_champion()
    if champion and int(target.number) > int(champion.number):
        raise ParameterError(
            f"version {target.number} is later than the champion, version {champion.number}; use promote"
        )
    _tell(store, store.promote(target, reason), json)


def verify(*, registry: str, model_name: str, version: str = "", public_key: str = "", json: bool = False) -> None:
    """Check a version's files against the digest that was registered, and with a key against their signature.

    Args:
        registry: The model registry: sqlite:///FILE, http(s)://HOST or kubeflow://HOST:PORT?artifacts=URI.
        model_name: The registered model's name.
        version: The version's number; the champion without it.
        public_key: A PEM file with the public key; without it the signature is not checked.
        json: Print JSON instead of a line.
    """
    store = _open(registry, model_name)
    chosen = _chosen(store, version)
    cache_folder().mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=cache_folder()) as scratch:  # what was fetched before says nothing of what is there now
        folder = store.download(chosen, Path(scratch) / "model")
        if public_key:
            verify_signature(folder, public_key)
    digest = chosen.tags["content_digest"]
    if json:
        _print_json({"version": chosen.number, "content_digest": digest, "signature_checked": bool(public_key)})
        return
    signature = "signature holds" if public_key else "signature not checked: no --public_key"
    print(f"version {chosen.number} of {model_name}: files are those registered, {digest}; {signature}")


COMMANDS: dict[str, Callable[..., None]] = {
    "list": list_versions,
    "show": show,
    "promote": promote,
    "rollback": rollback,
    "verify": verify,
}


def _open(registry: str, model_name: str) -> Registry:
    """A registry that is there: asking a question makes no database."""
    file = Path(registry.removeprefix("sqlite:///"))
    if registry.startswith("sqlite:///") and not file.is_file():
        raise ParameterError(f"registry={registry!r}: {file} does not exist")
    return open_registry(registry, model_name)


def _chosen(store: Registry, number: str) -> Version:
    if number:
        return store.numbered(number)
    champion = store.champion()
    if champion is None:
        raise ParameterError(f"{store.name} has no champion; name a version")
    return champion


def _tell(store: Registry, move: Move, json: bool) -> None:
    if json:
        _print_json({"name": store.name, **_moved(move)})
    else:
        print(f"champion of {store.name}: version {move.to}, was {move.previous or 'none'}; reason: {move.reason}")


def _summary(version: Version) -> dict[str, Any]:
    return {
        "name": version.name,
        "version": version.number,
        "aliases": version.aliases,
        "registered": _time(version.created),
        "source": version.source,
        "tags": _sorted(version.tags),
    }


def _moved(move: Move) -> dict[str, str]:
    return {"at": _time(move.at), "from": move.previous, "to": move.to, "reason": move.reason}


def _sorted(tags: dict[str, str]) -> dict[str, str]:
    return dict(sorted(tags.items()))


def _time(milliseconds: int) -> str:
    return datetime.fromtimestamp(milliseconds / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _short(source: str) -> str:
    """A source's last part, which fits into a table."""
    return source.partition("@")[0] if not source.startswith("/") else Path(source).name


def _table(header: list[str], rows: list[list[str]]) -> str:
    """Columns as wide as they need to be, two spaces apart."""
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]
    lines = [header, ["-" * width for width in widths], *rows]
    padded = ("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)
    return "\n".join(line.rstrip() for line in padded)


def _print_json(value: Any) -> None:
    print(json_text.dumps(value, indent=2, ensure_ascii=False))
