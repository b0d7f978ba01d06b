"""Servers for tests: a Kubeflow Model Registry that behaves, and a proxy that loses what it is told to lose."""

import base64
import contextlib
import http.client
import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

API = "/api/model_registry/v1/"
Answer = tuple[int, dict[str, Any]]


class QuietHandler(BaseHTTPRequestHandler):
    """A handler that answers every method by `serve`, and keeps its log to itself."""

    protocol_version = "HTTP/1.1"

    def serve(self) -> None:
        raise NotImplementedError

    def log_message(self, format: str, *args: Any) -> None: ...

    def do_GET(self) -> None:
        self.serve()

    do_POST = do_PATCH = do_PUT = do_DELETE = do_GET

    def body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))


@contextlib.contextmanager
def serving(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    """Serves on a free port of this machine; yields host:port."""
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


class KubeflowServer:
    """The part of the Kubeflow Model Registry's REST API (v1) that a client of models needs.

    As the real one, it gives ids and times, refuses a second resource of a name under one parent (409) and what is
    not there (404), replaces custom properties as a whole, and lists in pages, which may be shorter than asked for.
    """

    def __init__(self, *, page: int = 100, token: str | None = None) -> None:
        self.page = page
        self.token = token
        self.models: dict[str, dict[str, Any]] = {}
        self.versions: dict[str, dict[str, Any]] = {}
        self.artifacts: dict[str, dict[str, Any]] = {}
        self._lock = threading.Lock()
        self._ids = 0

    def answer(self, method: str, target: str, token: str | None, body: bytes) -> Answer:
        if self.token and token != f"Bearer {self.token}":
            return 401, {"code": "401", "message": "not authorised"}
        parts = urlsplit(target)
        path = parts.path.removeprefix(API).split("/")
        asked = {name: values[0] for name, values in parse_qs(parts.query).items()}
        content = json.loads(body) if body else {}
        with self._lock:
            return self._route(method, path, asked, content)

    def _route(self, method: str, path: list[str], asked: dict[str, str], content: dict[str, Any]) -> Answer:
        match method, path:
            case "GET", ["registered_models"]:
                return self._page(self.models, asked)
            case "POST", ["registered_models"]:
                return self._make(self.models, "", content)
            case "PATCH", ["registered_models", one]:
                return self._change(self.models, one, content)
            case "GET", ["registered_models", parent, "versions"] if parent in self.models:
                return self._page(_below(self.versions, parent), asked)
            case "POST", ["model_versions"] if content.get("registeredModelId") in self.models:
                return self._make(self.versions, content["registeredModelId"], content)
            case "PATCH", ["model_versions", one]:
                return self._change(self.versions, one, content)
            case "GET", ["model_versions", parent, "artifacts"] if parent in self.versions:
                return self._page(_below(self.artifacts, parent), asked)
            case "POST", ["model_versions", parent, "artifacts"] if parent in self.versions:
                if content.get("id"):
                    return self._change(self.artifacts, content["id"], content)
                return self._make(self.artifacts, parent, content)
        return 404, {"code": "404", "message": f"no {method} {'/'.join(path)}"}

    def _make(self, resources: dict[str, dict[str, Any]], parent: str, content: dict[str, Any]) -> Answer:
        if not content.get("name"):
            return 422, {"code": "422", "message": "required field 'name' is zero value."}
        if any(one["name"] == content["name"] for one in _below(resources, parent).values()):
            return 409, {"code": "409", "message": f"{content['name']} already exists"}
        self._ids += 1
        now = str(int(time.time() * 1000))
        made = {"state": "LIVE", **content, "id": str(self._ids), "createTimeSinceEpoch": now, "parent": parent}
        resources[made["id"]] = made
        return 201, _shown(made)

    def _change(self, resources: dict[str, dict[str, Any]], one: str, content: dict[str, Any]) -> Answer:
        if one not in resources:
            return 404, {"code": "404", "message": f"no resource {one}"}
        resources[one] |= {name: value for name, value in content.items() if value is not None and name != "name"}
        return 200, _shown(resources[one])

    def _page(self, resources: dict[str, dict[str, Any]], asked: dict[str, str]) -> Answer:
        start = int(base64.b64decode(asked.get("nextPageToken", "")) or 0)
        end = start + min(self.page, int(asked.get("pageSize", 10)))
        items = [_shown(one) for one in resources.values()]
        token = base64.b64encode(str(end).encode()).decode() if end < len(items) else ""
        shown = items[start:end]
        return 200, {"items": shown, "pageSize": len(shown), "size": len(shown), "nextPageToken": token}

    def handler(self) -> type[BaseHTTPRequestHandler]:
        registry = self

        class Handler(QuietHandler):
            def serve(self) -> None:
                status, content = registry.answer(
                    self.command, self.path, self.headers.get("Authorization"), self.body()
                )
                data = json.dumps(content).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

        return Handler


class Proxy:
    """Passes requests on. loses(n) says whether the answer to the n-th write is lost, after it was carried out.

    With `wants`, requests without that Authorization header are refused, as by what stands before a server.
    """

    def __init__(self, upstream: str) -> None:
        self.upstream = upstream
        self.loses: Callable[[int], bool] = lambda number: False
        self.down = False
        self.wants = ""
        self.address = ""
        self.count = 0
        self._lock = threading.Lock()

    def reset(self, loses: Callable[[int], bool]) -> None:
        """Counts writes from 0 again."""
        self.count, self.loses = 0, loses

    def handler(self) -> type[BaseHTTPRequestHandler]:
        proxy = self

        class Handler(QuietHandler):
            def serve(self) -> None:
                body = self.body()
                writes = self.command != "GET"
                with proxy._lock:
                    number = proxy.count
                    proxy.count += writes
                self.close_connection = True
                if proxy.down:
                    return
                if proxy.wants not in ("", self.headers.get("Authorization")):
                    self.send_response(401)
                    self.send_header("Content-Length", "0")
                    self.send_header("Connection", "close")
                    self.end_headers()
                    return
                connection = http.client.HTTPConnection(proxy.upstream, timeout=30)
                headers = {name: value for name, value in self.headers.items() if name.lower() != "connection"}
                connection.request(self.command, self.path, body, headers)
                answer = connection.getresponse()
                data = answer.read()
                connection.close()
                if writes and proxy.loses(number):
                    return
                self.send_response(answer.status)
                for name, value in answer.getheaders():
                    if name.lower() in ("content-type", "location"):
                        self.send_header(name, value)
                self.send_header("Content-Length", str(len(data)))
                self.send_header("Connection", "close")
                self.end_headers()
                self.wfile.write(data)

        return Handler


def _below(resources: dict[str, dict[str, Any]], parent: str) -> dict[str, dict[str, Any]]:
    return {key: one for key, one in resources.items() if one["parent"] == parent}


def _shown(resource: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in resource.items() if name != "parent"}
