"""What an installation chooses once: images, placement, defaults. Loaded from profiles/*.yaml."""

import re
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, get_args, get_origin, get_type_hints

from components.errors import ParameterError
from components.sources import cache_folder
from components.train.trainjob import QUANTITY, JobSettings, settings_as_values
from components.yaml_text import parse_yaml
from pipeline.endpoint import Endpoint
from pipeline.parameters import Parameters

PACKAGE = Path(__file__).parent
PROFILES = PACKAGE / "profiles"
STEPS = (
    *("resolve", "ingest", "drift", "admit", "tokenize", "split", "train", "evaluate", "gate", "register", "report"),
    *("enforce", "notify"),
)
# These come in when a profile has several shards; each is placed like another step, unless it says otherwise.
SHARDED_STEPS = {"merge": "ingest", "join": "split"}
MOST_SHARDS = 1000
TRAIN_IMAGE_STEPS = ("drift", "train", "evaluate")
STORAGE_STEPS = ("drift", "train", "evaluate", "register")  # what reads or writes a trained model
LAUNCHERS = ("local", "trainjob")
# Quantities as KFP takes them, and an image's name with what tells its version.
CPU, MEMORY = re.compile(r"(\d*\.)?\d+m?"), re.compile(r"\d+([EPTGMK]i?)?")
IMAGE = re.compile(
    r"[a-z0-9][a-z0-9.-]*(:\d+)?(/[a-z0-9]+([._-]+[a-z0-9]+)*)*(:\w[\w.-]{0,127})?(@sha256:[0-9a-f]{64})?"
)
LABEL_OPERATORS = ("In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt")
EFFECTS = ("NoSchedule", "PreferNoSchedule", "NoExecute")


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What a step asks a node for, in Kubernetes' units."""

    cpu: str = "1"
    memory: str = "4Gi"
    gpus: int = 0
    gpu_type: str = "nvidia.com/gpu"

    def __post_init__(self) -> None:
        for name, form, example in (("cpu", CPU, "8 or 500m"), ("memory", MEMORY, "32Gi")):
            if not form.fullmatch(getattr(self, name)):
                raise ParameterError(f"{name}={getattr(self, name)!r} must be a quantity such as {example}")
        if self.gpus < 0:
            raise ParameterError(f"gpus={self.gpus} must be at least 0")


@dataclass(frozen=True, kw_only=True)
class Toleration:
    """A node's taint that a pod puts up with, in Kubernetes' words. Without effect: every effect."""

    key: str
    operator: str = "Exists"
    value: str = ""
    effect: str = ""

    def __post_init__(self) -> None:
        if self.operator not in ("Exists", "Equal"):
            raise ParameterError(f"operator={self.operator!r} is not allowed; it must be one of Exists, Equal")
        if bool(self.value) != (self.operator == "Equal"):
            raise ParameterError(f"value={self.value!r} does not go with operator {self.operator}; Equal needs one")
        if self.effect not in ("", *EFFECTS):
            raise ParameterError(f"effect={self.effect!r} is not allowed; it must be one of {', '.join(EFFECTS)}")


@dataclass(frozen=True, kw_only=True)
class NodeLabel:
    """What a label of the node must be, or, with a weight from 1 to 100, should be, in Kubernetes' words."""

    key: str
    operator: str = "In"
    values: tuple[str, ...] = ()
    weight: int = 0

    def __post_init__(self) -> None:
        if self.operator not in LABEL_OPERATORS:
            raise ParameterError(
                f"operator={self.operator!r} is not allowed; it must be one of {', '.join(LABEL_OPERATORS)}"
            )
        if bool(self.values) == (self.operator in ("Exists", "DoesNotExist")):
            raise ParameterError(f"values={list(self.values)} do not go with operator {self.operator}")
        if not 0 <= self.weight <= 100:
            raise ParameterError(f"weight={self.weight} is not allowed; it must be from 1 to 100, or 0: required")


@dataclass(frozen=True, kw_only=True)
class Scheduling:
    """Which nodes a step may run on.

    Args:
        node_selector: Labels that the node must have.
        node_affinity: Labels that it must or should have, where one value is not enough to say it.
        tolerations: Taints that the pod tolerates.
    """

    node_selector: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    node_affinity: tuple[NodeLabel, ...] = ()
    tolerations: tuple[Toleration, ...] = ()


@dataclass(frozen=True, kw_only=True)
class SecretEnv:
    """A Kubernetes Secret that steps see as environment variables. The values never pass through here.

    Args:
        name: The Secret's name.
        keys: For each key in it the variable, such as HF_TOKEN or AWS_SECRET_ACCESS_KEY.
        steps: Who sees them.
        optional: Whether a step starts without the Secret.
    """

    name: str
    keys: Mapping[str, str]
    steps: tuple[str, ...]
    optional: bool = False


