"""A KFP server for tests: the part of KFP 2.17's v2beta1 REST API that the project uses, over HTTP, in memory.

It has what makes the real one hard: pages, filters, names that are unique for versions and not for runs, whole numbers
that come back as 2.0, errors in Google's form, 1970 for "not yet", 200 with an error in a log's body, the Argo nodes
that stand behind a step, schedules that cannot be changed, tokens that expire. Every answer is checked against
kfp-server-api's own models before it is sent. Faults are put before or after the work of a request.
"""

import functools
import json
import re
import ssl
import threading
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.message import Message
from email.parser import BytesParser
from email.policy import HTTP
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import kfp_server_api as kfp
import yaml

from tests.kfp_server.play import Play

Thing = dict[str, Any]
ENDED = ("SUCCEEDED", "FAILED", "CANCELED", "SKIPPED")
LISTS = {
    "pipelines": "V2beta1ListPipelinesResponse",
    "pipeline_versions": "V2beta1ListPipelineVersionsResponse",
    "experiments": "V2beta1ListExperimentsResponse",
    "runs": "V2beta1ListRunsResponse",
    "recurringRuns": "V2beta1ListRecurringRunsResponse",
}
# The keys by which KFP lets a list be filtered (APIToModelFieldMap in its models).
FILTERED_BY = {
    "pipelines": {"pipeline_id", "name", "display_name", "description", "namespace"},
    "pipeline_versions": {"pipeline_version_id", "name", "display_name", "description"},
    "experiments": {"experiment_id", "name", "display_name", "description", "namespace"},
    "runs": {"run_id", "display_name", "description", "state", "experiment_id", "recurring_run_id", "namespace"},
    "recurringRuns": {"recurring_run_id", "display_name", "description"},
}


@dataclass(kw_only=True)
class Fault:
    """What goes wrong with requests.

    Args:
        call: of those whose method and path contain this, such as "POST /apis/v2beta1/runs".
        status: the answer; 0: none, the connection is reset.
        after: whether the request's work is done all the same.
        times: how many requests it meets.
        retry_after: seconds that the answer asks for.
        page: a body of HTML, as a proxy's.
        hang: seconds before the answer.
        later: whether the request's work is done after all, when such a request comes again.
    """

    call: str
    status: int = 0
    after: bool = False
    times: int = 1
    retry_after: int | None = None
    page: str = ""
    hang: float = 0.0
    later: bool = False


