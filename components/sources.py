"""Where datasets and models come from: a local path, an fsspec URI (s3://, gs://, …) or a Hugging Face hub id.

A dataset may also be a folder or a glob, on this machine or in a store. `pin` turns a name into something immutable
and its digest; `fetch` brings what was pinned to this machine.
A hub is asked only when the user named a hub id.
"""

import hashlib
import os
import re
import shutil
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal, NoReturn
from urllib.parse import parse_qs, unquote, urlsplit
from uuid import uuid4

from components.errors import DataError, ModelError, ParameterError, StorageError, UserError
from components.files import GLOB, glob_parts, is_data, local_files, without_notes
from components.records import canonical_json, file_digest, path_digest

Kind = Literal["dataset", "model", "template", "corpus", "evaluation_set", "rules", "drift_rules", "tasks"]
HUB_ID = re.compile(r"^[\w.-]+/[\w.-]+(@[\w./-]+)?(:\w+)?$")
# Of URLs that open for whoever has them.
SIGNATURES = {"x-amz-signature", "x-goog-signature", "signature", "sig", "access_token", "token"}
SCHEME = re.compile(r"[a-z][a-z0-9+.-]*(::[a-z][a-z0-9+.-]*)*://", re.IGNORECASE)  # also fsspec's chains
PACKED = ("", ".gz", ".zst", ".bz2")
DATA_SUFFIXES = tuple(
    f".{suffix}{packed}"
    for suffix in ("jsonl", "ndjson", "json", "csv", "tsv", "parquet", "arrow", "txt", "md", "yaml", "yml")
    for packed in PACKED
)
# The parameter that names a kind, and what a file of that kind may be.
PARAMETER = {
    "model": "base_model",
    "corpus": "evaluation_corpora",
    "evaluation_set": "decontaminate",
    "rules": "gate_rules",
    "tasks": "evaluation_tasks",
    "drift_rules": "drift_rules",
}
TEXTS, LISTS = (".txt", ".jsonl", ".parquet"), (".yaml", ".yml")
SUFFIXES = {"corpus": TEXTS, "evaluation_set": TEXTS, "rules": LISTS, "drift_rules": LISTS}
FOLDERS = ("model", "tasks")  # kinds that are a folder as a whole
# What some models hold a second time for other programs than transformers, which reads the top folder alone.
NOT_READ = ["*/*", "consolidated*"]
SMALL = 1 << 16  # bytes of a file that is read at once
LEFT_SECONDS = 24 * 3600  # after which a copy under way is one that a killed process has left
# What changes when the bytes of a remote object change, in the words of the stores that fsspec speaks to.
REMOTE_FINGERPRINT = (
    "ETag",
    "etag",
    "md5Hash",
    "content_md5",
    "Content-MD5",
    "Digest",
    "checksum",
    "blob_id",
    "VersionId",
    "LastModified",
    "last_modified",
    "Last-Modified",
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


def check_uri(name: str, uri: str) -> None:
    """Raises ParameterError when a URI is none, or holds a password: it stands in parameters, YAML and logs."""
    if "://" not in uri:
        return
    try:
        place = urlsplit(uri)
    except ValueError:  # brackets that hold no IPv6 address
        place = urlsplit("")
    if place.password or (place.username and place.scheme in ("http", "https")):
        raise ParameterError(
            f"{name} holds a user name or password; give credentials by the environment or a mounted secret "
            "(docs/data.md)"
        )
    if SIGNATURES & {key.lower() for key in parse_qs(place.query)}:
        raise ParameterError(
            f"{name} holds a signature, which is a credential; give the URI without it, and credentials "
            "by the environment or a mounted secret (docs/data.md)"
        )
    if not SCHEME.match(uri):
        raise ParameterError(f"{name}={uri!r} is no URI, such as s3://bucket/key")


def local_path(uri: str) -> Path:
    """The absolute path of a local source."""
    if uri.startswith("file://"):
        uri = unquote(uri.removeprefix("file://"))
    return Path(uri).expanduser().absolute()


def check_local(uri: str, kind: Kind, *, weights: bool = True) -> None:
    """Raises, naming the path, when a local source is not there or is not what its kind needs. Asks no network.

    Args:
        weights: whether a model must have its weights, and not only its tokenizer.

    Raises:
        ParameterError: no URI, or one with a password in it.
    """
    check_uri(PARAMETER.get(kind, kind), uri)
    if where(uri) != "local":
        return
    path = local_path(uri)
    folder = str(path.parent if path.is_file() else path)
    try:
        folder.encode()
    except UnicodeEncodeError:
        _fail(kind, f"the folder name {folder!r} is not UTF-8, in which it is noted down; rename it")
    if kind == "dataset" and not path.is_file() and (path.exists() or GLOB.search(str(path))):
        local_files(path)
        return
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
    if kind == "tasks" and not path.is_dir():
        _fail(kind, f"{path} is not a folder; give the folder in which the task files lie")
    if kind in SUFFIXES and not (path.is_file() and path.name.lower().endswith(SUFFIXES[kind])):
        _fail(kind, f"{path} is not a file of a kind that is read here; allowed: {', '.join(SUFFIXES[kind])}")


def pin(uri: str, kind: Kind) -> Pinned:
    """The source's immutable name and digest.

    Raises:
        DataError, ModelError: it cannot be found or read.
    """
    check_local(uri, kind)
    match where(uri):
        case "local":
            path = local_path(uri)
            if kind in FOLDERS or path.is_file():
                return Pinned(uri=str(path), digest=path_digest(path))
            return Pinned(uri=str(path), digest=_names_digest(local_files(path)))
        case "remote":
            return Pinned(uri=uri, digest=_remote_digest(uri, kind))
        case "hub":
            name, revision, split = hub_parts(uri)
            if kind in (*SUFFIXES, "tasks"):
                wanted = "folder here" if kind == "tasks" else "file"
                _fail(kind, f"{uri} names no {wanted}; what is on the hub is hf://datasets/{name}/PLACE")
            commit = _hub_commit(name, revision or None, kind)
            ending = f":{split}" if split else ""
            return Pinned(uri=f"{name}@{commit}{ending}", digest=f"git:{commit}{ending}")


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
            unread = NOT_READ if patterns else None
            try:
                return Path(
                    snapshot_download(
                        name, revision=revision, repo_type=kind, allow_patterns=patterns, ignore_patterns=unread
                    )
                )
            except Exception as error:  # a connection, a disk, a login: each in its own words
                raise StorageError(f"cannot fetch {pinned.uri} from the hub: {_first_line(error)}") from error
        case "remote":
            folder, names = _download(pinned, kind)
            return folder if kind in FOLDERS else folder / names[0]


def fetch_files(pinned: Pinned) -> dict[str, Path]:
    """The files of a local or remote dataset on this machine, by their names under its folder, in the names' order."""
    if where(pinned.uri) == "local":
        return local_files(local_path(pinned.uri))
    folder, names = _download(pinned, "dataset")
    return {name: folder / name for name in names}


def read_text(uri: str) -> str:
    """A small local or remote file of a dataset.

    Raises:
        DataError: it cannot be read, is not UTF-8, or is large.
    """
    if where(uri) == "local":
        check_local(uri, "dataset")
        uri = local_path(uri).as_uri()
    filesystem, path = _filesystem(uri, "dataset")
    try:
        with filesystem.open(path, "rb") as file:
            content = file.read(SMALL + 1)
            if len(content) > SMALL:
                _fail("dataset", f"{uri} is larger than {SMALL} bytes")
            return str(content.decode("utf-8-sig"))
    except (OSError, ValueError) as error:
        _fail("dataset", f"cannot read {uri}: {_first_line(error)}")


def hub_parts(uri: str) -> tuple[str, str, str]:
    """A hub id's name, revision and split; the last two may be empty."""
    name, _, rest = uri.partition("@")
    if rest:
        revision, _, split = rest.partition(":")
    else:
        name, _, split = name.partition(":")
        revision = ""
    return name, revision, split


def cache_folder() -> Path:
    """Where fetched sources are kept between runs: $PRIVATE_LLM_CACHE, or a folder in the user's cache."""
    return Path(os.environ.get("PRIVATE_LLM_CACHE") or Path.home() / ".cache" / "private-llm")


def aside(folder: Path) -> Path:
    """Where this process alone makes a folder that is renamed when it is complete. What was left for a day goes.

    Pods that share a cache have the same process ids, so a name of these would be two pods' at once.
    """
    for left in folder.parent.glob(f"{folder.name}.partial-*"):
        with suppress(FileNotFoundError):  # another process removes it, or has just renamed it
            if time.time() - max(path.stat().st_mtime for path in (left, *left.rglob("*"))) > LEFT_SECONDS:
                shutil.rmtree(left, ignore_errors=True)
    return folder.with_name(f"{folder.name}.partial-{uuid4().hex[:12]}")


def _fail(kind: Kind, message: str) -> NoReturn:
    error: type[UserError] = DataError if kind in ("dataset", "tasks", *SUFFIXES) else ModelError
    raise error(f"{PARAMETER.get(kind, kind)}: {message}")


def _filesystem(uri: str, kind: Kind) -> tuple[Any, str]:
    import fsspec

    options: dict[str, Any] = {}
    if uri.startswith(("http://", "https://")):
        from aiohttp import ClientTimeout

        # a download may take hours, as long as something comes
        options["client_kwargs"] = {"timeout": ClientTimeout(total=None, sock_connect=60, sock_read=60)}
    try:
        filesystem, path = fsspec.core.url_to_fs(uri, **options)
    except Exception as error:  # each store raises its own
        _fail(kind, f"cannot open {uri}: {_reason(error, uri)}")
    return filesystem, path


def _names_digest(files: dict[str, Path]) -> str:
    entries = {name: file_digest(path) for name, path in files.items()}
    return "sha256:" + hashlib.sha256(canonical_json(entries).encode()).hexdigest()


def _remote_files(uri: str, kind: Kind) -> tuple[Any, dict[str, tuple[str, dict[str, Any]]]]:
    """A store, and by each file's name under the URI its place in the store and what the store tells about it."""
    filesystem, root = _filesystem(uri, kind)
    try:
        files = _list(filesystem, root)
    except Exception as error:  # each store raises its own; all of them mean that it cannot be read
        _fail(kind, f"cannot list {uri}: {_reason(error, uri)}")
    named = {_name(place, root): (place, info) for place, info in files.items()}
    if kind == "dataset" and root not in files:
        named = {name: named[name] for name in without_notes(filter(is_data, named))}
    if not named:
        _fail(kind, f"nothing is stored at {uri}")
    outside = next((name for name in named if ".." in PurePosixPath(name).parts or "\0" in name), None)
    if outside:
        _fail(kind, f"{uri} holds a file whose name leads out of it: {outside!r}; rename it")
    return filesystem, dict(sorted(named.items()))


def _list(filesystem: Any, root: str) -> dict[str, dict[str, Any]]:
    if "http" in filesystem.protocol:  # listing would follow the links that a page holds
        return {root: filesystem.info(root)}
    found = (filesystem.glob if GLOB.search(root) else filesystem.find)(root, detail=True)
    # an object whose name ends in a slash is what a console's "create folder" leaves
    return {place: info for place, info in found.items() if info.get("type") != "directory" and not place.endswith("/")}


def _name(place: str, root: str) -> str:
    """A file's name under a URI's folder."""
    if root.startswith(("http://", "https://")):  # what stands behind ? is no pattern, and no name
        return short_name(place)
    folder = glob_parts(root)[0] if GLOB.search(root) else root
    return place.removeprefix(folder).lstrip("/") or short_name(place)


def short_name(uri: str) -> str:
    """The last part of a path or of a URI's path."""
    return PurePosixPath(urlsplit(uri).path if "://" in uri else uri).name or "data"


def _remote_digest(uri: str, kind: Kind) -> str:
    filesystem, files = _remote_files(uri, kind)
    entries = {name: _fingerprint(filesystem, place, info) for name, (place, info) in files.items()}
    return "remote:" + hashlib.sha256(canonical_json(entries).encode()).hexdigest()


def _fingerprint(filesystem: Any, place: str, info: dict[str, Any]) -> dict[str, str]:
    """The first thing that a store tells and that changes with a file's bytes; their digest where it tells none.

    One alone: the same bytes, stored again, have the same checksum and another time.
    """
    key = next((key for key in REMOTE_FINGERPRINT if info.get(key) is not None), None)
    told = {key: str(info[key])} if key else {}
    if not told:
        with filesystem.open(place, "rb") as file:
            told = {"sha256": hashlib.file_digest(file, "sha256").hexdigest()}
    return {"size": str(info.get("size")), **told}


def _download(pinned: Pinned, kind: Kind) -> tuple[Path, list[str]]:
    """The folder of a remote source's copy in the cache, and the names of its files."""
    if _remote_digest(pinned.uri, kind) != pinned.digest:
        _fail(kind, f"{pinned.uri} changed after it was resolved; start the run again")
    filesystem, files = _remote_files(pinned.uri, kind)
    folder = cache_folder() / kind / pinned.digest.replace(":", "-")
    if not folder.exists():
        partial = aside(folder)
        for name, (place, _) in files.items():
            target = partial / name
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                filesystem.get_file(place, str(target))
            except Exception as error:  # each store raises its own
                raise StorageError(
                    f"cannot fetch {short_name(place)} of {pinned.uri}: {_reason(error, place)}"
                ) from error
        if _remote_digest(pinned.uri, kind) != pinned.digest:
            shutil.rmtree(partial)
            _fail(kind, f"{pinned.uri} changed while it was fetched; start the run again")
        try:
            partial.rename(folder)
        except OSError:
            if not folder.exists():  # otherwise another process was first, with the same bytes
                raise
    return folder, list(files)


def _hub_commit(name: str, revision: str | None, kind: Kind) -> str:
    from huggingface_hub import HfApi

    try:
        info = HfApi().repo_info(name, revision=revision, repo_type=kind)
    except Exception as error:  # offline, unknown, private: the hub's own words say which
        _fail(kind, f"{name} is no local path, and the hub did not answer for it: {_first_line(error)}")
    return str(info.sha)


def _reason(error: BaseException, uri: str) -> str:
    """What a store says, in one line; its cause where it says no more than where it looked."""
    line = _first_line(error)
    if line in (uri, type(error).__name__) and error.__cause__ is not None:
        return _first_line(error.__cause__)
    return line


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
