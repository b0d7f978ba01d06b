"""What can go wrong between a client and KFP's API, and the one line that says so."""

import json
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import kfp_server_api as kfp
from urllib3.exceptions import (
    ConnectTimeoutError,
    HTTPError,
    LocationParseError,
    NameResolutionError,
    NewConnectionError,
    ProxyError,
)

from components.errors import PipelineError, UserError
from pipeline.endpoint import COOKIE, TOKEN, Endpoint


class KfpError(PipelineError):
    """The KFP server failed, or did not answer in time."""


class FailureError(KfpError):
    """The server answered with a failure of its own, 5xx."""


class NotFoundError(KfpError):
    """What was asked for is not on the server."""


class ConflictError(KfpError):
    """There is one of this name already."""


class LostAnswerError(KfpError):
    """A request may have been carried out, but its answer did not come."""


class RefusedError(UserError):
    """The server refuses what it was asked, or whom it was asked by; or it is not where it was said to be."""


@dataclass
class Fault:
    """What went wrong with a request, and what follows from it.

    Args:
        again: whether asking again may help.
        lost: whether it may have been carried out.
        answered: whether a KFP server said so.
        wait: seconds that the server asks for.
    """

    error: PipelineError
    again: bool = False
    lost: bool = False
    answered: bool = True
    expired: bool = False
    status: int = 0
    wait: float | None = None


def fault_of(error: Exception, endpoint: Endpoint, sent: str) -> Fault:
    """What an exception of kfp-server-api or urllib3 means.

    Args:
        sent: the credential of the request, if there was one.
    """
    host = endpoint.address
    if isinstance(error, LocationParseError):
        return Fault(RefusedError(f"{host} is no address"), answered=False)
    if isinstance(error, ConnectTimeoutError | NewConnectionError | NameResolutionError | ProxyError):
        reason = _reason(error)
        return Fault(
            KfpError(f"{host} cannot be reached: {reason}; check --host and the network"), True, answered=False
        )
    if isinstance(error, HTTPError):  # a timeout, or a connection that broke
        reason = "no answer in time" if "imed out" in str(error) else "the connection broke"
        return Fault(KfpError(f"{host}: {reason}"), again=True, lost=True, answered=False)
    assert isinstance(error, kfp.ApiException)
    status, said = error.status or 0, _said(error)
    if not status:
        return Fault(RefusedError(f"{host}: {said}; is its certificate trusted? --ca-file"), answered=False)
    if status == 429:
        return Fault(KfpError(f"{host} is too busy (429)"), again=True, status=status, wait=_retry_after(error))
    if status >= 500:
        failed = FailureError(f"{host} failed ({status}): {said}")
        return Fault(failed, again=status != 501, lost=True, status=status, wait=_retry_after(error))
    if status in (301, 302, 303, 307, 308, 401):
        whose = f"the credentials ({_source(endpoint)}) were" if sent else "no token or cookie was given, and that was"
        hint = f"renew them, or set {TOKEN}, {COOKIE} or --token-file"
        refused = RefusedError(f"{host} asks for a login ({status}): {whose} not accepted; {hint}")
        return Fault(refused, expired=bool(sent), status=status)
    kind = {404: NotFoundError, 409: ConflictError}.get(status, RefusedError)
    note = "; the user may not do this; check --namespace and its roles" if status == 403 else ""
    return Fault(kind(f"{host} refused ({status}): {said}{note}"), status=status)


HINT = "the address of the UI usually needs /pipeline at its end"


def _source(endpoint: Endpoint) -> str:
    return endpoint.token_file or endpoint.cookie_file or "from the environment"


def _reason(error: Exception) -> str:
    text = str(error).rpartition("] ")[2] if "[Errno" in str(error) else str(error).rpartition(": ")[2]
    return "no answer in time" if "timed out" in str(error) else text.rstrip(").") or "no connection"


def _said(error: Any) -> str:
    """The one sentence of an error's body that a person needs: never the whole of it, which may be a page."""
    with suppress(ValueError, AttributeError, TypeError):  # no JSON, none of that form, or no body at all
        body = json.loads(error.body)
        text = body.get("message") or body.get("error_message") or body.get("error") or ""
        if isinstance(text, str) and text:
            return " ".join(text.split())[:300].rstrip(".")
    return " ".join(str(error.reason or "no reason given").split())[:200]


def _retry_after(error: Any) -> float | None:
    value = (error.headers or {}).get("Retry-After") if getattr(error, "headers", None) else None
    if not value:
        return None
    with suppress(ValueError, TypeError):
        if value.isdigit():
            return float(value)
        return max(0.0, (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds())
    return None
