"""The Kubeflow Model Registry: kubeflow://HOST:PORT?artifacts=URI, or kubeflow+https:// with TLS.

It keeps what is said about a model, not its files: those go to the address's `artifacts`, an fsspec URI. A version is
named after its key, which the server lets exist once. It stays archived until its files and its model artifact are
there. The champion and its moves are custom properties of the registered model, changed in one request. Notes are those
of a second, archived one, `NAME.notes`: a request replaces all properties, and no note may undo a move of the champion.
"""

import asyncio
import json
import os
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from components.registry.base import CHAMPION, CONTENT, KEY, Entry, Move, Registry, Version, files_of

TOKEN, TOKEN_FILE = "MODEL_REGISTRY_TOKEN", "KF_PIPELINES_SA_TOKEN_PATH"  # the second as Kubeflow's own client has it
MOVE = "champion_move."
FINISHED = "finished"  # a property that a version gets last; people may archive and restore it later
NAME_LENGTH = 12
PAGE = "100"
TIMEOUT = 60.0  # seconds a request
RETRY_SECONDS = (1, 2, 4, 8, 16)
CONFLICT, TRANSIENT = 409, (408, 429, 500, 502, 503, 504)
Call = Callable[[Any], Awaitable[Any]]


class KubeflowRegistry(Registry):
    """One registered model in the Kubeflow Model Registry."""

    def __init__(self, address: str, name: str) -> None:
        super().__init__(address, name)
        parts = urlsplit(address)
        host = f"{'https' if parts.scheme.endswith('https') else 'http'}://{parts.netloc}"
        self._artifacts = parse_qs(parts.query)["artifacts"][0].rstrip("/")
        with self._errors("open"):
            from mr_openapi import ApiClient, Configuration

            self._client: Any = ApiClient(Configuration(host=host))

    def identity(self) -> str:
        """The registered model's id and time of creation."""
        with self._errors("open the registered model"):
            model = self._model() or self._make_model()
            return f"{model.id}@{model.create_time_since_epoch}"

    def versions(self) -> list[Version]:
        """The versions that were finished, and that nobody deleted."""
        with self._errors("list the versions"):
            model = self._model()
            found = self._raw_versions(model) if model else []
        champion = _read(model).get(CHAMPION) if model else None
        return [self._version(one, champion) for one in found if FINISHED in _read(one)]

    def moves(self) -> list[Move]:
        """From the custom properties of the registered model."""
        with self._errors("read the champion's moves"):
            model = self._model()
        said = _read(model) if model else {}
        moves = [(name.removeprefix(MOVE), value) for name, value in said.items() if name.startswith(MOVE)]
        return [Move(at=int(at), **json.loads(value)) for at, value in sorted(moves)]

    def notes(self) -> dict[str, str]:
        """From the custom properties of the model that holds them."""
        with self._errors("read the notes"):
            notebook = self._model(self._notebook)
        return _read(notebook) if notebook else {}

    def _note(self, name: str, text: str | None) -> None:
        from mr_openapi import RegisteredModelState, RegisteredModelUpdate

        with self._errors("write a note"):
            archived = RegisteredModelState.ARCHIVED
            notebook = self._model(self._notebook) or self._make_model(self._notebook, state=archived)
            kept = {key: value for key, value in (notebook.custom_properties or {}).items() if key != name}
            properties = kept if text is None else {**kept, name: _text(text)}
            change = RegisteredModelUpdate(state=archived, customProperties=properties)
            self._call(lambda client: client.update_registered_model(notebook.id, change))

    def _create(self, entry: Entry, content: str) -> Version:
        from mr_openapi import ModelVersionCreate, ModelVersionState, ModelVersionUpdate

        with self._errors("register"):
            model = self._model() or self._make_model()
            source = f"{self._artifacts}/{self.name}/{content.removeprefix('sha256:')[:NAME_LENGTH]}"
            self._upload(entry.folder, source)
            said = self._properties(entry, content, source)
            begun = self._named(model, entry.key) or self._once(
                lambda client: client.create_model_version(
                    ModelVersionCreate(
                        name=entry.key[:NAME_LENGTH],
                        registeredModelId=model.id,
                        state=ModelVersionState.ARCHIVED,
                        customProperties=said,
                    )
                )
            )
            begun = begun or self._named(model, entry.key)  # another was first
            if FINISHED in _read(begun):
                return self.numbered(begun.id)
            self._make_artifact(begun.id, source)
            live = ModelVersionUpdate(state=ModelVersionState.LIVE, customProperties={**said, FINISHED: _text("true")})
            self._call(lambda client: client.update_model_version(begun.id, live))
            return self.numbered(begun.id)

    def _properties(self, entry: Entry, content: str, source: str) -> dict[str, Any]:
        texts = {**entry.tags, KEY: entry.key, CONTENT: content, "source": source}
        configuration = {f"config.{name}": str(value) for name, value in entry.configuration.items()}
        figures = {name: _number(value) for name, value in entry.metrics.items()}
        return {**figures, **{name: _text(value) for name, value in {**configuration, **texts}.items()}}

    def _upload(self, folder: Path, target: str) -> None:
        """Puts every file under a path that names their content, so what is there with its full size is the same."""
        import fsspec

        filesystem, root = fsspec.core.url_to_fs(target)
        for file in files_of(folder):
            place = f"{root}/{file.relative_to(folder).as_posix()}"
            if not filesystem.exists(place) or filesystem.size(place) != file.stat().st_size:
                filesystem.makedirs(place.rpartition("/")[0], exist_ok=True)
                filesystem.put_file(str(file.resolve()), place)

    def _make_model(self, name: str = "", **values: Any) -> Any:
        from mr_openapi import RegisteredModelCreate

        wanted = RegisteredModelCreate(name=name or self.name, **values)
        return self._once(lambda client: client.create_registered_model(wanted)) or self._model(wanted.name)

    def _make_artifact(self, version: str, uri: str) -> None:
        from mr_openapi import Artifact, ModelArtifact

        listed = self._all(lambda client, **page: client.get_model_version_artifacts(version, **page))
        known = listed[0].actual_instance if listed else None
        if known is None or known.uri != uri:
            named = {"id": known.id} if known else {}
            artifact = Artifact(ModelArtifact(artifactType="model-artifact", name="model", uri=uri, **named))
            self._once(lambda client: client.upsert_model_version_artifact(version, artifact))

    def _move(self, move: Move) -> None:
        from mr_openapi import RegisteredModelUpdate

        said = json.dumps({"to": move.to, "previous": move.previous, "reason": move.reason})
        with self._errors("move the champion"):
            model = self._model()
            properties = {**(model.custom_properties or {}), CHAMPION: _text(move.to), f"{MOVE}{move.at}": _text(said)}
            change = RegisteredModelUpdate(state=model.state, customProperties=properties)
            self._call(lambda client: client.update_registered_model(model.id, change))

    def _fetch(self, version: Version, folder: Path) -> Path:
        import fsspec

        with self._errors(f"download version {version.number}"):
            filesystem, root = fsspec.core.url_to_fs(version.source)
            if "file" in filesystem.protocol:
                return Path(root)
            for place, about in filesystem.find(root, detail=True).items():
                target = folder / place.removeprefix(root).lstrip("/")
                if not target.exists() or target.stat().st_size != about["size"]:
                    target.parent.mkdir(parents=True, exist_ok=True)
                    filesystem.get_file(place, str(target))
            return folder

    def _model(self, name: str = "") -> Any:
        """A registered model, this one unless named; None before it is there. The server finds by pattern only."""
        models = self._all(lambda client, **page: client.get_registered_models(**page))
        return next((model for model in models if model.name == (name or self.name)), None)

    @property
    def _notebook(self) -> str:
        return f"{self.name}.notes"

    def _raw_versions(self, model: Any) -> list[Any]:
        found = self._all(lambda client, **page: client.get_registered_model_versions(model.id, **page))
        return sorted(found, key=lambda version: int(version.id))

    def _named(self, model: Any, key: str) -> Any:
        return next((one for one in self._raw_versions(model) if one.name == key[:NAME_LENGTH]), None)

    def _version(self, found: Any, champion: str | None) -> Version:
        said = _read(found)
        return Version(
            name=self.name,
            number=found.id,
            source=said["source"],
            tags=said,
            aliases=[CHAMPION] if found.id == champion else [],
            created=int(found.create_time_since_epoch),
        )

    def _all(self, call: Callable[..., Awaitable[Any]]) -> list[Any]:
        """Every page of a list."""
        answer = self._call(lambda client: call(client, page_size=PAGE))
        items = list(answer.items or [])
        while token := answer.next_page_token:
            answer = self._call(partial(call, page_size=PAGE, next_page_token=token))
            items += answer.items or []
        return items

    def _once(self, call: Call) -> Any:
        """Makes something that another may have made in the same moment; None then."""
        from mr_openapi.exceptions import ApiException

        try:
            return self._call(call)
        except ApiException as error:
            if error.status != CONFLICT:
                raise
            return None

    def _call(self, call: Call) -> Any:
        """One request, tried again while the server is away or busy, each time after a longer pause."""
        import aiohttp
        from mr_openapi.exceptions import ApiException

        for seconds in (*RETRY_SECONDS, None):
            try:
                return asyncio.run(self._request(call))
            except (ApiException, aiohttp.ClientError, TimeoutError) as error:
                if seconds is None or (isinstance(error, ApiException) and error.status not in TRANSIENT):
                    raise
                time.sleep(seconds)
        raise AssertionError("the last attempt returns or raises")

    async def _request(self, call: Call) -> Any:
        from mr_openapi import ModelRegistryServiceApi

        self._client.configuration.access_token = _token()
        try:
            return await asyncio.wait_for(call(ModelRegistryServiceApi(self._client)), TIMEOUT)
        finally:
            await self._client.close()
            self._client.rest_client.pool_manager = None  # the next request opens its own, in its own loop


def _token() -> str | None:
    """The bearer token: from the environment, or from the file that a pod mounts, read again as it is renewed."""
    if text := os.environ.get(TOKEN):
        return text
    path = os.environ.get(TOKEN_FILE)
    return Path(path).read_text(encoding="utf-8").strip() if path else None


def _text(value: str) -> Any:
    from mr_openapi import MetadataStringValue, MetadataValue

    return MetadataValue(MetadataStringValue(metadataType="MetadataStringValue", string_value=value))


def _number(value: float) -> Any:
    from mr_openapi import MetadataDoubleValue, MetadataValue

    return MetadataValue(MetadataDoubleValue(metadataType="MetadataDoubleValue", double_value=value))


def _read(resource: Any) -> dict[str, str]:
    """A resource's custom properties as texts."""
    values = {name: value.actual_instance for name, value in (resource.custom_properties or {}).items()}
    texts = {name: getattr(value, "string_value", None) for name, value in values.items()}
    numbers = {name: f"{value.double_value:.6g}" for name, value in values.items() if hasattr(value, "double_value")}
    return {**{name: text for name, text in texts.items() if text is not None}, **numbers}