class RefusedError(Exception):
    """An answer that is an error, in Google's form."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass
class State:
    """What the server holds."""

    pipelines: dict[str, Thing] = field(default_factory=dict)
    versions: dict[str, Thing] = field(default_factory=dict)
    experiments: dict[str, Thing] = field(default_factory=dict)
    runs: dict[str, Thing] = field(default_factory=dict)
    recurring: dict[str, Thing] = field(default_factory=dict)
    plays: dict[str, Play] = field(default_factory=dict)
    logs: dict[str, list[str]] = field(default_factory=dict)  # by step
    calls: list[str] = field(default_factory=list)
    tokens: list[str] = field(default_factory=list)  # that are accepted; none: anybody is
    cookies: list[str] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    namespaces: dict[str, set[str]] = field(default_factory=dict)  # whom a namespace lets in; none: one user
    expire_after: int | None = None  # requests, until no token is accepted any more
    script: Callable[[str], Play] = Play
    behind_ui: bool = False  # whose server passes the API on, but not its logs
    late: list[tuple[str, dict[str, str], Any]] = field(default_factory=list)
    on_refusal: Callable[[], None] = lambda: None
    mistakes: list[str] = field(default_factory=list)


class Server:
    """The API, on a port of this machine; with a certificate and its key in one file, over TLS."""

    def __init__(self, certificate: Path | None = None) -> None:
        self.state, self.lock = State(), threading.RLock()
        self.now: Callable[[], datetime] = lambda: datetime.now(UTC)
        handler = type("Handler", (_Handler,), {"server_state": self})
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._http.daemon_threads = True
        self._scheme = "https" if certificate else "http"
        if certificate:
            tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            tls.load_cert_chain(certificate)
            self._http.socket = tls.wrap_socket(self._http.socket, server_side=True)
        threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    @property
    def url(self) -> str:
        return f"{self._scheme}://127.0.0.1:{self._http.server_address[1]}"

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()

    def fault(self, call: str, status: int = 0, **more: Any) -> None:
        """The next requests of this kind go wrong."""
        self.state.faults.append(Fault(call=call, status=status, **more))

    def asked(self, call: str) -> int:
        """How many requests of a kind have come."""
        return sum(1 for made in self.state.calls if call in made)

    # what a request does

    def answer(self, method: str, path: str, query: dict[str, str], body: Any) -> tuple[str, Any]:
        """A request's answer: its model's name, or object, and the value."""
        for pattern, verb, work in _ROUTES:
            match = re.fullmatch(pattern, path)
            if match and verb == method:
                return work(self, *map(unquote, match.groups()), query=query, body=body)
        raise RefusedError(404, "Not Found")

    def stamp(self) -> str:
        return self.now().strftime("%Y-%m-%dT%H:%M:%SZ")

    def create_pipeline(self, *, query: Thing, body: Thing) -> tuple[str, Thing]:
        name, namespace = body["name"], body.get("namespace", "")
        if any((p["name"], p["namespace"]) == (name, namespace) for p in self.state.pipelines.values()):
            raise RefusedError(409, f"Already exist: The name {name} already exists")
        made = {**body, "pipeline_id": str(uuid.uuid4()), "namespace": namespace, "created_at": self.stamp()}
        self.state.pipelines[made["pipeline_id"]] = made
        return "V2beta1Pipeline", made

    def upload_version(self, *, query: Thing, body: bytes) -> tuple[str, Thing]:
        pipeline, name = query.get("pipelineid", ""), query["name"]
        if pipeline not in self.state.pipelines:
            raise RefusedError(400, "Failed to create a pipeline version due to missing pipeline id")
        if any((v["pipeline_id"], v["name"]) == (pipeline, name) for v in self.state.versions.values()):
            raise RefusedError(409, "Failed to create a pipeline version")
        documents = _documents(body)
        spec = {"pipeline_spec": documents[0], "platform_spec": documents[1]} if len(documents) > 1 else documents[0]
        made = {
            "pipeline_id": pipeline,
            "pipeline_version_id": str(uuid.uuid4()),
            "name": name,
            "display_name": query.get("display_name", name),
            "description": query.get("description", ""),
            "created_at": self.stamp(),
            "pipeline_spec": json.loads(json.dumps(spec, default=str)),
        }
        self.state.versions[made["pipeline_version_id"]] = made
        return "V2beta1PipelineVersion", made

    def get_version(self, pipeline: str, version: str, *, query: Thing, body: Any) -> tuple[str, Thing]:
        return "V2beta1PipelineVersion", self._found(self.state.versions, version, "PipelineVersion")

    def create_experiment(self, *, query: Thing, body: Thing) -> tuple[str, Thing]:
        namespace = body.get("namespace", "")
        for other in self.state.experiments.values():
            if (other["display_name"], other["namespace"]) == (body["display_name"], namespace):
                raise RefusedError(409, f"Already exist: experiment {body['display_name']}")
        made = {**body, "experiment_id": str(uuid.uuid4()), "namespace": namespace, "created_at": self.stamp()}
        self.state.experiments[made["experiment_id"]] = made
        return "V2beta1Experiment", made

    def create_run(self, *, query: Thing, body: Thing) -> tuple[str, Thing]:
        reference = body.get("pipeline_version_reference", {})
        version = self.version_of(reference)
        self._check_inputs(version, body)
        if body["experiment_id"] not in self.state.experiments:
            raise RefusedError(404, f"Experiment {body['experiment_id']} not found")
        return "V2beta1Run", self.make_run(body, version)

    def make_run(self, body: Thing, version: Thing) -> Thing:
        """A run as the API server makes one, whoever asked for it."""
        made = {
            **body,
            "run_id": str(uuid.uuid4()),
            "state": "PENDING",
            "storage_state": "AVAILABLE",
            "created_at": self.stamp(),
            "scheduled_at": "1970-01-01T00:00:00Z",
            "finished_at": "1970-01-01T00:00:00Z",
            "runtime_config": _doubled(body.get("runtime_config", {})),
        }
        made["pipeline_version_reference"] = {
            "pipeline_id": version["pipeline_id"],
            "pipeline_version_id": version["pipeline_version_id"],
        }
        self.state.runs[made["run_id"]] = made
        play = self.state.script(made["run_id"])
        play.learn(version["pipeline_spec"].get("pipeline_spec", version["pipeline_spec"]))
        self.state.plays[made["run_id"]] = play
        return made

    def get_run(self, run: str, *, query: Thing, body: Any) -> tuple[str, Thing]:
        found = self._found(self.state.runs, run, "Run")
        self.state.plays[run].look(found, self.stamp())
        return "V2beta1Run", found

    def terminate_run(self, run: str, *, query: Thing, body: Any) -> tuple[str, Thing]:
        found = self._found(self.state.runs, run, "Run")
        if found["state"] in ENDED:
            raise RefusedError(400, f"Failed to terminate run {run}: it has ended")
        found["state"] = "CANCELING"
        return "object", {}

    def retry_run(self, run: str, *, query: Thing, body: Any) -> tuple[str, Thing]:
        found = self._found(self.state.runs, run, "Run")
        if found["state"] not in ("FAILED", "CANCELED"):
            raise RefusedError(400, f"Failed to retry run {run}: workflow must be Failed/Error to retry")
        found |= {"state": "PENDING", "finished_at": "1970-01-01T00:00:00Z"}
        found.pop("error", None)
        self.state.plays[run].again()
        return "object", {}

    def create_recurring(self, *, query: Thing, body: Thing) -> tuple[str, Thing]:
        if not 1 <= int(body.get("max_concurrency", 0)) <= 10:
            raise RefusedError(400, "Max concurrency of a recurring run must be at least 1 and at most 10")
        reference = body["pipeline_version_reference"]
        self._check_inputs(self.version_of(reference), body)
        enabled = body["mode"] == "ENABLE"
        made = {
            **body,
            "recurring_run_id": str(uuid.uuid4()),
            "status": "ENABLED" if enabled else "DISABLED",
            "created_at": self.stamp(),
            "updated_at": self.stamp(),
            "max_concurrency": str(body["max_concurrency"]),
            "runtime_config": _doubled(body.get("runtime_config", {})),
            "service_account": body.get("service_account") or "pipeline-runner",
            "namespace": self.state.experiments[body["experiment_id"]]["namespace"],
            "trigger": _in_utc(body["trigger"]),
        }
        self.state.recurring[made["recurring_run_id"]] = made
        return "V2beta1RecurringRun", made

    def get_recurring(self, one: str, *, query: Thing, body: Any) -> tuple[str, Thing]:
        return "V2beta1RecurringRun", self._found(self.state.recurring, one, "Job")

    def delete_recurring(self, one: str, *, query: Thing, body: Any) -> tuple[str, Thing]:
        self._found(self.state.recurring, one, "Job")
        del self.state.recurring[one]
        if query.get("propagation_policy") != "ORPHAN":  # the schedule owns its workflows, and they go with it
            for run in self.state.runs.values():
                if run.get("recurring_run_id") == one and run["state"] not in ENDED:
                    run["state"] = "FAILED"
        return "object", {}

    def switch_recurring(self, one: str, mode: str, *, query: Thing, body: Any) -> tuple[str, Thing]:
        found = self._found(self.state.recurring, one, "Job")
        found |= {
            "mode": mode.upper(),
            "status": f"{mode.upper()}D",
            "updated_at": self.stamp(),
        }
        return "object", {}

    def page(self, kind: str, things: list[Thing], query: Thing) -> tuple[str, Thing]:
        """One page of what fits the filter."""
        if "experiment_id" in query:
            things = [thing for thing in things if thing.get("experiment_id") == query["experiment_id"]]
        elif kind in ("pipelines", "experiments") or query.get("namespace"):
            things = [thing for thing in things if self._namespace(thing) == query.get("namespace", "")]
        for predicate in json.loads(query.get("filter") or "{}").get("predicates", []):
            key, value = predicate["key"], predicate["stringValue"]
            if key not in FILTERED_BY[kind]:
                raise RefusedError(400, f'no support for filtering on unrecognized field "{key}"')
            fits = {"EQUALS": lambda a, b: a == b, "IS_SUBSTRING": lambda a, b: b.lower() in a.lower()}
            things = [thing for thing in things if fits[predicate["operation"]](thing.get(key, ""), value)]
        sort, _, order = (query.get("sort_by") or "created_at").partition(" ")
        things = sorted(things, key=lambda thing: thing.get(sort, ""), reverse=order == "desc")
        size, start = int(query.get("page_size") or 20), int(query.get("page_token") or 0)
        rest = start + size
        return LISTS[kind], {
            kind: things[start:rest],
            "total_size": len(things),
            "next_page_token": str(rest) if rest < len(things) else "",
        }

    def log(self, run: str, pod: str) -> list[str]:
        """What a pod printed; one line with an error where it is not there."""
        step = self.state.plays[run].pods().get(pod)
        if step is None or step not in self.state.logs:
            return [json.dumps({"error_message": f"Failed to read logs for run {run}", "error_details": pod})]
        return self.state.logs[step]

    def _namespace(self, thing: Thing) -> str:
        if "namespace" in thing:
            return str(thing["namespace"])
        return str(self.state.experiments.get(thing.get("experiment_id", ""), {}).get("namespace", ""))

    def version_of(self, reference: Thing) -> Thing:
        """The version that a reference names, or the pipeline's youngest."""
        if reference.get("pipeline_version_id"):
            return self._found(self.state.versions, reference["pipeline_version_id"], "PipelineVersion")
        ours = [v for v in self.state.versions.values() if v["pipeline_id"] == reference.get("pipeline_id")]
        if not ours:
            raise RefusedError(400, "Cannot create a job with an empty pipeline ID")
        return ours[-1]

    def _check_inputs(self, version: Thing, body: Thing) -> None:
        spec = version["pipeline_spec"].get("pipeline_spec", version["pipeline_spec"])
        known = spec["root"].get("inputDefinitions", {}).get("parameters", {})
        for name in body.get("runtime_config", {}).get("parameters", {}):
            if name not in known:
                raise RefusedError(400, f"parameter {name} is not found in the pipeline job")

    def _found(self, things: dict[str, Thing], key: str, kind: str) -> Thing:
        if key not in things:
            raise RefusedError(404, f"{kind} {key} not found.")
        return things[key]


