"""The files of a local dataset: one, or those of a folder or glob. Links never lead in circles, or out unseen."""

import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path, PurePosixPath
from typing import NoReturn

from fsspec.utils import glob_translate

from components.errors import DataError

GLOB = re.compile(r"[*?\[]")
HIDDEN = (".", "_")
RESCUED = "lost+found"  # at the root of many a volume, and root's alone
# What the library datasets notes beside the tables that save_to_disk writes and above the folders of splits; and copies
# of the same rows, changed or in another order, that it keeps there when such a folder is worked with.
NOTES, SPLITS = {"state.json", "dataset_info.json"}, "dataset_dict.json"
CACHED = re.compile(r"cache-[0-9a-f]{16}(_\d{5}_of_\d{5})?\.arrow")


def local_files(path: Path) -> dict[str, Path]:
    """The files of a local dataset by their names under its folder, in the names' order.

    A folder gives what lies under it; hidden files, those with a leading underscore, README and LICENSE are no data,
    nor are the notes of the library datasets.

    Raises:
        DataError: there is none; or a folder cannot be read, or a link leads to a folder or nowhere: it would be data
            that is left out.
    """
    if path.is_file():
        _check_name(path.name)
        return {path.name: path}
    base, pattern = glob_parts(path.as_posix(), os.path.isdir)
    try:
        matches = re.compile(glob_translate(pattern)).match
    except ValueError:
        raise DataError(
            f"dataset: {path}: ** is any number of folders, and stands alone between slashes, as in **/*.jsonl"
        ) from None
    found: dict[str, Path] = {}
    for name, is_way in walk(Path(base), partial(_leads, pattern)) if Path(base).is_dir() else ():
        if not is_data(name) or not (is_way or matches(name)):
            continue
        if is_way or not Path(base, name).is_file():
            raise DataError(
                f"dataset: {Path(base, name)} is a link to a folder or to nothing; name where it should lead"
            )
        _check_name(name)
        found[name] = Path(base, name)
    names = without_notes(found)
    if not names:
        what = f"{path} has no data files" if path.is_dir() else f"no file matches {path}"
        raise DataError(f"dataset: {what}")
    return {name: found[name] for name in names}


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


def walk(base: Path, leads: Callable[[str], bool]) -> Iterator[tuple[str, bool]]:
    """Names of files and links under a folder, and whether it is a link to a folder that a search would go through.

    Links to folders are not followed, so there are no loops.

    Args:
        leads: tells of a folder's name whether the search goes on in it.
    """
    for folder, folders, names in os.walk(base, onerror=_refuse):
        here = Path(folder).relative_to(base)
        inside = {name: (here / name).as_posix() for name in folders}
        yield from (((here / name).as_posix(), False) for name in names)
        yield from ((inside[name], leads(inside[name])) for name in folders if Path(folder, name).is_symlink())
        folders[:] = [name for name in folders if not _is_hidden(name) and leads(inside[name])]


def _leads(pattern: str, folder: str) -> bool:
    """Whether what a pattern matches can lie in a folder."""
    wanted, parts = PurePosixPath(pattern).parts, PurePosixPath(folder).parts
    for part, one in zip(parts, wanted, strict=False):
        if one == "**":
            return True
        if not re.match(glob_translate(one), part):
            return False
    return len(parts) < len(wanted)


def _is_hidden(name: str) -> bool:
    return name.startswith(HIDDEN) or name == RESCUED


def _refuse(error: OSError) -> NoReturn:
    raise DataError(f"dataset: cannot read the folder {error.filename}: {error.strerror}") from error


def is_data(name: str) -> bool:
    """Whether a file in a folder is data by its name."""
    parts = PurePosixPath(name).parts
    about = parts[-1].upper().partition(".")[0] in ("README", "LICENSE")
    return not (about or any(map(_is_hidden, parts)))


def without_notes(names: Iterable[str]) -> list[str]:
    """The files in a folder that are no notes of the library datasets about tables that it saved, in the names' order.

    Where it saved, both notes stand beside a table; beside none where a split of several is empty. Files of these names
    anywhere else are data.
    """
    paths = {name: PurePosixPath(name) for name in sorted(names)}
    folders: dict[PurePosixPath, set[str]] = defaultdict(set)
    for path in paths.values():
        folders[path.parent].add(path.name)
    saved = {
        folder
        for folder, files in folders.items()
        if files >= NOTES and (any(map(_is_table, files)) or SPLITS in folders.get(folder.parent, ()))
    }
    above = {folder.parent for folder in saved}
    return [
        name
        for name, path in paths.items()
        if not (path.parent in saved and (path.name in NOTES or CACHED.fullmatch(path.name)))
        and not (path.parent in above and path.name == SPLITS)
    ]


def _is_table(name: str) -> bool:
    return name.endswith(".arrow") and not CACHED.fullmatch(name)
