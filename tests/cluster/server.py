"""A Kubernetes API for tests: the few endpoints that a launcher uses, over HTTP, with what makes them hard.

Objects have uids and resource versions, watches replay and expire, creation conflicts, deletion waits for pods, specs
gain defaults, tokens are checked, logs are followed. Faults are put before or after the work of a request.
"""

import copy
import json
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

Thing = dict[str, Any]
NAMESPACE = "ml"
RESOURCES = {"trainjobs": "trainer.kubeflow.org", "pods": "", "events": ""}
KINDS = {"pods": "Pod", "events": "Event"}  # which a watch names, and a list does not


@dataclass(frozen=True, kw_only=True)
class Fault:
    """What goes wrong with a request.

    Args:
        verb: of the requests that it meets.
        resource: of those.
        status: the answer; 0: none, the connection is reset.
        after: whether the request's work is done all the same.
        retry_after: seconds that the answer asks for.
        message: what the answer says.
    """

    verb: str
    resource: str
    status: int = 0
    after: bool = False
    retry_after: int | None = None
    message: str = "the test's fault"


@dataclass
class State:
    """What the API holds."""

    objects: dict[str, dict[str, Thing]] = field(default_factory=lambda: {name: {} for name in RESOURCES})
    history: list[tuple[int, str, str, Thing]] = field(default_factory=list)  # version, kind of change, resource
    version: int = 100
    oldest: int = 0  # versions before this one are forgotten
    logs: dict[str, list[str]] = field(default_factory=dict)
    calls: list[tuple[str, str, str]] = field(default_factory=list)  # group, resource, verb
    faults: list[Fault] = field(default_factory=list)
    token: str = "first"
    away: bool = False
    pods_stay: bool = False  # a deleted job waits for its pods for ever
    drop_streams: int = 0  # counts up when all open streams are to break
    words: list[str] = field(default_factory=list)  # lines that open watches get, and that are no events


class ServerClosedError(Exception):
    """Somebody waits for what can no longer come."""


class Server:
    """The API, on a port of this machine."""

    def __init__(self) -> None:
        self.state, self.changed, self.closed = State(), threading.Condition(), False
        handler = type("Handler", (_Handler,), {"server_state": self})
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._http.daemon_threads = True
        threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._http.server_address[1]}"

    def close(self) -> None:
        self.closed = True
        self.break_streams()
        self._http.shutdown()
        self._http.server_close()

    def put(self, resource: str, thing: Thing) -> Thing:
        """Adds or changes an object, as a controller does."""
        with self.changed:
            metadata = thing["metadata"]
            known = self.state.objects[resource].get(metadata["name"])
            metadata.setdefault("uid", str(uuid.uuid4()))
            metadata.setdefault("namespace", NAMESPACE)
            metadata.setdefault("creationTimestamp", now())
            self.state.objects[resource][metadata["name"]] = thing
            self._record("MODIFIED" if known else "ADDED", resource, thing)
            return thing

    def remove(self, resource: str, name: str) -> None:
        """Takes an object away, and what belongs to it."""
        with self.changed:
            thing = self.state.objects[resource].pop(name)
            self._record("DELETED", resource, thing)
            if resource == "trainjobs":
                for pod in [pod for pod in self.state.objects["pods"] if pod.startswith(f"{name}-node-")]:
                    self.remove("pods", pod)

    def get(self, resource: str, name: str) -> Thing | None:
        with self.changed:
            return copy.deepcopy(self.state.objects[resource].get(name))

    def forget(self) -> None:
        """Watches cannot go on from any version so far."""
        with self.changed:
            self.state.oldest = self.state.version + 1
            self.state.version += 1

    def break_streams(self) -> None:
        """Open watches and logs end in the middle of a line."""
        with self.changed:
            self.state.drop_streams += 1
            self.changed.notify_all()

    def say(self, line: str) -> None:
        """Every open watch gets a line that is no event."""
        with self.changed:
            self.state.words.append(line)
            self.changed.notify_all()

    def write(self, pod: str, *lines: str) -> None:
        """A container prints."""
        with self.changed:
            stamp = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f") + "000Z"
            self.state.logs.setdefault(pod, []).extend(f"{stamp} {line}" for line in lines)
            self.changed.notify_all()

    def wait(self, what: Callable[[], Any], seconds: float = 60.0) -> Any:
        """Until something is true.

        Raises:
            ServerClosedError: the test has ended meanwhile.
        """
        with self.changed:
            found = self.changed.wait_for(lambda: self.closed or what(), seconds)
        if self.closed:
            raise ServerClosedError
        assert found, "the test's cluster waited in vain"
        return found

    def _record(self, kind: str, resource: str, thing: Thing) -> None:
        self.state.version += 1
        thing["metadata"]["resourceVersion"] = str(self.state.version)
        self.state.history.append((self.state.version, kind, resource, copy.deepcopy(thing)))
        self.changed.notify_all()