@dataclass(frozen=True, kw_only=True)
class Storage:
    """What training pods share with the steps around them.

    Args:
        claim: A ReadWriteMany claim.
        path: Where it is mounted, or, with a uri, where each training pod has a disk of its own.
        uri: An object store's folder in place of the claim, such as s3://bucket/private-llm.
        scratch: Size of a pod's own disk, when there is a uri: base model, a checkpoint, and the model that is made.
        secret: The one of the profile's secrets that the training pods see as well, for the object store.
    """

    claim: str = "private-llm-training"
    path: str = "/training"
    uri: str = ""
    scratch: str = "200Gi"
    secret: str = ""

    def __post_init__(self) -> None:
        if self.uri and not ("://" in self.uri and self.uri.partition("://")[2]):
            raise ParameterError(f"uri={self.uri!r} must name an object store's folder, such as s3://bucket/folder")
        if not QUANTITY.fullmatch(self.scratch):
            raise ParameterError(f"scratch={self.scratch!r} must be a quantity such as 200Gi")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """One profile. Steps are named as in STEPS.

    Args:
        data_image: Full name with a version tag or a digest, for the CPU steps.
        train_image: The same for drift, train and evaluate.
        resources: What a step asks a node for.
        scheduling: Which nodes a step may run on.
        timeouts: Seconds after which a step's pod is ended; a step that is not named: never.
        secrets: Credentials by reference, such as a hub token or an object store's keys.
        image_pull_secrets: Secrets of the image registry, which every step's pod uses.
        shards: Into how many parts ingest and tokenize divide their work, one pod each; above 1 merge and join follow.
        retries: How often a failed step is tried again, waiting 1, 2, 4, ... minutes.
        launcher: Where train trains: local, in its own pod or process; or trainjob, in the pods of a TrainJob.
        storage: Where a TrainJob finds its input and leaves the model.
        trainjob: What TrainJobs are given beside the resources and nodes of train.
        ui: The address of KFP's UI, such as https://kubeflow.example.org/pipeline, for links in messages; empty: none.
        ttl: Seconds after which a finished run's pods and workspace are removed; 0: never.
        kfp: The server that pipeline.submit and pipeline.schedule talk to.
        parameters: What runs take unless told otherwise.
    """

    data_image: str
    train_image: str
    resources: Mapping[str, Resources] = field(default_factory=lambda: MappingProxyType({}))
    scheduling: Mapping[str, Scheduling] = field(default_factory=lambda: MappingProxyType({}))
    timeouts: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    secrets: tuple[SecretEnv, ...] = ()
    image_pull_secrets: tuple[str, ...] = ()
    shards: int = 1
    retries: int = 0
    launcher: str = "local"
    storage: Storage = field(default_factory=Storage)
    trainjob: JobSettings = field(default_factory=JobSettings)
    ui: str = ""
    ttl: int = 0
    kfp: Endpoint = field(default_factory=Endpoint)
    parameters: Parameters = field(default_factory=Parameters)

    def __post_init__(self) -> None:
        for name in ("data_image", "train_image"):
            _check_image(name, getattr(self, name))
        if not 1 <= self.shards <= MOST_SHARDS:
            raise ParameterError(f"profile: shards={self.shards} is not allowed; it must be from 1 to {MOST_SHARDS}")
        if self.launcher not in LAUNCHERS:
            raise ParameterError(f"profile: launcher={self.launcher!r} must be one of {', '.join(LAUNCHERS)}")
        if self.launcher == "local" and self.parameters.num_nodes > 1:
            raise ParameterError(f"num_nodes={self.parameters.num_nodes} needs a profile with launcher: trainjob")
        known = [secret.name for secret in self.secrets if "train" in secret.steps]
        if self.storage.secret and self.storage.secret not in known:
            raise ParameterError(
                f"profile: storage: secret={self.storage.secret!r} must be one of the secrets of train: "
                f"{', '.join(known) or 'there are none'}"
            )
        secret_steps = [step for secret in self.secrets for step in secret.steps]
        named = {"resources": self.resources, "scheduling": self.scheduling, "timeouts": self.timeouts}
        for name, steps in {**named, "secrets": secret_steps}.items():
            unknown = sorted(set(steps) - {*STEPS, *SHARDED_STEPS})
            if unknown:
                raise ParameterError(f"profile: {name} for unknown step {unknown[0]!r}; allowed: {', '.join(STEPS)}")
        for step, seconds in self.timeouts.items():
            if seconds < 1:
                raise ParameterError(f"profile: timeouts: {step}={seconds} must be at least 1")
        for name in ("retries", "ttl"):
            if getattr(self, name) < 0:
                raise ParameterError(f"profile: {name}={getattr(self, name)} must be at least 0")

    def image(self, step: str) -> str:
        """The image that a step runs in."""
        trains = step in TRAIN_IMAGE_STEPS and not (step == "train" and self.launcher == "trainjob")
        return self.train_image if trains else self.data_image

    def launch(self) -> dict[str, Any]:
        """What the step that trains is told of its launcher; nothing where it trains by itself."""
        if self.launcher == "local":
            return {}
        return {
            "image": self.train_image,
            "image_pull_secrets": list(self.image_pull_secrets),
            "storage": self.storage.path,
            **({"bucket": {"uri": self.storage.uri, "scratch": self.storage.scratch}} if self.storage.uri else {}),
            **({"secrets": [self.storage.secret]} if self.storage.secret else {}),
            **settings_as_values(self.trainjob),
        }


