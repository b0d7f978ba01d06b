"""Where datasets and models come from: a local path, an fsspec URI (s3://, gs://, …) or a Hugging Face hub id.

`pin` turns a name into something immutable and its digest; `fetch` brings what was pinned to this machine.
A hub is asked only when the user named a hub id.
"""

import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NoReturn
from urllib.parse import unquote

from components.errors import DataError, ModelError, UserError
from components.records import canonical_json, path_digest

Kind = Literal["dataset", "model", "template"]
HUB_ID = re.compile(r"^[\w.-]+/[\w.-]+(@[\w./-]+)?$")
DATA_SUFFIXES = (".jsonl", ".parquet", ".csv", ".json")
# What changes when the bytes of a remote object change, in the words of the stores that fsspec speaks to.
REMOTE_FINGERPRINT = (
    "size",
    "ETag",
    "etag",
    "md5Hash",
    "content_md5",
    "checksum",
    "VersionId",
    "LastModified",
    "mtime",
    "created",
)


@dataclass(frozen=True, kw_only=True)
class Pinned:
    """A source that can no longer change unnoticed."""

    uri: str  # with the revision resolved, for a hub id
    digest: str


def where(uri: str) -> Literal["local", "hub", "remote"]:
    """Tells from its form where a source lies; a local path wins over a hub id of the same name."""
    if "://" in uri:
        return "local" if uri.startswith("file://") else "remote"
    looks_local = uri.startswith(("/", "./", "../", "~")) or uri.lower().endswith((*DATA_SUFFIXES, ".jinja"))
    if looks_local or Path(uri).exists() or not HUB_ID.match(uri):
        return "local"
    return "hub"


def local_path(uri: str) -> Path:
    """The absolute path of a local source."""
    if uri.startswith("file://"):
        uri = unquote(uri.removeprefix("file://"))
    return Path(uri).expanduser().absolute()


def check_local(uri: str, kind: Kind, *, weights: bool = True) -> None:
    """Raises, naming the path, when a local source is not there or is not what its kind needs. Asks no network.

    Args:
        weights: whether a model must have its weights, and not only its tokenizer.
    """
    if where(uri) != "local":
        return
    path = local_path(uri)
    if not path.exists():
        _fail(
            kind,
            f"{path} does not exist; give a local path, a URI such as s3://bucket/key, or a hub id (org/name@revision)",
        )
    if kind == "model" and not (path / "config.json").is_file():
        _fail(kind, f"{path} is not a model folder: it has no config.json")
    if kind == "model" and weights and not any(path.glob("*.safetensors")):
        _fail(kind, f"{path} has no weights in safetensors; save the model again with save_pretrained")
    if kind == "template" and not path.is_file():
        _fail(kind, f"{path} is a folder; give a Jinja file")
    if kind == "dataset" and not (path.is_file() and path.name.lower().endswith(DATA_SUFFIXES)):
        _fail(kind, f"{path} is not a data file; allowed: {', '.join(DATA_SUFFIXES)}")


def pin(uri: str, kind: Kind) -> Pinned:
    """The source's immutable name and digest.

    Raises:
        DataError, ModelError: it cannot be found or read.
    """
    check_local(uri, kind)
    match where(uri):
        case "local":
            path = local_path(uri)
            return Pinned(uri=str(path), digest=path_digest(path))
        case "remote":
            return Pinned(uri=uri, digest=_remote_digest(uri, kind))
        case "hub":
            name, _, revision = uri.partition("@")
            commit = _hub_commit(name, revision or None, kind)
            return Pinned(uri=f"{name}@{commit}", digest=f"git:{commit}")


def fetch(pinned: Pinned, kind: Kind, patterns: list[str] | None = None) -> Path:
    """The source as a path on this machine; hub and remote sources are copied into the cache once.

    Args:
        patterns: for a hub id, the files that are wanted; all of them without it.
    """
    match where(pinned.uri):
        case "local":
            check_local(pinned.uri, kind, weights=False)
            return local_path(pinned.uri)
        case "hub":
            from huggingface_hub import snapshot_download

            name, _, revision = pinned.uri.partition("@")
            return Path(snapshot_download(name, revision=revision, repo_type=kind, allow_patterns=patterns))
        case "remote":
            return _download(pinned, kind)


def cache_folder() -> Path:
    """Where fetched sources are kept between runs: $PRIVATE_LLM_CACHE, or a folder in the user's cache."""
    return Path(os.environ.get("PRIVATE_LLM_CACHE") or Path.home() / ".cache" / "private-llm")


def _fail(kind: Kind, message: str) -> NoReturn:
    error: type[UserError] = DataError if kind == "dataset" else ModelError
    raise error(f"{'base_model' if kind == 'model' else kind}: {message}")


def _filesystem(uri: str, kind: Kind) -> tuple[Any, str]:
    import fsspec

    try:
        filesystem, path = fsspec.core.url_to_fs(uri)
    except (ImportError, ValueError) as error:
        _fail(kind, f"cannot open {uri}: {error}")
    return filesystem, path


def _remote_files(uri: str, kind: Kind) -> tuple[Any, str, dict[str, dict[str, Any]]]:
    filesystem, root = _filesystem(uri, kind)
    try:
        files = filesystem.find(root, detail=True)
    except Exception as error:  # each store raises its own; all of them mean that it cannot be read
        _fail(
            kind,
            f"cannot list {uri}: {_first_line(error)}",
        )
    if not files:
        _fail(kind, f"nothing is stored at {uri}")
    return filesystem, root, files


def _remote_digest(uri: str, kind: Kind) -> str:
    _, root, files = _remote_files(uri, kind)
    entries = {
        name.removeprefix(root): {key: str(info[key]) for key in REMOTE_FINGERPRINT if info.get(key) is not None}
        for name, info in files.items()
    }
    return "remote:" + hashlib.sha256(canonical_json(entries).encode()).hexdigest()


def _download(pinned: Pinned, kind: Kind) -> Path:
    if _remote_digest(pinned.uri, kind) != pinned.digest:
        _fail(kind, f"{pinned.uri} changed after it was resolved; start the run again")
    filesystem, root, files = _remote_files(pinned.uri, kind)
    folder = cache_folder() / kind / pinned.digest.replace(":", "-")
    if not folder.exists():
        partial = folder.with_name(f"{folder.name}.partial-{os.getpid()}")
        for name in sorted(files):
            target = partial / (name.removeprefix(root).lstrip("/") or Path(name).name)
            target.parent.mkdir(parents=True, exist_ok=True)
            filesystem.get_file(name, str(target))
        try:
            partial.rename(folder)
        except OSError:
            if not folder.exists():  # otherwise another process was first, with the same bytes
                raise
    return folder if kind == "model" else folder / Path(root).name


def _hub_commit(name: str, revision: str | None, kind: Kind) -> str:
    from huggingface_hub import HfApi

    try:
        info = HfApi().repo_info(name, revision=revision, repo_type=kind)
    except Exception as error:  # offline, unknown, private: the hub's own words say which
        _fail(kind, f"{name} is no local path, and the hub did not answer for it: {_first_line(error)}")
    return str(info.sha)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