class _Handler(BaseHTTPRequestHandler):
    server_state: Server
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        resource, name, rest = self._where()
        verb = "watch" if self._query.get("watch") else "get" if name else "list"
        resource_called = f"{resource}/log" if rest == "log" else resource
        if not self._begin(verb, resource_called):
            return
        if rest == "log":
            self._log(name)
        elif verb == "watch":
            self._watch(resource)
        elif name:
            thing = self.server_state.get(resource, name)
            self._answer(verb, resource, 200 if thing else 404, thing or _status(404, f"{resource} {name!r} not found"))
        else:
            with self.server_state.changed:
                items = [thing for thing in self._state.objects[resource].values() if self._selected(thing)]
                version = str(self._state.version)
                answer = copy.deepcopy({"items": items, "metadata": {"resourceVersion": version}})
            self._answer(verb, resource, 200, answer)

    def do_POST(self) -> None:
        resource, _, _ = self._where()
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if not self._begin("create", resource):
            return
        with self.server_state.changed:
            if body["metadata"]["name"] in self._state.objects[resource]:
                code, answer = 409, _status(409, f"{resource} already exists")
            else:
                code, answer = 201, self.server_state.put(resource, _defaulted(body))
            answer = copy.deepcopy(answer)
        self._answer("create", resource, code, answer)

    def do_DELETE(self) -> None:
        resource, name, _ = self._where()
        options = json.loads(self.rfile.read(int(self.headers["Content-Length"] or 0)) or b"{}")
        if not self._begin("delete", resource):
            return
        with self.server_state.changed:
            thing = self._state.objects[resource].get(name)
            wanted = (options.get("preconditions") or {}).get("uid")
            if thing is None:
                code, answer = 404, _status(404, f"{resource} {name!r} not found")
            elif wanted and wanted != thing["metadata"]["uid"]:
                code, answer = 409, _status(409, "the UID in the precondition does not match")
            else:
                code, answer = 200, copy.deepcopy(thing)
                self._delete(resource, thing, options.get("propagationPolicy"))
        self._answer("delete", resource, code, answer)

    def log_message(self, *_: Any) -> None:
        pass

    @property
    def _state(self) -> State:
        return self.server_state.state

    def _delete(self, resource: str, thing: Thing, policy: str | None) -> None:
        name = thing["metadata"]["name"]
        if policy != "Foreground":
            self.server_state.remove(resource, name)
            return
        thing["metadata"]["deletionTimestamp"] = now()
        self.server_state.put(resource, thing)

        def finish() -> None:  # as a garbage collector does, once the pods have ended
            time.sleep(0.05)
            if self.server_state.get(resource, name) and not self._state.pods_stay:
                self.server_state.remove(resource, name)

        threading.Thread(target=finish, daemon=True).start()

    def _where(self) -> tuple[str, str, str]:
        parts = urlsplit(self.path)
        self._query = {key: values[0] for key, values in parse_qs(parts.query).items()}
        _, _, after = parts.path.partition(f"/namespaces/{NAMESPACE}/")
        resource, name, rest = [*after.split("/"), "", ""][:3]
        return resource, name, rest

    def _begin(self, verb: str, resource: str) -> bool:
        """Whether the request's work is to be done: the API is there, knows the token, and has no fault for it."""
        if self._state.away:
            self._reset()
            return False
        with self.server_state.changed:
            self._state.calls.append((RESOURCES[resource.partition("/")[0]], resource, verb))
            self.server_state.changed.notify_all()
        if self.headers["Authorization"] != f"Bearer {self._state.token}":
            self._send(401, _status(401, "Unauthorized"))
            return False
        self._fault = next((f for f in self._state.faults if (f.verb, f.resource) == (verb, resource)), None)
        if self._fault is None:
            return True
        self._state.faults.remove(self._fault)
        if not self._fault.after:
            self._fail(self._fault)
        return self._fault.after

    def _answer(self, verb: str, resource: str, code: int, answer: Thing) -> None:
        if self._fault:
            self._fail(self._fault)
        else:
            self._send(code, answer)

    def _fail(self, fault: Fault) -> None:
        if fault.status == 0:
            self._reset()
        else:
            extra = {} if fault.retry_after is None else {"Retry-After": str(fault.retry_after)}
            self._send(fault.status, _status(fault.status, fault.message), extra)

    def _send(self, code: int, answer: Thing, extra: dict[str, str] | None = None) -> None:
        body = json.dumps(answer).encode()
        self.send_response(code)
        for name, value in {
            "Content-Type": "application/json",
            "Content-Length": str(len(body)),
            **(extra or {}),
        }.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def _reset(self) -> None:
        self.close_connection = True
        self.connection.close()

    def _selected(self, thing: Thing) -> bool:
        labels = thing["metadata"].get("labels") or {}
        wanted = self._query.get("labelSelector")
        if wanted and labels.get(wanted.partition("=")[0]) != wanted.partition("=")[2]:
            return False
        name = self._query.get("fieldSelector", "").removeprefix("metadata.name=")
        return not name or thing["metadata"]["name"] == name

    def _watch(self, resource: str) -> None:
        version, end = int(self._query["resourceVersion"]), time.monotonic() + float(self._query["timeoutSeconds"])
        self._stream_head()
        if version < self._state.oldest:
            self._chunk(json.dumps({"type": "ERROR", "object": _status(410, "too old resource version")}) + "\n")
            self._chunk("")
            return

        heard = len(self._state.words)

        def events() -> list[str]:
            nonlocal version, heard
            news = [entry for entry in self._state.history if entry[0] > version]
            version = self._state.version
            words, heard = self._state.words[heard:], len(self._state.words)
            named = {"kind": KINDS[resource], "apiVersion": "v1"} if resource in KINDS else {}
            chosen = [(kind, thing | named) for _, kind, of, thing in news if of == resource and self._selected(thing)]
            return [*words, *(json.dumps({"type": kind, "object": thing}) for kind, thing in chosen)]

        self._stream(events, lambda: False, end)

    def _log(self, pod: str) -> None:
        if pod not in self._state.objects["pods"]:
            self._send(404, _status(404, f'pods "{pod}" not found'))
            return
        lines = self._state.logs.get(pod, [])
        if not self._query.get("follow"):
            tail = [line.partition(" ")[2] for line in lines[-int(self._query.get("tailLines", 1000)) :]]
            body = "".join(f"{line}\n" for line in tail).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
            return
        since = time.time() - float(self._query.get("sinceSeconds", 1e6))
        position = next((n for n, line in enumerate(lines) if _seconds(line) >= since), len(lines))
        self._stream_head()

        def new_lines() -> list[str]:
            nonlocal position
            lines = self._state.logs.get(pod, [])[position:]
            position += len(lines)
            return lines

        def ended() -> bool:
            thing = self._state.objects["pods"].get(pod)
            return thing is None or thing["status"].get("phase") in ("Succeeded", "Failed")

        self._stream(new_lines, ended, time.monotonic() + 60)

    def _stream_head(self) -> None:
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()

    def _stream(self, lines: Callable[[], list[str]], ended: Callable[[], bool], end: float) -> None:
        drops = self._state.drop_streams
        while True:
            with self.server_state.changed:
                news, over = lines(), ended()
                if not news and not over:
                    self.server_state.changed.wait(max(0.0, min(0.05, end - time.monotonic())))
            if self._state.away or self._state.drop_streams != drops:
                self._reset()
                return
            for line in news:
                self._chunk(line + "\n")
            if (over and not news) or time.monotonic() > end:
                self._chunk("")
                return

    def _chunk(self, text: str) -> None:
        data = text.encode()
        try:
            self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
        except OSError:
            self.close_connection = True


def now() -> str:
    """The time as Kubernetes writes it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _seconds(line: str) -> float:
    return datetime.fromisoformat(line.partition(" ")[0][:26] + "+00:00").timestamp()


def _status(code: int, message: str) -> Thing:
    return {"kind": "Status", "status": "Failure", "code": code, "reason": "Test", "message": message}


def _defaulted(job: Thing) -> Thing:
    """What Trainer's admission adds to a TrainJob, and how it writes quantities."""
    spec = job["spec"]
    spec |= {"managedBy": "trainer.kubeflow.org/trainjob-controller", "suspend": bool(spec.get("suspend"))}
    for patch in spec.get("runtimePatches") or []:
        patch["time"] = now()
    limits = spec["trainer"].get("resourcesPerNode", {}).get("limits", {})
    if limits.get("cpu", "").isdigit():
        limits["cpu"] = f"{limits['cpu']}000m"
    return job
