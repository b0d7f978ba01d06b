"""The values of a run, checked against the compiled pipeline before anything is sent."""

from collections.abc import Iterator, Mapping
from dataclasses import fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from components.corpora import parse_corpora
from components.errors import ParameterError
from components.sources import where
from components.tasks import is_folder, parse_tasks
from components.templates import TEMPLATES
from components.yaml_text import parse_yaml
from pipeline.parameters import PLACES, QUOTED, Parameters

KINDS: dict[str, tuple[tuple[type, ...], str]] = {
    "STRING": ((str,), "text"),
    "NUMBER_INTEGER": ((int,), "a whole number"),
    "NUMBER_DOUBLE": ((int, float), "a number"),
    "BOOLEAN": ((bool,), "true or false"),
    "LIST": ((list,), "a list"),
    "STRUCT": ((dict,), "a mapping"),
}


def read_file(path: Path) -> dict[str, Any]:
    """Parameters from a YAML file: a mapping of names to values.

    Raises:
        ParameterError: no such file, or it holds something else.
    """
    try:
        content = parse_yaml(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ParameterError(f"--params {path}: {error.strerror}") from None
    except ValueError as error:
        raise ParameterError(f"--params {path}: not YAML: {error}") from None
    if not isinstance(content, dict):
        raise ParameterError(f"--params {path}: must be a mapping of parameters to values")
    return content


def check(values: Mapping[str, Any], spec: Mapping[str, Any], texts: bool = False) -> dict[str, Any]:
    """Values as KFP takes them.

    Args:
        values: by parameter.
        spec: the compiled pipeline.
        texts: whether they are texts of a command line, to be read by their type.

    Raises:
        ParameterError: a name that the pipeline does not have, a missing one, or a value that is not allowed.
    """
    known = spec["root"].get("inputDefinitions", {}).get("parameters", {})
    checked = {}
    for name, value in values.items():
        if name not in known:
            near = get_close_matches(str(name), known, n=1)
            hint = f"did you mean {near[0]}? Allowed" if near else "allowed"
            raise ParameterError(f"unknown parameter {name!r}; {hint}: {', '.join(known)}")
        checked[name] = _typed(name, value, known[name]["parameterType"], texts)
    return checked


def check_whole(values: Mapping[str, Any], spec: Mapping[str, Any]) -> None:
    """Checks what a run would have: nothing missing, and the ranges and relations that the YAML cannot say.

    Raises:
        ParameterError: the first that does not hold.
    """
    known = spec["root"].get("inputDefinitions", {}).get("parameters", {})
    missing = [
        name
        for name, entry in known.items()
        if name not in values and not entry.get("isOptional", "defaultValue" in entry)
    ]
    if missing:
        raise ParameterError(f"{missing[0]} is missing; the pipeline has no default for it")
    ours = {entry.name: entry.type for entry in fields(Parameters)}
    whole = {name: values.get(name, entry.get("defaultValue")) for name, entry in known.items() if name in ours}
    Parameters(**{name: _as(ours[name], value) for name, value in whole.items() if value is not None})
    if not values.get("registry", "unknown"):
        raise ParameterError("registry must not be empty: a pod has none of its own")
    for name, place in _places(values):
        if where(place) == "local" and not place.startswith(("/", "file:///")):
            raise ParameterError(
                f"{name}={place!r} is a path on this machine, which no pod can read; give a hub id, a URI, or the path "
                "of a volume that the pods mount"
            )


def _places(values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The files and folders that values name, which no pod finds when they lie beside the one who submits."""
    for name in PLACES:
        value = str(values.get(name, ""))
        if value and not (name == "template" and value in TEMPLATES):
            yield name, value
    for name in ("evaluation_corpora", "decontaminate"):
        for value in parse_corpora(str(values.get(name, "")), name).values():
            yield name, value
    for value in filter(is_folder, parse_tasks(str(values.get("evaluation_tasks", "")))):
        yield "evaluation_tasks", value


def _typed(name: str, value: Any, kind: str, text: bool) -> Any:
    types, words = KINDS[kind]
    if text and kind != "STRING":
        try:
            value = parse_yaml(value)
        except ValueError:
            raise ParameterError(f"{name}={value!r} must be {words}") from None
    if not isinstance(value, types) or (isinstance(value, bool) and kind != "BOOLEAN"):
        hint = QUOTED if kind == "STRING" and isinstance(value, bool) else ""
        raise ParameterError(f"{name}={value!r} must be {words}{hint}")
    return value


def _as(kind: Any, value: Any) -> Any:
    """A value of a compiled pipeline, which has whole numbers as 2.0, as the type that it is here."""
    return int(value) if kind is int and isinstance(value, float) and value.is_integer() else value