def _check_image(name: str, image: str) -> None:
    if image.endswith(":latest") or not (":" in image.rpartition("/")[2] or "@sha256:" in image):
        raise ParameterError(f"profile: {name}={image!r} must have a version tag or a digest, and not latest")
    if not IMAGE.fullmatch(image):
        raise ParameterError(
            f"profile: {name}={image!r} is no image's name: registry/name:tag in lower case; where it holds a "
            "placeholder, put in your registry"
        )


def load(profile: str, overrides: dict[str, str] | None = None) -> Settings:
    """The settings of a profile, given by the name of a shipped one or by a file, with parameters set by hand.

    Raises:
        ParameterError: no such profile, or it says what no profile can say.
    """
    content, path = _read(profile, Path())
    parameters = content.pop("parameters", None) or {}
    if not isinstance(parameters, dict):
        raise ParameterError(f"profile {path}: parameters must be a mapping of names to values")
    values = {name: _expand(value) for name, value in parameters.items()}
    settings: Settings = _build(Settings, content, f"profile {path}")
    return replace(settings, parameters=Parameters.parse(overrides or {}, values))


def _read(profile: str, folder: Path, above: tuple[Path, ...] = ()) -> tuple[dict[str, Any], Path]:
    """What a profile says, over what the one says that it extends. Mappings such as resources are joined by step.

    Args:
        above: the profiles that extend it.
    """
    shipped = sorted(path.stem for path in PROFILES.glob("*.yaml"))
    path = PROFILES / f"{profile}.yaml" if profile in shipped else folder / profile
    if not path.is_file():
        raise ParameterError(f"profile {profile!r} is neither a file nor one of {', '.join(shipped)}")
    try:
        content = parse_yaml(path.read_text(encoding="utf-8")) or {}
    except OSError as error:
        raise ParameterError(f"profile {path}: {error.strerror}") from None
    except ValueError as error:
        raise ParameterError(f"profile {path}: not YAML: {error}") from None
    if not isinstance(content, dict):
        raise ParameterError(
            f"profile {path}: must be a mapping of {', '.join(entry.name for entry in fields(Settings))}"
        )
    if "extends" not in content:
        return content, path
    parent = content.pop("extends")
    above = (*above, path.resolve())
    if not isinstance(parent, str) or (path.parent / parent).resolve() in above:
        raise ParameterError(
            f"profile {path}: extends={parent!r} must be the name or file of a profile that does not extend this one"
        )
    below, _ = _read(parent, path.parent, above)
    return {**below, **{name: _joined(below.get(name), value) for name, value in content.items()}}, path


def _joined(below: Any, over: Any) -> Any:
    return {**below, **over} if isinstance(below, dict) and isinstance(over, dict) else over


def _expand(value: Any) -> Any:
    """{package} and {cache} in a profile's values: this package's folder, and the user's cache."""
    return (
        value.replace("{package}", str(PACKAGE)).replace("{cache}", str(cache_folder()))
        if isinstance(value, str)
        else value
    )


def _build(kind: Any, values: Any, where: str) -> Any:
    """An object from what YAML read, after its annotations; what it cannot be is named with its place."""
    if get_origin(kind) is tuple:
        if not isinstance(values, list):
            raise ParameterError(f"{where}: must be a list")
        inner = get_args(kind)[0]
        return tuple(_build(inner, value, f"{where}[{place}]") for place, value in enumerate(values))
    if get_origin(kind) is Mapping:
        inner = get_args(kind)[1]
        if not isinstance(values, dict):
            raise ParameterError(f"{where}: must be a mapping")
        return MappingProxyType({name: _build(inner, value, f"{where}.{name}") for name, value in values.items()})
    if is_dataclass(kind):
        return _build_fields(kind, {} if values is None else values, where)
    if type(values) is not kind:
        raise ParameterError(f"{where}: {values!r} must be of type {kind.__name__}")
    return values


def _build_fields(kind: Any, values: Any, where: str) -> Any:
    if not isinstance(values, dict):
        raise ParameterError(f"{where}: must be a mapping")
    known = {entry.name for entry in fields(kind)}
    required = {entry.name for entry in fields(kind) if entry.default is MISSING and entry.default_factory is MISSING}
    for problem, names in (("unknown", values.keys() - known), ("missing", required - values.keys())):
        if names:
            raise ParameterError(f"{where}: {min(names, key=str)!r} is {problem}; allowed: {', '.join(sorted(known))}")
    kinds = get_type_hints(kind)
    built = {name: _build(kinds[name], value, f"{where}: {name}") for name, value in values.items()}
    try:
        return kind(**built)
    except ParameterError as error:
        raise ParameterError(f"{where}: {error}") from None
