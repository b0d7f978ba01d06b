"""The model registry: one interface, on MLflow or on the Kubeflow Model Registry; which one, the address says."""

from urllib.parse import parse_qs, urlsplit

from components.errors import ParameterError
from components.registry.base import (
    COMPARED_WITH,
    CONTENT,
    INPUTS,
    KEY,
    RUN_DIGEST,
    SIGNATURE,
    STARTED_FROM,
    Entry,
    Move,
    Registry,
    Version,
)

__all__ = [
    "ADDRESSES",
    "COMPARED_WITH",
    "CONTENT",
    "INPUTS",
    "KEY",
    "RUN_DIGEST",
    "SIGNATURE",
    "STARTED_FROM",
    "Entry",
    "Move",
    "Registry",
    "Version",
    "check_address",
    "open_registry",
]

MLFLOW = ("sqlite:///", "http://", "https://")
KUBEFLOW = ("kubeflow://", "kubeflow+https://")
ADDRESSES = "sqlite:///FILE, http(s)://HOST (MLflow), kubeflow://HOST:PORT?artifacts=URI (Kubeflow Model Registry)"


def check_address(address: str) -> None:
    """Raises ParameterError unless the address has a form that is supported and holds no secret."""
    if "@" in urlsplit(address).netloc:  # it would stand in parameters, YAML and logs
        raise ParameterError(
            "registry holds a user name or password; set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, "
            "or for Kubeflow MODEL_REGISTRY_TOKEN, instead"
        )
    if not address.startswith(MLFLOW + KUBEFLOW):
        raise ParameterError(f"registry={address!r} is not an address; allowed: {ADDRESSES}")
    if address.startswith(KUBEFLOW) and not parse_qs(urlsplit(address).query).get("artifacts"):
        raise ParameterError(
            f"registry={address!r} does not say where files are kept, and the Kubeflow registry keeps none itself; "
            "add ?artifacts=URI, such as ?artifacts=s3://bucket/models"
        )


def open_registry(address: str, name: str) -> Registry:
    """The registered model of a name, in the registry at an address.

    Raises:
        ParameterError: the address has no form that is supported.
        RegistryError: it cannot be opened.
    """
    check_address(address)
    if address.startswith(KUBEFLOW):
        from components.registry.kubeflow_registry import KubeflowRegistry

        return KubeflowRegistry(address, name)
    from components.registry.mlflow_registry import MLflowRegistry

    return MLflowRegistry(address, name)
