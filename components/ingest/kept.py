"""Prepared blocks that outlive a run, by their content: when data grows, only what is new is prepared."""

import hashlib
import importlib
import inspect
import unicodedata
from dataclasses import asdict
from functools import cache
from importlib.metadata import version
from pathlib import Path

from components import code_digest
from components.errors import ParameterError, PipelineError
from components.ingest.preparation import Rules
from components.ingest.rows import Block
from components.ingest.shapes import Shape
from components.records import canonical_json, file_digest

SEAL = 32  # bytes of SHA-256 in front of what is kept
# What decides what prepared rows are beside our own code.
LIBRARIES = ("orjson", "phonenumbers", "pyarrow", "rensa")


class Kept:
    """A folder of prepared blocks, on this machine or in a store.

    Raises:
        ParameterError: it cannot be reached.
    """

    def __init__(self, folder: str, rules: Rules) -> None:
        import fsspec

        self._folder = folder
        try:
            self._files, root = fsspec.core.url_to_fs(folder)
            self._files.makedirs(root, exist_ok=True)
        except Exception as error:  # each store raises its own; all of them mean that it cannot be reached
            raise ParameterError(str(self._failure(error))) from None
        self._root = root
        self._basis = canonical_json({**asdict(rules), "made_by": made_by(), "names": names_digest(rules.pii_names)})

    def key(self, block: Block, shape: Shape) -> str:
        """The name of a block's prepared rows: equal names mean equal rows."""
        text = "\n".join((self._basis, canonical_json(dict(shape.columns)), block.digest()))
        return hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()  # a column's name may be no text

    def get(self, key: str) -> bytes | None:
        """What is kept under this name, if it is there and whole."""
        try:
            data = self._files.cat_file(self._path(key))
        except FileNotFoundError:
            return None
        except Exception as error:
            raise self._failure(error) from error
        packed = bytes(data[SEAL:])
        return packed if hashlib.sha256(packed).digest() == data[:SEAL] else None

    def put(self, key: str, packed: bytes) -> None:
        """Keeps it. What is written by half is not taken for whole."""
        path = self._path(key)
        try:
            self._files.makedirs(path.rpartition("/")[0], exist_ok=True)
            self._files.pipe_file(path, hashlib.sha256(packed).digest() + packed)
        except Exception as error:
            raise self._failure(error) from error

    def _failure(self, error: Exception) -> PipelineError:
        return PipelineError(f"ingest_cache={self._folder} cannot be used: {_first_line(error)}")

    def _path(self, key: str) -> str:
        return f"{self._root.rstrip('/')}/{key[:2]}/{key[2:]}"


@cache
def made_by() -> dict[str, str]:
    """The versions of all that prepares rows."""
    versions = {name: version(name) for name in LIBRARIES}
    return {"code": code_digest(), "unicode": unicodedata.unidata_version, **versions}


def names_digest(reference: str) -> str:
    """A digest of the module that finds people's names, for it may change under its name."""
    if not reference:
        return ""
    source = inspect.getsourcefile(importlib.import_module(reference.partition(":")[0]))
    return file_digest(Path(source)) if source else ""


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