def _lister(kind: str, where: str) -> Callable[..., tuple[str, Thing]]:
    def work(server: Server, *groups: str, query: Thing, body: Any) -> tuple[str, Thing]:
        things = list(getattr(server.state, where).values())
        if groups:
            things = [thing for thing in things if thing["pipeline_id"] == groups[0]]
        return server.page(kind, things, query)

    return work


_API = "/apis/v2beta1"
_ROUTES: list[tuple[str, str, Callable[..., tuple[str, Thing]]]] = [
    (f"{_API}/pipelines", "GET", _lister("pipelines", "pipelines")),
    (f"{_API}/pipelines", "POST", Server.create_pipeline),
    (f"{_API}/pipelines/upload_version", "POST", Server.upload_version),
    (f"{_API}/pipelines/([^/]+)/versions", "GET", _lister("pipeline_versions", "versions")),
    (f"{_API}/pipelines/([^/]+)/versions/([^/]+)", "GET", Server.get_version),
    (f"{_API}/experiments", "GET", _lister("experiments", "experiments")),
    (f"{_API}/experiments", "POST", Server.create_experiment),
    (f"{_API}/runs", "GET", _lister("runs", "runs")),
    (f"{_API}/runs", "POST", Server.create_run),
    (f"{_API}/runs/([^/:]+)", "GET", Server.get_run),
    (f"{_API}/runs/([^/:]+):terminate", "POST", Server.terminate_run),
    (f"{_API}/runs/([^/:]+):retry", "POST", Server.retry_run),
    (f"{_API}/recurringruns", "GET", _lister("recurringRuns", "recurring")),
    (f"{_API}/recurringruns", "POST", Server.create_recurring),
    (f"{_API}/recurringruns/([^/:]+)", "GET", Server.get_recurring),
    (f"{_API}/recurringruns/([^/:]+)", "DELETE", Server.delete_recurring),
    (f"{_API}/recurringruns/([^/:]+):(enable|disable)", "POST", Server.switch_recurring),
]


