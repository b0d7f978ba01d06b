"""The model registry: MLflow, embedded (sqlite:///file) or a server (http://, https://).

One registered model a name; the alias `champion` points to the version in use. A version is found again by
its `key` tag, so registering the same thing twice makes one version.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from components.errors import ParameterError, RegistryError

CHAMPION = "champion"
SCHEMES = ("sqlite:///", "http://", "https://")
# Tags that a version carries, beside those that its caller adds.
KEY, RUN_DIGEST, COMPARED_WITH, PROMOTED = "key", "run_digest", "compared_with", "promoted"


@dataclass(frozen=True, kw_only=True)
class Version:
    """A registered version: its number, where its files lie, and its tags."""

    name: str
    number: str
    source: str
    tags: dict[str, str]
    aliases: list[str]

    @property
    def reference(self) -> str:
        """`number:key`: never the same for two things, also when a registry is emptied and counts from 1 again."""
        return f"{self.number}:{self.tags.get(KEY, '')}"


def check_address(address: str) -> None:
    """Raises ParameterError unless the address has a scheme that is supported and holds no secret."""
    if "@" in urlsplit(address).netloc:  # it would stand in parameters, YAML and logs
        raise ParameterError(
            "registry holds a user name or password; set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD instead"
        )
    if not address.startswith(SCHEMES):
        raise ParameterError(
            f"registry={address!r} is not an address; allowed: {', '.join(scheme + '…' for scheme in SCHEMES)}"
        )


class Registry:
    """One registered model in an MLflow registry.

    Raises:
        RegistryError: from any method, when the registry cannot be reached or refuses.
    """

    def __init__(self, address: str, name: str) -> None:
        check_address(address)
        self.address = address
        self.name = name
        self._database = Path(address.removeprefix("sqlite:///")) if address.startswith("sqlite:///") else None
        if self._database:
            self._database.parent.mkdir(parents=True, exist_ok=True)
        with self._errors("open"):
            from mlflow import MlflowClient

            self._client: Any = MlflowClient(tracking_uri=address, registry_uri=address)

    def identity(self) -> str:
        """Which registry this is: its experiment's id and birth, made here when missing.

        A step that wrote into a registry is cached under this, so a new or emptied one is written to again.
        Asking for it before training also shows an unreachable or read-only registry in the first minute.
        """
        with self._errors("open the experiment"):
            experiment = self._client.get_experiment_by_name(self.name)
            if experiment is None:
                self._client.create_experiment(self.name, artifact_location=self._artifact_location())
                experiment = self._client.get_experiment_by_name(self.name)
            return f"{experiment.experiment_id}@{experiment.creation_time}"

    def champion(self) -> Version | None:
        """The version behind the champion alias, if there is one."""
        from mlflow.exceptions import MlflowException

        try:
            found = self._client.get_model_version_by_alias(self.name, CHAMPION)
        except MlflowException as error:
            if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                return None  # no such model yet, or no such alias on it
            raise RegistryError(f"registry {self.address}: cannot read the champion: {_reason(error)}") from error
        return self._version(found)

    def version(self, reference: str) -> Version:
        """One version by its reference."""
        number = reference.partition(":")[0]
        with self._errors(f"read version {number}"):
            found = self._version(self._client.get_model_version(self.name, number))
        if found.reference != reference:
            raise RegistryError(f"registry {self.address}: version {number} is no longer the one that was resolved")
        return found

    def download(self, version: Version) -> Path:
        """The version's model folder on this machine."""
        from mlflow.artifacts import download_artifacts

        with self._errors(f"download version {version.number}"):
            return Path(download_artifacts(artifact_uri=version.source, tracking_uri=self.address))

    def register(
        self, *, key: str, folders: list[Path], params: dict[str, Any], metrics: dict[str, float], tags: dict[str, str]
    ) -> tuple[Version, bool]:
        """Registers folders' files as one version and makes it the champion; finds the version again if it is there.

        The version is made after every file has arrived, so an interrupted call leaves none behind. It is promoted
        once: when somebody moves the alias away, registering the same thing again does not move it back.

        Returns:
            The version, and whether this call made it.
        """
        with self._errors("register"):
            version = self._find(key)
            created = version is None
            if version is None:
                version = self._create(key, folders, params, metrics, tags)
            if PROMOTED not in version.tags:
                self._client.set_registered_model_alias(self.name, CHAMPION, version.number)
                self._client.set_model_version_tag(self.name, version.number, PROMOTED, "true")
            return self._version(self._client.get_model_version(self.name, version.number)), created

    def holds(self, run_digest: str) -> bool:
        """Whether a version of this run is registered."""
        with self._errors("search"):
            return bool(self._search(RUN_DIGEST, run_digest))

    def _find(self, key: str) -> Version | None:
        found = self._search(KEY, key)
        return self._version(found[0]) if found else None

    def _search(self, tag: str, value: str) -> list[Any]:
        return list(self._client.search_model_versions(f"name = '{self.name}' and tags.{tag} = '{value}'"))

    def _create(
        self, key: str, folders: list[Path], params: dict[str, Any], metrics: dict[str, float], tags: dict[str, str]
    ) -> Version:
        experiment = self.identity().partition("@")[0]
        unfinished = self._client.search_runs([experiment], f"tags.{KEY} = '{key}'", max_results=1)
        run = unfinished[0] if unfinished else self._client.create_run(experiment, tags={KEY: key, **tags})
        run_id = run.info.run_id
        for name, value in params.items():
            self._client.log_param(run_id, name, value)
        for name, number in metrics.items():
            self._client.log_metric(run_id, name, number)
        for folder in folders:
            self._client.log_artifacts(run_id, str(folder), "model")
        self._client.set_terminated(run_id)
        if not self._client.search_registered_models(f"name = '{self.name}'"):
            self._client.create_registered_model(self.name)
        source = f"{run.info.artifact_uri}/model"
        return self._version(self._client.create_model_version(self.name, source, run_id, tags={KEY: key, **tags}))

    def _artifact_location(self) -> str | None:
        """Beside an embedded database; a server decides for itself."""
        return (self._database.parent.absolute() / "mlartifacts" / self.name).as_uri() if self._database else None

    def _version(self, found: Any) -> Version:
        return Version(
            name=self.name,
            number=str(found.version),
            source=str(found.source),
            tags=dict(found.tags),
            aliases=list(found.aliases),
        )

    def _errors(self, action: str) -> "_Errors":
        return _Errors(f"registry {self.address}: cannot {action}")


class _Errors:
    """Turns what MLflow raises into one RegistryError line."""

    def __init__(self, message: str) -> None:
        self.message = message

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, Exception) and not isinstance(error, RegistryError):
            raise RegistryError(f"{self.message}: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
