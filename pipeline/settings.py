"""What an installation chooses once: images, placement, defaults. Loaded from profiles/*.yaml."""

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml

from components.errors import ParameterError
from components.sources import cache_folder
from pipeline.parameters import Parameters

PACKAGE = Path(__file__).parent
PROFILES = PACKAGE / "profiles"
STEPS = ("resolve", "ingest", "tokenize", "split", "train", "evaluate", "gate", "register", "report")
TRAIN_IMAGE_STEPS = ("train", "evaluate")


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What a step asks a node for, in Kubernetes' units."""

    cpu: str = "1"
    memory: str = "4Gi"
    gpus: int = 0
    gpu_type: str = "nvidia.com/gpu"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """One profile. images are full names with a version tag or a digest."""

    data_image: str
    train_image: str
    resources: Mapping[str, Resources] = field(default_factory=lambda: MappingProxyType({}))
    parameters: Parameters = field(default_factory=Parameters)

    def __post_init__(self) -> None:
        for name in ("data_image", "train_image"):
            image = getattr(self, name)
            if image.endswith(":latest") or not (":" in image.rpartition("/")[2] or "@sha256:" in image):
                raise ParameterError(f"profile: {name}={image!r} must have a version tag or a digest, and not latest")
        unknown = sorted(set(self.resources) - set(STEPS))
        if unknown:
            raise ParameterError(f"profile: resources for unknown step {unknown[0]!r}; allowed: {', '.join(STEPS)}")

    def image(self, step: str) -> str:
        """The image that a step runs in."""
        return self.train_image if step in TRAIN_IMAGE_STEPS else self.data_image


def load(profile: str, overrides: dict[str, str] | None = None) -> Settings:
    """The settings of a profile, given by the name of a shipped one or by a file, with parameters set by hand.

    Raises:
        ParameterError: no such profile, or it says what no profile can say.
    """
    shipped = sorted(path.stem for path in PROFILES.glob("*.yaml"))
    path = PROFILES / f"{profile}.yaml" if profile in shipped else Path(profile)
    if not path.is_file():
        raise ParameterError(f"profile {profile!r} is neither a file nor one of {', '.join(shipped)}")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except yaml.YAMLError as error:
        raise ParameterError(f"profile {path}: not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise ParameterError(
            f"profile {path}: must be a mapping of {', '.join(entry.name for entry in fields(Settings))}"
        )
    values = {name: _expand(value) for name, value in (content.pop("parameters", None) or {}).items()}
    resources = {
        step: _build(Resources, wanted or {}, f"profile {path}: resources.{step}")
        for step, wanted in (content.pop("resources", None) or {}).items()
    }
    settings: Settings = _build(Settings, {**content, "resources": MappingProxyType(resources)}, f"profile {path}")
    return replace(settings, parameters=Parameters.parse(overrides or {}, values))


def _expand(value: Any) -> Any:
    """{package} and {cache} in a profile's values: this package's folder, and the user's cache."""
    return (
        value.replace("{package}", str(PACKAGE)).replace("{cache}", str(cache_folder()))
        if isinstance(value, str)
        else value
    )


def _build(kind: Any, values: Any, where: str) -> Any:
    if not isinstance(values, dict):
        raise ParameterError(f"{where}: must be a mapping")
    known = {entry.name for entry in fields(kind)}
    required = {entry.name for entry in fields(kind) if entry.default is MISSING and entry.default_factory is MISSING}
    for problem, names in (("unknown", values.keys() - known), ("missing", required - values.keys())):
        if names:
            raise ParameterError(f"{where}: {min(names)!r} is {problem}; allowed: {', '.join(sorted(known))}")
    return kind(**values)
