"""The files of a local dataset: one, or those of a folder or glob. Links never lead in circles, or out unseen."""

import os
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import NoReturn

from fsspec.utils import glob_translate

from components.errors import DataError

GLOB = re.compile(r"[*?\[]")
HIDDEN = (".", "_")


def local_files(path: Path) -> dict[str, Path]:
    """The files of a local dataset by their names under its folder, in the names' order.

    A folder gives what lies under it; hidden files, those with a leading underscore, README and LICENSE are no data.

    Raises:
        DataError: there is none; or a folder cannot be read, or a link leads to a folder or nowhere: it would be data
            that is left out.
    """
    if path.is_file():
        _check_name(path.name)
        return {path.name: path}
    base, pattern = glob_parts(path.as_posix(), os.path.isdir)
    depth = len(PurePosixPath(pattern).parts) if "**" not in pattern else sys.maxsize
    matches = re.compile(glob_translate(pattern)).match
    found: dict[str, Path] = {}
    for name, is_way in walk(Path(base), depth) if Path(base).is_dir() else ():
        if not is_data(name) or not (is_way or matches(name)):
            continue
        if is_way or not Path(base, name).is_file():
            raise DataError(
                f"dataset: {Path(base, name)} is a link to a folder or to nothing; name where it should lead"
            )
        _check_name(name)
        found[name] = Path(base, name)
    if not found:
        what = f"{path} has no data files" if path.is_dir() else f"no file matches {path}"
        raise DataError(f"dataset: {what}")
    return {name: found[name] for name in sorted(found)}


def _check_name(name: str) -> None:
    try:
        name.encode()
    except UnicodeEncodeError:
        raise DataError(
            f"dataset: the file name {name!r} is not UTF-8, and records name their file; rename it"
        ) from None


def glob_parts(path: str, is_folder: Callable[[str], bool] = lambda _: False) -> tuple[str, str]:
    """The folder before a path's first wildcard, and the pattern under it; without one, the path and all under it.

    Args:
        is_folder: tells of a name that looks like a wildcard whether it is one of a folder that is there.
    """
    parts = PurePosixPath(path).parts
    for number, part in enumerate(parts):
        if GLOB.search(part) and not is_folder(str(PurePosixPath(*parts[: number + 1]))):
            return str(PurePosixPath(*parts[:number])), "/".join(parts[number:])
    return path, "**"


def walk(base: Path, depth: int) -> Iterator[tuple[str, bool]]:
    """Names of files and links under a folder, and whether it is a link to a folder that a search would go through.

    Links to folders are not followed, so there are no loops.
    """
    for folder, folders, names in os.walk(base, onerror=_refuse):
        here = Path(folder).relative_to(base)
        deeper = len(here.parts) + 1 < depth
        links = [name for name in folders if Path(folder, name).is_symlink()]
        yield from (((here / name).as_posix(), False) for name in names)
        yield from (((here / name).as_posix(), deeper) for name in links)
        folders[:] = [name for name in folders if deeper and not name.startswith(HIDDEN)]


def _refuse(error: OSError) -> NoReturn:
    raise DataError(f"dataset: cannot read the folder {error.filename}: {error.strerror}") from error


def is_data(name: str) -> bool:
    """Whether a file in a folder is data by its name."""
    parts = PurePosixPath(name).parts
    about = parts[-1].upper().partition(".")[0] in ("README", "LICENSE")
    return not (about or any(part.startswith(HIDDEN) for part in parts))
