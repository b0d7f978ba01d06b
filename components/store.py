"""A folder in an object store, through fsspec: what pods hand each other where they share no file system."""

import errno
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Any

from components.errors import ParameterError, StorageError

MARKER = "COMPLETE"  # written last: what has none is not there
AT_ONCE = 4  # files under way at a time; a store's client sends the parts of each side by side besides
# When a store says that a file was written, in the words of the file systems that fsspec speaks to.
WRITTEN = ("LastModified", "last_modified", "mtime", "updated", "created")


class Store:
    """A folder at an fsspec URI, such as s3://bucket/folder.

    Raises, from each method:
        StorageError: the store refused, or could not be reached.
    """

    def __init__(self, uri: str) -> None:
        import fsspec

        options = {"auto_mkdir": True} if uri.startswith("file://") else {}
        try:
            self._files, self._root = fsspec.core.url_to_fs(uri, **options)
        except (ImportError, ValueError) as error:
            raise ParameterError(f"cannot open {uri}: {error}") from None
        self.uri = uri.rstrip("/")

    def at(self, name: str) -> "Store":
        """A folder below this one."""
        return Store(f"{self.uri}/{name}")

    def put(self, folder: Path, names: Iterable[str] | None = None) -> None:
        """Uploads the files of a local folder under their own names; all of them unless some are named."""
        if names is None:
            names = [file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()]
        self._each(names, "write", lambda name: self._files.put_file(str(folder / name), self._place(name)))

    def put_file(self, file: Path, name: str) -> None:
        """Uploads a file under another name."""
        with self._told("write", name):
            self._files.put_file(str(file), self._place(name))

    def get(self, folder: Path, names: Iterable[str] | None = None) -> None:
        """Downloads files into a local folder; all that are here unless some are named.

        Raises:
            FileNotFoundError: one is not here.
        """

        def get_one(name: str) -> None:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            self._files.get_file(self._place(name), str(folder / name))

        folder.mkdir(parents=True, exist_ok=True)
        self._each(self.list() if names is None else names, "read", get_one)

    def read(self, name: str) -> bytes | None:
        """A small file's content; None where it is not here."""
        with self._told("read", name):
            try:
                content: bytes = self._files.cat_file(self._place(name))
            except FileNotFoundError:
                return None
            return content

    def write(self, name: str, content: bytes) -> None:
        """Writes a small file, whole or not at all where the store's writes are."""
        with self._told("write", name):
            self._files.pipe_file(self._place(name), content)

    def list(self) -> dict[str, dict[str, Any]]:
        """What the store tells about each file, by its name below this folder."""
        with self._told("list", ""):
            self._files.invalidate_cache()
            found = self._files.find(self._root, detail=True)
        inside = {PurePosixPath(place): info for place, info in found.items() if place != self._root}
        return {place.relative_to(self._root).as_posix(): info for place, info in sorted(inside.items())}

    def last_written(self) -> dict[str, float]:
        """For each folder here, when something in it was last written, in seconds since 1970, where the store tells."""
        newest: dict[str, float] = {}
        for name, info in self.list().items():
            folder, time = name.partition("/")[0], _seconds(info)
            if time is not None:
                newest[folder] = max(time, newest.get(folder, 0.0))
        return newest

    def remove(self, name: str = "") -> None:
        """Removes a file or folder; its marker first, so that half of a folder never counts."""
        with self._told("remove", name):
            self._files.invalidate_cache()
            for place in (f"{name}/{MARKER}".lstrip("/"), name):
                try:
                    self._files.rm(self._place(place), recursive=place == name)
                except FileNotFoundError:
                    continue

    def _place(self, name: str) -> str:
        return f"{self._root}/{name}".rstrip("/")

    def _each(self, names: Iterable[str], what: str, work: Any) -> None:
        def told(name: str) -> None:
            with self._told(what, name):
                work(name)

        with ThreadPoolExecutor(AT_ONCE) as pool:
            for done in [pool.submit(told, name) for name in names]:
                done.result()

    @contextmanager
    def _told(self, what: str, name: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # each store raises its own
            if isinstance(error, FileNotFoundError) and what == "read":
                raise FileNotFoundError(errno.ENOENT, "not in the store", f"{self.uri}/{name}") from None
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise StorageError(f"cannot {what} {self.uri}/{name}".rstrip("/") + f": {reason}") from error


def _seconds(info: dict[str, Any]) -> float | None:
    for value in (info[name] for name in WRITTEN if info.get(name) is not None):
        if isinstance(value, int | float):
            return float(value)
        return (value if isinstance(value, datetime) else datetime.fromisoformat(value)).timestamp()
    return None
