"""Where the KFP server is, and as whom it is asked: from flags, then the environment, then the profile."""

import argparse
import os
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

from components.errors import ParameterError

# What kfp.Client takes in a pod as well: the API's name in the cluster, and where the token for it is mounted.
IN_CLUSTER = "http://ml-pipeline.kubeflow.svc.cluster.local:8888"
POD_TOKEN = "/var/run/secrets/kubeflow/pipelines/token"  # noqa: S105  # a path
POD = "KUBERNETES_SERVICE_HOST"
# What each field is read from. The first two and the pod's token are kfp.Client's own names.
VARIABLES = {
    "host": "KF_PIPELINES_ENDPOINT",
    "ui": "KF_PIPELINES_UI_ENDPOINT",
    "namespace": "KFP_NAMESPACE",
    "token_file": "KFP_TOKEN_FILE",
    "cookie_file": "KFP_COOKIE_FILE",
    "ca_file": "KFP_CA_FILE",
}
TOKEN, COOKIE, POD_TOKEN_PATH = "KFP_TOKEN", "KFP_COOKIE", "KF_PIPELINES_SA_TOKEN_PATH"  # names


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """A KFP server. Secrets are named, never held: they stand in files or in the environment.

    Args:
        host: The API's address, such as https://kubeflow.example.com/pipeline; empty: the one of the cluster that
            this process runs in.
        ui: The address that links start with, where it is not the host.
        namespace: The user's namespace where KFP is multi-user; empty where it is not.
        token_file: A file with a bearer token, read anew for each request, so that it may be renewed at any time.
        cookie_file: A file with the cookies of a browser's session, as name=value; name=value.
        ca_file: A file with certificates to trust in place of the usual ones, PEM.
        service_account: The account of a run's pods, where neither the run nor its schedule says another; empty: the
            server's own choice.
        time_zone: The zone in which the server's scheduler reads cron, its CRON_SCHEDULE_TIMEZONE.
    """

    host: str = ""
    ui: str = ""
    namespace: str = ""
    token_file: str = ""
    cookie_file: str = ""
    ca_file: str = ""
    service_account: str = ""
    time_zone: str = "UTC"

    def __post_init__(self) -> None:
        for name in ("host", "ui"):
            value = getattr(self, name)
            try:
                parts = urlsplit(value)
            except ValueError:  # brackets that hold no IPv6 address
                parts = urlsplit("")
            if value and (parts.scheme not in ("http", "https") or not parts.netloc):
                raise ParameterError(
                    f"{name}={value!r} must be an address such as https://kubeflow.example.com/pipeline"
                )
            if parts.username or parts.password:
                raise ParameterError(f"{name} must hold no user or password; put a token into a file: token_file")

    @property
    def address(self) -> str:
        """Where the API is asked."""
        return (self.host or IN_CLUSTER).rstrip("/")

    @property
    def links(self) -> str:
        """What a link into the UI starts with."""
        return (self.ui or self.host).rstrip("/")

    def token(self) -> str:
        """The bearer token as it is now; empty where there is none.

        Raises:
            ParameterError: a file that cannot be read, or that is empty.
        """
        if self.token_file:
            return _secret("token_file", self.token_file)
        if os.environ.get(TOKEN):
            return os.environ[TOKEN].strip()
        pod = os.environ.get(POD_TOKEN_PATH) or ("" if self.host else POD_TOKEN)
        return _secret(POD_TOKEN_PATH, pod) if pod and Path(pod).exists() else ""

    def certificates(self) -> str:
        """The path of the certificates to trust; empty: the usual ones.

        Raises:
            ParameterError: there is no such file.
        """
        path = Path(self.ca_file).expanduser()
        if self.ca_file and not path.is_file():
            raise ParameterError(f"ca_file={self.ca_file!r} is no file")
        return str(path) if self.ca_file else ""

    def cookie(self) -> str:
        """The session's cookies as they are now; empty where there are none."""
        return _secret("cookie_file", self.cookie_file) if self.cookie_file else os.environ.get(COOKIE, "").strip()


def _secret(name: str, path: str) -> str:
    try:
        text = Path(path).expanduser().read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not text"
        raise ParameterError(f"{name}={path!r} cannot be read: {reason}") from None
    if not text or "\n" in text:
        raise ParameterError(f"{name}={path!r} must hold one line and nothing else")
    return text


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags that say where the server is."""
    group = parser.add_argument_group(
        "the KFP server",
        f"A flag goes before the environment, and that before the profile's kfp section. A token or a cookie is never "
        f"a flag: set {TOKEN} or {COOKIE}, or name a file.",
    )
    say = {
        "host": "the API's address, such as https://kubeflow.example.com/pipeline; none: this pod's cluster",
        "ui": "what links start with, where it is not the host",
        "namespace": "your namespace where KFP is multi-user",
        "token_file": "a file with a bearer token, read anew for each request",
        "cookie_file": "a file with the cookies of a browser's session",
        "ca_file": "certificates to trust, PEM",
    }
    for name, text in say.items():
        group.add_argument(f"--{name.replace('_', '-')}", metavar="X", help=f"{text} [{VARIABLES[name]}]")


def endpoint_of(arguments: argparse.Namespace, profile: Endpoint) -> Endpoint:
    """The server after flags, environment and profile.

    Raises:
        ParameterError: an address that is none, or none at all outside a cluster.
    """
    chosen = {name: getattr(arguments, name) or os.environ.get(variable, "") for name, variable in VARIABLES.items()}
    endpoint = replace(profile, **{name: value for name, value in chosen.items() if value})
    if not endpoint.host and not os.environ.get(POD):
        raise ParameterError(
            f"no KFP server: give --host, set {VARIABLES['host']}, or write host under kfp in a profile"
        )
    return endpoint
