"""A compiled pipeline and its versions on a KFP server: one version a content, told by its digest."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import kfp_server_api as kfp
import yaml

from components import __version__
from components.errors import ParameterError
from pipeline.kfp_api import Api, equals
from pipeline.kfp_faults import ConflictError, KfpError, LostAnswerError

DIGEST = "sha256:"
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # some ten times faster where it is built in


@dataclass(frozen=True, kw_only=True)
class Package:
    """A compiled pipeline.

    Args:
        path: its file.
        spec: the pipeline's own document of the two that a file may have.
        text: the file as it is.
    """

    path: Path
    text: str
    spec: dict[str, Any]

    @property
    def name(self) -> str:
        return str(self.spec["pipelineInfo"]["name"])

    @property
    def digest(self) -> str:
        return content_digest(self.text)

    @property
    def version(self) -> str:
        return version_name(self.name, self.text)


def content_digest(text: str) -> str:
    """The digest that tells contents apart."""
    return DIGEST + hashlib.sha256(text.encode()).hexdigest()


def version_name(pipeline: str, text: str) -> str:
    """The name of a content's version, the same in the UI, in Kubernetes objects and for every tool of this project."""
    return f"{pipeline}-{__version__}-{content_digest(text).removeprefix(DIGEST)[:8]}"


def read_package(path: Path) -> Package:
    """A compiled pipeline from its file.

    Raises:
        ParameterError: no such file, or no compiled pipeline in it.
    """
    try:
        text = path.read_text(encoding="utf-8")
        spec = next(iter(yaml.load_all(text, _LOADER)), None)  # a safe one
    except OSError as error:
        raise ParameterError(f"--pipeline-file {path}: {error.strerror}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ParameterError(f"--pipeline-file {path}: not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(spec, dict) or "root" not in spec or not spec.get("pipelineInfo", {}).get("name"):
        raise ParameterError(f"--pipeline-file {path} is no compiled pipeline; python -m pipeline.compile writes one")
    return Package(path=path, text=text, spec=spec)


def spec_of(version: Any) -> dict[str, Any]:
    """The pipeline's own document of a version that a server has."""
    spec = version.pipeline_spec or {}
    return spec.get("pipeline_spec", spec)  # type: ignore[no-any-return]


def find_pipeline(api: Api, name: str) -> str:
    """The id of a pipeline: the namespace's own, or one that all share; empty where there is none."""
    for namespace in dict.fromkeys((api.endpoint.namespace, "")):
        where: dict[str, Any] = {"namespace": namespace} if namespace else {}
        found = api.call(
            api.pipelines.pipeline_service_list_pipelines, filter=equals(display_name=name), page_size=2, **where
        ).pipelines
        if found:
            return str(found[0].pipeline_id)
    return ""


def find_version(api: Api, pipeline_id: str, name: str) -> Any | None:
    """A version by its name; none where there is none."""
    listed = api.pages(
        api.pipelines.pipeline_service_list_pipeline_versions,
        "pipeline_versions",
        pipeline_id,
        filter=equals(display_name=name),
    )
    return next(listed, None)


def latest_version(api: Api, pipeline_id: str) -> Any | None:
    """The version that KFP takes where none is named: the youngest."""
    page = api.call(
        api.pipelines.pipeline_service_list_pipeline_versions, pipeline_id, page_size=1, sort_by="created_at desc"
    )
    return (page.pipeline_versions or [None])[0]


def find_package(api: Api, package: Package, pipeline: str) -> tuple[str, Any | None]:
    """The pipeline's id and the package's version as the server has them; empty and none where it has not.

    Raises:
        KfpError: the version's name is taken by another content.
    """
    pipeline_id = find_pipeline(api, pipeline)
    version = find_version(api, pipeline_id, package.version) if pipeline_id else None
    described = (version.description or "") if version else ""
    if DIGEST in described and package.digest not in described:
        raise KfpError(f"version {package.version} is on the server with another content; delete it there")
    return pipeline_id, version


def upload(api: Api, package: Package, pipeline: str) -> tuple[Any, bool]:
    """The package's version, uploaded where the server has none of its digest.

    Returns:
        The version, and whether it was uploaded now.
    """
    pipeline_id, version = find_package(api, package, pipeline)
    if version:
        return version, False
    pipeline_id = pipeline_id or _create_pipeline(api, package, pipeline)
    try:
        # A version's name is unique in its pipeline, so a repetition is refused and never a second version.
        version = api.call(
            api.uploads.upload_pipeline_version,
            str(package.path),
            name=package.version,
            display_name=package.version,
            description=package.digest,
            pipelineid=pipeline_id,
        )
    except ConflictError:
        version = find_version(api, pipeline_id, package.version)
        if not version:
            raise
    return version, True


def _create_pipeline(api: Api, package: Package, name: str) -> str:
    description = str(package.spec["pipelineInfo"].get("description", ""))
    wanted = kfp.V2beta1Pipeline(
        display_name=name, name=name, description=description, namespace=api.endpoint.namespace or None
    )
    try:
        made = api.call(api.pipelines.pipeline_service_create_pipeline, wanted, repeatable=False)
    except (ConflictError, LostAnswerError):
        found = find_pipeline(api, name)
        if not found:
            raise
        return found
    return str(made.pipeline_id)


def find_experiment(api: Api, name: str) -> str:
    """An experiment's id; empty where there is none."""
    listed = api.call(
        api.experiments.experiment_service_list_experiments,
        filter=equals(display_name=name),
        page_size=2,
        **_namespace(api),
    )
    return str(listed.experiments[0].experiment_id) if listed.experiments else ""


def experiment(api: Api, name: str) -> str:
    """An experiment's id; it is made where there is none."""
    found = find_experiment(api, name)
    if found:
        return found
    wanted = kfp.V2beta1Experiment(display_name=name, namespace=api.endpoint.namespace or None)
    try:
        made = api.call(api.experiments.experiment_service_create_experiment, wanted, repeatable=False)
    except (ConflictError, LostAnswerError):
        found = find_experiment(api, name)
        if not found:
            raise
        return found
    return str(made.experiment_id)


def _namespace(api: Api) -> dict[str, Any]:
    return {"namespace": api.endpoint.namespace} if api.endpoint.namespace else {}
