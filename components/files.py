"""The files of a local dataset: one, or those of a folder or glob. Links never lead in circles, or out unseen."""

import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from fsspec.utils import glob_translate

from components.errors import DataError

GLOB = re.compile(r"[*?\[]")


def local_files(path: Path) -> dict[str, Path]:
    """The files of a local dataset by their names under its folder, in the names' order.

    A folder gives what lies under it; hidden files, those with a leading underscore, README and LICENSE are no data.

    Raises:
        DataError: there is none, or a link leads to a folder or nowhere: it would be data that is left out.
    """
    if path.is_file():
        return {path.name: path}
    base, pattern = glob_parts(path.as_posix())
    depth = len(PurePosixPath(pattern).parts) if "**" not in pattern else sys.maxsize
    matches = re.compile(glob_translate(pattern)).match
    found: dict[str, Path] = {}
    for name, is_way in _walk(Path(base), depth):
        if not is_data(name) or not (is_way or matches(name)):
            continue
        if is_way or not Path(base, name).is_file():
            raise DataError(
                f"dataset: {Path(base, name)} is a link to a folder or to nothing; name where it should lead"
            )
        found[name] = Path(base, name)
    if not found:
        what = f"{path} has no data files" if path.is_dir() else f"no file matches {path}"
        raise DataError(f"dataset: {what}")
    return {name: found[name] for name in sorted(found)}


def glob_parts(path: str) -> tuple[str, str]:
    """The folder before a path's first wildcard, and the pattern under it; without one, the path and all under it."""
    if not GLOB.search(path):
        return path, "**"
    parts = PurePosixPath(path).parts
    fixed = next(number for number, part in enumerate(parts) if GLOB.search(part))
    return str(PurePosixPath(*parts[:fixed])), "/".join(parts[fixed:])


def _walk(base: Path, depth: int) -> Iterator[tuple[str, bool]]:
    """Names of files and links under a folder, and whether it is a link to a folder that a search would go through.

    Links to folders are not followed, so there are no loops.
    """
    for folder, folders, names in os.walk(base):
        here = Path(folder).relative_to(base)
        deeper = len(here.parts) + 1 < depth
        links = [name for name in folders if Path(folder, name).is_symlink()]
        yield from (((here / name).as_posix(), False) for name in names)
        yield from (((here / name).as_posix(), deeper) for name in links)
        folders[:] = folders if deeper else []


def is_data(name: str) -> bool:
    """Whether a file in a folder is data by its name."""
    parts = PurePosixPath(name).parts
    return not (
        any(part.startswith((".", "_")) for part in parts) or parts[-1].upper().startswith(("README", "LICENSE"))
    )
