"""What a registry is, whatever holds it: versions that are found by digest, and one champion among them."""

import hashlib
import json
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.errors import ParameterError, PipelineError, RegistryError
from components.records import canonical_json, file_digest
from components.sources import cache_folder

CHAMPION = "champion"
# Tags that a version carries, beside those that its caller adds.
KEY, RUN_DIGEST, COMPARED_WITH, CONTENT = "key", "run_digest", "compared_with", "content_digest"
STARTED_FROM = "started_from"  # the version whose weights the training began with; empty: the base model's
INPUTS = "inputs"  # the digests of what the run read, by name, in JSON
SIGNATURE = "model.sig"  # beside the files that it signs, and no part of their digest
MAX_REASON = 500


@dataclass(frozen=True, kw_only=True)
class Entry:
    """What is registered: a folder of files, and what is said about it.

    key is what finds the version again; the folder's bytes and all tags are known before anything is written.
    """

    key: str
    folder: Path
    configuration: dict[str, Any]
    metrics: dict[str, float]
    tags: dict[str, str]
    curves: Sequence[Mapping[str, float]] = ()  # points of the training: step and what was measured there


@dataclass(frozen=True, kw_only=True)
class Version:
    """A registered version: its number, where its files lie, and its tags."""

    name: str
    number: str
    source: str
    tags: dict[str, str]
    aliases: list[str]
    created: int  # milliseconds since 1970

    @property
    def reference(self) -> str:
        """`number:key`: never the same for two things, also when a registry is emptied and counts from 1 again."""
        return f"{self.number}:{self.tags.get(KEY, '')}"


@dataclass(frozen=True, kw_only=True)
class Move:
    """One move of the champion alias. at is in milliseconds since 1970; previous is empty for the first."""

    at: int
    to: str
    previous: str
    reason: str


