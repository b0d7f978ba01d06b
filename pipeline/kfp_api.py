"""KFP's REST API by its own client, kfp-server-api, with the patience and the plain errors that a command needs.

What may be asked again after a fault is asked again, with growing pauses. What may not, such as creating a run, raises
LostAnswerError, so that its caller looks for what it may have made first.
"""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import kfp_server_api as kfp
import urllib3
from urllib3.exceptions import HTTPError

from pipeline.endpoint import Endpoint
from pipeline.kfp_faults import HINT, FailureError, LostAnswerError, NotFoundError, RefusedError, fault_of

PAGE = 100
FIRST_PATIENCE = 6.0  # seconds for a server that has never answered: its address is more likely wrong than its network
MOST_TRIES = 4
PAUSES = (0.5, 30.0)  # seconds, the first and the longest
MOST_ASKED = 900.0  # seconds, the longest pause that a server may ask for


@dataclass(frozen=True)
class Clock:
    """Time, as the real one unless a test has its own."""

    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    sleep: Callable[[float], None] = time.sleep
    monotonic: Callable[[], float] = time.monotonic


@dataclass
class Api:
    """One server, asked with patience.

    Args:
        endpoint: where it is, and as whom it is asked.
        patience: seconds for which a server that answered before is asked again while it does not.
        timeout: seconds for one answer.
    """

    endpoint: Endpoint
    patience: float = 120.0
    timeout: float = 60.0
    clock: Clock = field(default_factory=Clock)
    say: Callable[[str], None] = lambda _: None

    def __post_init__(self) -> None:
        configuration = kfp.Configuration(host=self.endpoint.address)
        configuration.retries = False  # urllib3's own would neither wait nor tell
        proxy = getproxies().get(urlsplit(self.endpoint.address).scheme)
        if proxy and not proxy_bypass(urlsplit(self.endpoint.address).hostname or ""):
            configuration.proxy = proxy
        if certificates := self.endpoint.certificates():
            configuration.ssl_ca_cert = certificates
        self._configuration, self._client = configuration, kfp.ApiClient(configuration)
        self._answered = False
        self.runs = kfp.RunServiceApi(self._client)
        self.experiments = kfp.ExperimentServiceApi(self._client)
        self.pipelines = kfp.PipelineServiceApi(self._client)
        self.uploads = kfp.PipelineUploadServiceApi(self._client)
        self.recurring = kfp.RecurringRunServiceApi(self._client)

    def call(
        self,
        function: Callable[..., Any],
        *arguments: Any,
        repeatable: bool = True,
        tries: int = MOST_TRIES,
        **named: Any,
    ) -> Any:
        """What one of kfp-server-api's functions answers.

        Args:
            repeatable: whether asking twice does no more than asking once.
            tries: how often a 500 is believed to pass; KFP answers 500 to what will never work as well.

        Raises:
            RefusedError: 400, 401, 403, or no KFP server there.
            NotFoundError, ConflictError: 404, 409.
            LostAnswerError: not repeatable, and it may have been carried out.
            KfpError: any other failure, after patience.
        """
        begun, tried = self.clock.monotonic(), 0
        while True:
            tried += 1
            sent = self._authenticate()
            try:
                answer = function(*arguments, _request_timeout=(min(10.0, self.timeout), self.timeout), **named)
            except (kfp.ApiException, HTTPError, AttributeError) as error:
                fault = fault_of(_meant(error), self.endpoint, sent)
            else:
                self._check_kind(named)
                self._answered = True
                return answer
            if fault.lost and not repeatable:
                raise LostAnswerError(str(fault.error)) from None
            patience = self.patience if self._answered or fault.answered else min(self.patience, FIRST_PATIENCE)
            pause = fault.wait if fault.wait is not None else min(PAUSES[0] * 2 ** (tried - 1), PAUSES[1])
            if fault.expired:
                fault.again = self._may_be_renewed(sent)
            # a pause that the server asks for is waited for, however short patience is
            counted = 0.0 if fault.wait is not None and fault.wait <= MOST_ASKED else pause
            given_up = self.clock.monotonic() - begun + counted > patience or (fault.status == 500 and tried >= tries)
            if not fault.again or given_up:
                raise (fault.error if fault.answered or self._answered else RefusedError(str(fault.error))) from None
            self.say(f"{fault.error}; asking again in {pause:.3g} s")
            self.clock.sleep(pause)

    def pages(self, function: Callable[..., Any], items: str, *arguments: Any, **named: Any) -> Iterator[Any]:
        """Everything that a list function has, page by page."""
        token = ""
        while True:
            page = self.call(function, *arguments, page_size=PAGE, page_token=token, **named)
            yield from getattr(page, items) or []
            token = page.next_page_token
            if not token:
                return

    def log(self, run_id: str, pod: str, follow: bool = False) -> Iterator[str]:
        """What a pod of a run has printed, line by line: from the pod, or from the server's archive.

        The API has a route for it that it does not document, and the UI, which hides that one, has its own.

        Raises:
            NotFoundError: neither has it.
        """
        of_api = ("/apis/v1alpha1/runs/{run_id}/nodes/{pod}/log", [("follow", "true")] if follow else [])
        asked = {"podname": pod, "runid": run_id, "podnamespace": self.endpoint.namespace}
        of_ui = ("/k8s/pod/logs", [entry for entry in asked.items() if entry[1]])
        for path, query in (of_api, of_ui):
            with suppress(NotFoundError, FailureError):  # the UI says 500 where a pod is gone
                yield from self._stream(path, {"run_id": run_id, "pod": pod}, query)
                return
        raise NotFoundError(f"{self.endpoint.address} has no log of {pod}")

    def _stream(self, path: str, parts: dict[str, str], query: list[tuple[str, str]]) -> Iterator[str]:
        answer = self.call(
            self._client.call_api,
            path,
            "GET",
            parts,
            query,
            {},
            auth_settings=["Bearer"],
            _preload_content=False,
            _return_http_data_only=True,
            tries=1,
        )
        if "html" in (answer.headers.get("Content-Type") or ""):
            raise NotFoundError("a page of the UI")
        with suppress(HTTPError):  # a stream that breaks has no more to say
            for number, line in enumerate(_lines(answer)):
                if number == 0 and line.startswith('{"error_message"'):  # KFP says 200 before it knows
                    raise NotFoundError(line)
                yield line

    def _check_kind(self, named: dict[str, Any]) -> None:
        """kfp-server-api makes an empty object of a login page, and says nothing."""
        if named.get("_preload_content", True) and "json" not in (
            self._client.last_response.getheader("content-type") or ""
        ):
            raise RefusedError(f"{self.endpoint.address} is no KFP API: it did not answer with JSON; {HINT}")

    def _authenticate(self) -> str:
        """Puts the credentials as they are now into the next request."""
        token = self.endpoint.token()
        self._configuration.api_key = {"authorization": token} if token else {}
        self._configuration.api_key_prefix = {"authorization": "Bearer"}
        self._client.cookie = self.endpoint.cookie() or None
        return token or self._client.cookie or ""

    def _may_be_renewed(self, sent: str) -> bool:
        """Whether a refused credential was accepted before, or has changed since it was sent."""
        return self._answered or self._authenticate() != sent


def _meant(error: Exception) -> Exception:
    """What kfp-server-api meant to raise: it stumbles over a fault without a body, such as a certificate's."""
    if not isinstance(error, AttributeError):
        return error
    meant = error.__context__
    if isinstance(meant, Exception) and isinstance(meant, kfp.ApiException):
        return meant
    raise error


def _lines(answer: urllib3.BaseHTTPResponse) -> Iterator[str]:
    rest = b""
    for chunk in answer.stream(65536):
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            yield line.decode("utf-8", "replace")
    if rest:
        yield rest.decode("utf-8", "replace")


def equals(**values: str) -> str:
    """A filter of a list function: every key has exactly this value."""
    predicates = [{"operation": "EQUALS", "key": key, "stringValue": value} for key, value in values.items()]
    return json.dumps({"predicates": predicates})