class _Handler(BaseHTTPRequestHandler):
    server_state: Server
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # a small answer would else wait for the client's acknowledgement

    def do_GET(self) -> None:
        self._serve()

    def do_POST(self) -> None:
        self._serve()

    def do_DELETE(self) -> None:
        self._serve()

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing is printed."""

    def _serve(self) -> None:
        server, target = self.server_state, urlsplit(self.path)
        call, body = f"{self.command} {target.path}", self._body()
        with server.lock:
            server.state.calls.append(call)
            fault = next((fault for fault in server.state.faults if fault.call in call), None)
            if fault:
                fault.times -= 1
                if not fault.times:
                    server.state.faults.remove(fault)
            query = {name: values[0] for name, values in parse_qs(target.query).items()}
            if fault is None or fault.after:
                for late in [late for late in server.state.late if late[0] == call]:
                    server.state.late.remove(late)
                    self._work(target.path, *late[1:])
                status, answer = self._work(target.path, query, body)
            elif fault.later:
                server.state.late.append((call, query, body))
        if fault is None:
            self._send(status, answer)
        elif fault.hang:
            threading.Event().wait(fault.hang)
            self._drop()
        elif fault.status == 0:
            self._drop()
        else:
            self._fail(fault)

    def _work(self, path: str, query: dict[str, str], body: Any) -> tuple[int, bytes]:
        server = self.server_state
        refused = self._refused()
        if refused:
            return refused, _error(refused, "Unauthenticated" if refused == 401 else "User is not authorized")
        log = re.fullmatch(r"/apis/v1alpha1/runs/([^/]+)/nodes/([^/]+)/log", path)
        if log and not server.state.behind_ui:
            return 200, "".join(f"{line}\n" for line in server.log(*log.groups())).encode()
        if path == "/k8s/pod/logs" and server.state.behind_ui:
            lines = server.log(query["runid"], query["podname"])
            gone = lines[0].startswith('{"error_message"')
            return (500, b"Could not get main container logs: Error") if gone else (200, "\n".join(lines).encode())
        try:
            model, value = server.answer(self.command, path, query, body)
            check(model, value)
        except RefusedError as error:
            return error.status, _error(error.status, str(error))
        except (AssertionError, KeyError, ValueError) as error:  # the server's own mistake, or a request KFP has not
            server.state.mistakes.append(f"{self.command} {path}: {error!r}")
            return 501, _error(501, repr(error))
        return 200, json.dumps(value).encode()

    def _refused(self) -> int:
        state = self.server_state.state
        if state.expire_after is not None:
            state.expire_after -= 1
            if state.expire_after < 0:
                state.tokens, state.expire_after = ["nobody's"], None
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        cookie = self.headers.get("Cookie") or ""
        if (state.tokens or state.cookies) and token not in state.tokens and cookie not in state.cookies:
            state.on_refusal()
            return 401
        asked = parse_qs(urlsplit(self.path).query).get("namespace", [""])[0]
        return 403 if asked in state.namespaces and token not in state.namespaces[asked] else 0

    def _body(self) -> Any:
        data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        kind = self.headers.get("Content-Type") or ""
        if kind.startswith("multipart/"):
            whole: Message = BytesParser(policy=HTTP).parsebytes(f"Content-Type: {kind}\r\n\r\n".encode() + data)
            return whole.get_payload(0).get_payload(decode=True)  # type: ignore[union-attr]
        return json.loads(data) if data and "json" in kind else None

    def _send(self, status: int, data: bytes, kind: str = "application/json", wait: int | None = None) -> None:
        with suppress(OSError):
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(data)))
            if wait is not None:
                self.send_header("Retry-After", str(wait))
            self.end_headers()
            self.wfile.write(data)

    def _fail(self, fault: Fault) -> None:
        if fault.page:
            self._send(fault.status, fault.page.encode(), "text/html")
        else:
            self._send(fault.status, _error(fault.status, "the fault of a test"), wait=fault.retry_after)

    def _drop(self) -> None:
        self.close_connection = True
        with suppress(OSError):
            self.connection.shutdown(2)


def _error(status: int, message: str) -> bytes:
    code = {400: 3, 401: 16, 403: 7, 404: 5, 409: 6, 429: 8}.get(status, 13)
    return json.dumps({"error": message, "code": code, "message": message, "details": []}).encode()


def _doubled(config: Thing) -> Thing:
    """KFP keeps parameters as protobuf's Value, which has no whole numbers."""
    parameters = {
        name: float(value) if isinstance(value, int) and not isinstance(value, bool) else value
        for name, value in config.get("parameters", {}).items()
    }
    return {**config, "parameters": parameters}