class Registry(ABC):
    """One registered model in a registry.

    Raises:
        RegistryError: from any method, when the registry cannot be reached or refuses.
    """

    def __init__(self, address: str, name: str) -> None:
        self.address = address
        self.name = name

    @abstractmethod
    def identity(self) -> str:
        """Which registry this is: an id and a birth, made here when missing.

        A step that wrote into a registry is cached under this, so a new or emptied one is written to again.
        Asking for it before training also shows an unreachable or read-only registry in the first minute.
        """

    @abstractmethod
    def versions(self) -> list[Version]:
        """The finished versions, oldest first; none when there is no such model."""

    @abstractmethod
    def moves(self) -> list[Move]:
        """How the champion alias moved, oldest first."""

    @abstractmethod
    def notes(self) -> dict[str, str]:
        """What runs leave behind for later ones, by name, in JSON. No version depends on it."""

    @abstractmethod
    def _note(self, name: str, text: str | None) -> None:
        """Writes one note, or without a text removes it."""

    @abstractmethod
    def _create(self, entry: Entry, content: str) -> Version:
        """Uploads and makes the version, or finishes one that was begun. Last of all it becomes visible."""

    @abstractmethod
    def _move(self, move: Move) -> None:
        """Points the champion alias and writes the move down."""

    @abstractmethod
    def _fetch(self, version: Version, folder: Path) -> Path:
        """The version's files on this machine, unchecked: where they are, or in the folder, fetched if need be."""

    def _lock(self) -> AbstractContextManager[Any]:
        """Held while something is written, where the store itself cannot keep two writers apart."""
        return nullcontext()

    def champion(self) -> Version | None:
        """The version behind the champion alias, if there is one."""
        return next((version for version in self.versions() if CHAMPION in version.aliases), None)

    def version(self, reference: str) -> Version:
        """One version by its reference."""
        number = reference.partition(":")[0]
        found = self._numbered(number)
        if found is None or found.reference != reference:
            raise RegistryError(f"registry {self.address}: version {number} is no longer the one that was resolved")
        return found

    def numbered(self, number: str) -> Version:
        """One version by its number.

        Raises:
            ParameterError: there is none; with those that there are.
        """
        if found := self._numbered(number):
            return found
        numbers = ", ".join(version.number for version in self.versions())
        raise ParameterError(f"{self.name} has no version {number!r}; it has {numbers or 'none'}")

    def of_run(self, run_digest: str) -> Version | None:
        """The version that a run made, if it is registered; of several the champion, else the newest."""
        made = [version for version in self.versions() if version.tags.get(RUN_DIGEST) == run_digest]
        return max(made, key=lambda version: (CHAMPION in version.aliases, int(version.number)), default=None)

    def note(self, name: str) -> Any:
        """What a run noted under a name; None when nothing is."""
        text = self.notes().get(name)
        return json.loads(text) if text else None

    def write_note(self, name: str, value: Any) -> None:
        """Notes something small under a name; None removes what stands there."""
        with self._writing():
            self._note(name, None if value is None else canonical_json(value))

    def register(self, entry: Entry) -> tuple[Version, bool]:
        """Registers the folder's files as one version and makes it the champion; finds the version if it is there.

        It is not made the champion when another version is than the one that the entry says it was compared with:
        that one came meanwhile, and may be better.

        The version is made after every file has arrived, so an interrupted call leaves none behind. It is promoted
        once: when somebody moves the alias away, registering the same thing again does not move it back.

        Returns:
            The version, and whether this call made it.
        """
        with self._writing():
            found = self._found(entry.key)
            version = found or self._create(entry, content_digest(entry.folder))
            if all(move.to != version.number for move in self.moves()) and self._met_champion(version, entry):
                self._point(version, "accepted by the gate")
            return self.numbered(version.number), found is None

    def promote(self, version: Version, reason: str) -> Move:
        """Moves the champion alias to a version.

        Raises:
            ParameterError: it is the champion already, or the reason is empty or longer than 500 characters.
        """
        if not 0 < len(reason.strip()) <= MAX_REASON:
            raise ParameterError(f"reason must be a text of 1 to {MAX_REASON} characters")
        with self._writing():
            if CHAMPION in self.numbered(version.number).aliases and self._recorded(version):
                raise ParameterError(f"version {version.number} of {self.name} is the champion already")
            return self._point(version, reason)

    def previous_champion(self) -> Version:
        """What was the champion before the present one first was; one that was deleted since is passed over.

        Raises:
            ParameterError: there is no champion, or none before it.
        """
        versions, moves = self.versions(), self.moves()
        champion = next((version for version in versions if CHAMPION in version.aliases), None)
        if champion is None:
            raise ParameterError(f"{self.name} has no champion to roll back from")
        there = {version.number for version in versions}
        first = {move.to: move.previous for move in reversed(moves)}
        # the alias may have been set past us, in the registry's own UI: then the last one of ours was before it
        before = first.pop(champion.number, moves[-1].to if moves else "")
        while before and before not in there:
            before = first.pop(before, "")
        if not before:
            raise ParameterError(f"version {champion.number} of {self.name} has no champion before it")
        return self.numbered(before)

    def download(self, version: Version, folder: Path | None = None) -> Path:
        """The version's model folder on this machine, its files checked against the digest that was registered.

        Args:
            folder: where to put files that lie elsewhere; without it, where an earlier download of them is kept.
        """
        folder = self._fetch(version, folder or fetched_folder(version))
        found, registered = content_digest(folder), version.tags.get(CONTENT, "")
        if found != registered:
            raise RegistryError(
                f"registry {self.address}: the files of version {version.number} are not those that were registered: "
                f"{found}, registered {registered or 'without a digest'}"
            )
        return folder

    def _met_champion(self, version: Version, entry: Entry) -> bool:
        """Whether the present champion is the version itself, by a move half made, or what it was compared with."""
        champion = self.champion()
        if champion is None or champion.number == version.number:
            return True
        return entry.tags.get(COMPARED_WITH, champion.reference) == champion.reference

    def _point(self, version: Version, reason: str) -> Move:
        champion, moves = self.champion(), self.moves()
        before = [champion.number] if champion else []
        before += [move.to for move in reversed(moves)]  # the alias may stand here already, by a move half made
        previous = next((number for number in before if number != version.number), "")
        move = Move(at=time.time_ns() // 1_000_000, to=version.number, previous=previous, reason=reason.strip())
        self._move(move)
        return move

    def _recorded(self, version: Version) -> bool:
        moves = self.moves()
        return bool(moves) and moves[-1].to == version.number

    def _numbered(self, number: str) -> Version | None:
        return next((version for version in self.versions() if version.number == number), None)

    def _found(self, key: str) -> Version | None:
        return next((version for version in self.versions() if version.tags.get(KEY) == key), None)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        with ExitStack() as held:
            with self._errors("lock"):
                held.enter_context(self._lock())
            yield

    @contextmanager
    def _errors(self, action: str) -> Iterator[None]:
        """Turns what a client raises into one RegistryError line."""
        try:
            yield
        except PipelineError:
            raise
        except Exception as error:
            raise RegistryError(f"registry {self.address}: cannot {action}: {reason_of(error)}") from error


def content_digest(folder: Path) -> str:
    """`sha256:<hex>` over the names and digests of a folder's files, without its signature."""
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    entries = {name: file_digest(path) for name, path in files.items() if name != SIGNATURE}
    return "sha256:" + hashlib.sha256(canonical_json(entries).encode()).hexdigest()


def fetched_folder(version: Version) -> Path:
    """Where a version's files stand on this machine once they are fetched: one place for one content."""
    return cache_folder() / "registry" / version.tags.get(CONTENT, version.number).replace(":", "-")


def files_of(folder: Path) -> list[Path]:
    """A folder's files, in an order that is always the same."""
    return sorted(path for path in folder.rglob("*") if path.is_file())


def reason_of(error: BaseException) -> str:
    """What an error says, on one line; of an HTTP answer its status, never its headers."""
    status, reason = getattr(error, "status", None), getattr(error, "reason", None)
    if status and reason:
        return f"{status} {reason}"
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
