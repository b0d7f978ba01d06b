"""MLflow's registry: embedded (sqlite:///file), or a server (http://, https://) with MLflow's own environment.

A version is an MLflow model version, its files lie in the run that it points to, the champion is an alias and its
moves are tags of the registered model. Notes are tags of the experiment, which is there before the first version.
The client itself tries a server again, as MLFLOW_HTTP_REQUEST_MAX_RETRIES says.
"""

import json
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from filelock import FileLock

from components.registry.base import CHAMPION, CONTENT, KEY, Entry, Move, Registry, Version, files_of
from components.sources import aside

MOVE, NOTE = "champion_move.", "note."
LOCK_SECONDS = 3600
METRICS_A_CALL = 1000  # the server's limit
UNNAMEABLE = re.compile(r"[^\w/.\- :]")  # what MLflow takes in no name of a metric or tag, such as a task's maj@64
LOCAL = ("file:", "/")  # sources that lie on this machine already
THERE, MISSING = "RESOURCE_ALREADY_EXISTS", "RESOURCE_DOES_NOT_EXIST"  # MLflow's own codes


class MLflowRegistry(Registry):
    """One registered model in MLflow."""

    def __init__(self, address: str, name: str) -> None:
        super().__init__(address, name)
        self._database = Path(address.removeprefix("sqlite:///")) if address.startswith("sqlite:///") else None
        if self._database:
            self._database.parent.mkdir(parents=True, exist_ok=True)
        with self._errors("open"), self._lock():  # two that make the same database would meet
            from mlflow import MlflowClient

            self._client: Any = MlflowClient(tracking_uri=address, registry_uri=address)

    def identity(self) -> str:
        """The experiment's id and time of creation."""
        with self._errors("open the experiment"):
            experiment = self._client.get_experiment_by_name(self.name)
            if experiment is None:
                location = self._artifact_location()
                _unless_there(lambda: self._client.create_experiment(self.name, artifact_location=location))
                experiment = self._client.get_experiment_by_name(self.name)
            return f"{experiment.experiment_id}@{experiment.creation_time}"

    def versions(self) -> list[Version]:
        """The model versions; a version is made last, so each is finished."""
        with self._errors("list the versions"):
            model = self._model()
            found = self._client.search_model_versions(f'name = "{self.name}"') if model else []
        return [self._version(one, model.aliases) for one in sorted(found, key=lambda one: int(one.version))]

    def moves(self) -> list[Move]:
        """From the tags of the registered model."""
        with self._errors("read the champion's moves"):
            model = self._model()
        tags = model.tags if model else {}
        moves = [(name.removeprefix(MOVE), value) for name, value in tags.items() if name.startswith(MOVE)]
        return [Move(at=int(at), **json.loads(value)) for at, value in sorted(moves)]

    def notes(self) -> dict[str, str]:
        """From the tags of the experiment."""
        with self._errors("read the notes"):
            tags = self._client.get_experiment(self._experiment()).tags
        return {name.removeprefix(NOTE): value for name, value in tags.items() if name.startswith(NOTE)}

    def _note(self, name: str, text: str | None) -> None:
        with self._errors("write a note"):
            if text is None:
                _unless_there(lambda: self._client.delete_experiment_tag(self._experiment(), f"{NOTE}{name}"))
            else:
                self._client.set_experiment_tag(self._experiment(), f"{NOTE}{name}", text)

    def _create(self, entry: Entry, content: str) -> Version:
        with self._errors("register"):
            run = self._run(entry)
            path = f"model-{content.removeprefix('sha256:')[:12]}"
            self._upload(entry.folder, run.info.run_id, path)
            self._client.set_terminated(run.info.run_id)
            _unless_there(lambda: self._client.create_registered_model(self.name))
            figures = {name: f"{value:.6g}" for name, value in _named(entry.metrics).items()}
            tags = {**figures, **entry.tags, KEY: entry.key, CONTENT: content}
            source = f"{run.info.artifact_uri}/{path}"
            self._client.create_model_version(self.name, source, run.info.run_id, tags=tags)
            return self._settled(entry.key)

    def _run(self, entry: Entry) -> Any:
        """The MLflow run of an entry: one that was begun before, or a new one."""
        experiment = self._experiment()
        begun = self._client.search_runs([experiment], f"tags.{KEY} = '{entry.key}'", order_by=["start_time ASC"])
        run = begun[0] if begun else self._client.create_run(experiment, tags={KEY: entry.key, **entry.tags})
        for name, value in entry.configuration.items():
            self._client.log_param(run.info.run_id, name, value)
        for name, number in _named(entry.metrics).items():
            self._client.log_metric(run.info.run_id, name, number)
        self._log_curves(run, entry.curves)
        return run

    def _log_curves(self, run: Any, curves: Sequence[Mapping[str, float]]) -> None:
        """Every point as MLflow's metrics; all at the run's start, so that a point is the same when it comes again."""
        from mlflow.entities import Metric

        points = [
            Metric(f"train/{name}", value, run.info.start_time, int(point["step"]))
            for point in curves
            for name, value in point.items()
            if name != "step"
        ]
        for begin in range(0, len(points), METRICS_A_CALL):
            self._client.log_batch(run.info.run_id, metrics=points[begin : begin + METRICS_A_CALL])

    def _experiment(self) -> str:
        return self.identity().partition("@")[0]

    def _upload(self, folder: Path, run: str, path: str) -> None:
        """Puts every file under a path that names their content, so what is there with its full size is the same."""
        kept: dict[str, int] = {}
        for place in sorted({file.relative_to(folder).parent.as_posix() for file in files_of(folder)}):
            listed = self._client.list_artifacts(run, f"{path}/{place}".removesuffix("/."))
            kept |= {one.path: one.file_size for one in listed if not one.is_dir}
        for file in files_of(folder):
            place = f"{path}/{file.relative_to(folder).as_posix()}"
            if kept.get(place) != file.stat().st_size:
                self._client.log_artifact(run, str(file), place.rpartition("/")[0])

    def _settled(self, key: str) -> Version:
        """The lowest of the versions with a key; others, made at the same moment or by a repeated request, go.

        Numbers only rise, so whoever looks after it made its own sees every lower one, and all keep the same.
        """
        first, *others = (version for version in self.versions() if version.tags.get(KEY) == key)
        for other in others:
            _unless_there(lambda number=other.number: self._client.delete_model_version(self.name, number))  # type: ignore[misc]
        return first

    def _move(self, move: Move) -> None:
        said = json.dumps({"to": move.to, "previous": move.previous, "reason": move.reason})
        with self._errors("move the champion"):
            self._client.set_registered_model_alias(self.name, CHAMPION, move.to)
            self._client.set_registered_model_tag(self.name, f"{MOVE}{move.at}", said)

    def _fetch(self, version: Version, folder: Path) -> Path:
        from mlflow.artifacts import download_artifacts

        with self._errors(f"download version {version.number}"):
            if version.source.startswith(LOCAL):
                return Path(download_artifacts(artifact_uri=version.source, tracking_uri=self.address))
            if not folder.exists():
                partial = aside(folder)
                partial.mkdir(parents=True, exist_ok=True)
                came = download_artifacts(artifact_uri=version.source, dst_path=str(partial), tracking_uri=self.address)
                _put(Path(came), folder)
                shutil.rmtree(partial, ignore_errors=True)
            return folder

    def _lock(self) -> AbstractContextManager[Any]:
        return FileLock(f"{self._database}.lock", timeout=LOCK_SECONDS) if self._database else super()._lock()

    def _model(self) -> Any:
        """MLflow's registered model; None before the first registration."""
        from mlflow.exceptions import MlflowException

        try:
            return self._client.get_registered_model(self.name)
        except MlflowException as error:
            if error.error_code == MISSING:
                return None
            raise

    def _artifact_location(self) -> str | None:
        """Beside an embedded database; a server decides for itself."""
        return (self._database.parent.absolute() / "mlartifacts" / self.name).as_uri() if self._database else None

    def _version(self, found: Any, aliases: dict[str, str]) -> Version:
        return Version(
            name=self.name,
            number=str(found.version),
            source=str(found.source),
            tags=dict(found.tags),
            aliases=[alias for alias, number in aliases.items() if str(number) == str(found.version)],
            created=int(found.creation_timestamp),
        )


def _named(metrics: Mapping[str, float]) -> dict[str, float]:
    return {UNNAMEABLE.sub("_", name): value for name, value in metrics.items()}


def _put(came: Path, folder: Path) -> None:
    """Moves what was downloaded to its place; another process that was first has put the same bytes there."""
    try:
        came.rename(folder)
    except OSError:
        if not folder.exists():
            raise


def _unless_there(change: Callable[[], Any]) -> None:
    """Makes or removes something that another may have made or removed in the same moment."""
    from mlflow.exceptions import MlflowException

    try:
        change()
    except MlflowException as error:
        if error.error_code not in (THERE, MISSING):
            raise
