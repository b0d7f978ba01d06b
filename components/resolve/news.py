"""Whether a run has anything new to do, where its training starts, and how that is told."""

import json
from collections.abc import Mapping

from components.errors import ModelError, ParameterError
from components.records import canonical_json, digest
from components.registry import CONTENT, INPUTS, Version

START_FROM = ("base", "champion")
ON_UNCHANGED = ("skip", "run")
SAME, SHOWN = ("base model", "template"), 19  # characters of a digest that tell it from others


def check_choice(name: str, value: str, allowed: tuple[str, ...]) -> None:
    """Raises ParameterError unless a value is one of those allowed."""
    if value not in allowed:
        raise ParameterError(f"{name}={value!r} is unknown; allowed: {', '.join(allowed)}")


def digest_of(inputs: Mapping[str, str]) -> str:
    """A run's digest: of everything that decides its result."""
    return digest(canonical_json(dict(inputs)))


def starting_point(start_from: str, champion: Version | None, inputs: Mapping[str, str]) -> Version | None:
    """The version that training begins with; None: it begins with the base model.

    Raises:
        ModelError: the champion was tuned from another base model or with another template than this run's.
    """
    if start_from == "base":
        return None
    if champion is None:
        print("resolve: training starts from the base model, because there is no champion yet")
        return None
    theirs = inputs_of(champion)
    for name in SAME:
        if theirs.get(name) != inputs[name]:
            raise ModelError(
                f"start_from=champion: version {champion.number} of {champion.name} has another {name} "
                f"({_short(theirs.get(name, 'not said'))}) than this run ({_short(inputs[name])}), so its tokens may "
                f"differ; take that {name} again, or start_from=base"
            )
    return champion


def fetched_by(version: Version, registry: str) -> dict[str, str]:
    """What a step needs to fetch a version; with the digest of its files, so that they are part of its cache key."""
    return {
        "registry": registry,
        "model_name": version.name,
        "version": version.reference,
        "digest": version.tags.get(CONTENT, ""),
    }


def inputs_of(version: Version) -> dict[str, str]:
    """The digests of what a version was made from; empty for one that was registered by other means."""
    text = version.tags.get(INPUTS, "")
    return dict(json.loads(text)) if text else {}


def changed(inputs: Mapping[str, str], champion: Version | None) -> list[str]:
    """The inputs that differ from the champion's, by name."""
    theirs = inputs_of(champion) if champion else {}
    return [name for name, value in inputs.items() if theirs.get(name) != value]


def told(unchanged: str, made: Version | None, skipped: bool, new: list[str], champion: Version | None) -> str:
    """One line: what is new, or that nothing is."""
    if unchanged:
        what = f"version {made.number} of {made.name}" if made else "a model that the gate rejected"
        then = "nothing is trained" if skipped else "on_unchanged=run: it runs all the same"
        return f"nothing is new: the same data and configuration gave {what}; {then}"
    if champion is None:
        return "there is no champion yet: everything is new"
    return f"new since the champion, version {champion.number}: {', '.join(new) or 'what it is compared with'}"


def notice(line: str, inputs: Mapping[str, str], champion: Version | None, start: Version | None) -> str:
    """What is new as a page for people (Markdown)."""
    theirs = inputs_of(champion) if champion else {}
    title = f"version {champion.number}" if champion else "no champion"
    lines = [f"# {line[0].upper()}{line[1:]}", "", f"| input | {title} | this run | |", "|---|---|---|---|"]
    for name, value in inputs.items():
        before = theirs.get(name)
        mark = "" if before == value else "**new**"
        lines.append(f"| {name} | {_short(before or '')} | {_short(value)} | {mark} |")
    begins = f"version {start.number}" if start else "the base model"
    return "\n".join([*lines, "", f"A training starts from {begins}."]) + "\n"


def _short(value: str) -> str:
    return value if len(value) <= SHOWN else f"{value[:SHOWN]}…"