@functools.cache
def _documents(text: bytes) -> list[Any]:
    return list(yaml.load_all(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader)))


def _in_utc(trigger: Thing) -> Thing:
    """KFP answers times as protobuf writes them, whatever their offset was."""
    cron = dict(trigger["cron_schedule"])
    for name in ("start_time", "end_time"):
        if cron.get(name):
            cron[name] = datetime.fromisoformat(cron[name]).astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {"cron_schedule": cron}


def check(model: str, value: Any) -> None:
    """Raises AssertionError where an answer is not what kfp-server-api says that it is."""
    if model in ("object", "bool", "int", "str") or value is None:
        return
    if model == "datetime":
        datetime.strptime(value, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
        return
    many = re.fullmatch(r"list\[(.+)\]|dict\(str, (.+)\)", model)
    if many:
        for one in value if many[1] else value.values():
            check(many[1] or many[2], one)
        return
    kind = getattr(kfp, model)
    allowed = [entry for entry in dir(kind) if entry.isupper()]
    if not kind.openapi_types:
        assert value in {getattr(kind, entry) for entry in allowed}, f"{value!r} is no {model}"
        return
    names = {json_name: name for name, json_name in kind.attribute_map.items()}
    for name, part in value.items():
        assert name in names, f"{model} has no {name}"
        check(kind.openapi_types[names[name]], part)
