"""Where datasets and models come from: local paths and a real fsspec store; the hub is never reached here."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFile, MemoryFileSystem

from components.errors import DataError, ModelError, ParameterError, PipelineError, StorageError
from components.records import path_digest
from components.sources import Kind, Pinned, check_local, fetch, fetch_files, pin, where
from tests.http_fakes import QuietHandler, serving


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """fsspec's store in memory, and an empty cache to fetch into."""
    monkeypatch.setenv("PRIVATE_LLM_CACHE", str(tmp_path / "cache"))
    memory = fsspec.filesystem("memory")
    yield memory
    memory.store.clear()
    memory.pseudo_dirs[:] = [""]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A folder that passes for a model."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}", encoding="utf-8")
    (folder / "model.safetensors").write_bytes(b"weights")
    return folder


@pytest.mark.parametrize(
    ("uri", "place"),
    [
        ("/data/rows.jsonl", "local"),
        ("./rows.jsonl", "local"),
        ("~/rows.jsonl", "local"),
        ("rows.CSV", "local"),
        ("data/rows.parquet", "local"),
        ("file:///data/rows.jsonl", "local"),
        ("s3://bucket/rows.jsonl", "remote"),
        ("memory://bucket/model", "remote"),
        ("org/name", "hub"),
        ("org/name@main", "hub"),
        ("org/na.me_1@refs/pr/1", "hub"),
        ("not an id", "local"),
        ("a/b/c", "local"),
    ],
)
def test_where_tells_by_the_form(uri: str, place: str) -> None:
    assert where(uri) == place


def test_a_folder_that_is_there_wins_over_a_hub_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "org" / "name").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert where("org/name") == "local"


@pytest.mark.parametrize(
    ("uri", "kind", "named"),
    [
        ("/nowhere/rows.jsonl", "dataset", ["dataset", "/nowhere/rows.jsonl", "does not exist", "s3://"]),
        ("/nowhere/model", "model", ["base_model", "/nowhere/model", "does not exist", "org/name"]),
        ("{folder}/empty", "model", ["base_model", "/empty", "config.json"]),
        ("{folder}/rows.txt", "model", ["base_model", "/rows.txt", "config.json"]),
        ("{folder}/empty", "dataset", ["dataset", "/empty", "no data files"]),
        ("{folder}/*.csv", "dataset", ["dataset", "/*.csv", "no file matches"]),
        ("file://{folder}/missing.csv", "dataset", ["dataset", "/missing.csv", "does not exist"]),
    ],
)
def test_a_local_source_that_cannot_be_used(tmp_path: Path, uri: str, kind: Kind, named: list[str]) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "rows.txt").write_text("{}", encoding="utf-8")
    place = uri.format(folder=tmp_path)
    for use in (check_local, pin):
        with pytest.raises(DataError if kind == "dataset" else ModelError) as caught:
            use(place, kind)
        _assert_one_line(caught.value, *named)
    with pytest.raises(PipelineError):
        fetch(Pinned(uri=place, digest=""), kind)


def test_check_local_leaves_other_places_alone() -> None:
    check_local("s3://bucket/missing", "model")
    check_local("org/name", "dataset")


def test_a_local_file_is_pinned_by_its_bytes(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("{}\n", encoding="utf-8")
    pinned = pin(str(path), "dataset")
    assert pinned == Pinned(uri=str(path), digest=path_digest(path)) == pin(f"file://{path}", "dataset")
    assert fetch(pinned, "dataset") == path
    path.write_text("[]\n", encoding="utf-8")
    assert pin(str(path), "dataset").digest != pinned.digest


def test_a_relative_path_is_pinned_as_an_absolute_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "rows.jsonl").write_text("{}\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    assert pin("rows.jsonl", "dataset").uri == str(tmp_path / "rows.jsonl")


def test_a_file_uri_may_be_percent_encoded(tmp_path: Path) -> None:
    path = tmp_path / "my rows.jsonl"
    path.write_text("{}\n", encoding="utf-8")
    assert pin(path.as_uri(), "dataset").uri == str(path)


def test_a_local_model_is_pinned_by_all_its_files(model: Path) -> None:
    pinned = pin(str(model), "model")
    assert fetch(pinned, "model") == model
    (model / "model.safetensors").write_bytes(b"other weights")
    assert pin(str(model), "model").digest != pinned.digest


def test_a_remote_file_is_copied_once(store: Any, tmp_path: Path) -> None:
    store.pipe("/bucket/rows.jsonl", b'{"instruction": "hello"}\n')
    pinned = pin("memory://bucket/rows.jsonl", "dataset")
    assert pinned == pin("memory://bucket/rows.jsonl", "dataset")
    path = fetch(pinned, "dataset")
    assert path.name == "rows.jsonl"
    assert path.read_bytes() == b'{"instruction": "hello"}\n'
    assert fetch(pinned, "dataset") == path
    assert [copy.name for copy in (tmp_path / "cache").rglob("*") if copy.is_file()] == ["rows.jsonl"]


@pytest.mark.parametrize("uri", ["memory://models/base", "memory://models/base/"])
def test_a_remote_folder_is_copied_whole(store: Any, uri: str) -> None:
    store.pipe(
        {"/models/base/config.json": b"{}", "/models/base/inner/weights": b"1", "/models/base2/config.json": b""}
    )
    folder = fetch(pin(uri, "model"), "model")
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert files == {"config.json", "inner/weights"}
    assert (folder / "inner" / "weights").read_bytes() == b"1"


@pytest.mark.parametrize("uri", ["memory://bucket/data", "memory://bucket/data/", "memory://bucket/data/**"])
def test_what_marks_a_folder_in_a_store_is_no_file(store: Any, uri: str) -> None:
    """An object without bytes, as a console or a sync tool makes one for each folder."""
    store.pipe({"/bucket/data/a.jsonl": b"{}", "/bucket/data/sub/b.jsonl": b"{}"})
    pinned = pin(uri, "dataset")
    for place in ("/bucket/data/", "/bucket/data/sub/", "/bucket/data/empty/"):
        store.store[place] = MemoryFile(store, place, b"")
    assert pin(uri, "dataset") == pinned
    assert list(fetch_files(pinned)) == ["a.jsonl", "sub/b.jsonl"]


class HaltingStore(MemoryFileSystem):  # type: ignore[misc]  # fsspec has no types
    """A store whose second reader of the weights has half of them when the first one hears that it has all."""

    protocol = "halting"
    readers: ClassVar[list[str]] = []
    halfway, go_on = threading.Event(), threading.Event()

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        return super()._strip_protocol(str(path).removeprefix("halting://"))

    def get_file(self, rpath: str, lpath: str, **_: Any) -> None:
        content = self.cat_file(rpath)
        if not rpath.endswith("weights"):
            Path(lpath).write_bytes(content)
            return
        self.readers.append(lpath)
        if len(self.readers) == 1:
            Path(lpath).write_bytes(content)
            self.halfway.wait(10)
            return
        with Path(lpath).open("wb", buffering=0) as file:
            file.write(content[:1])
            self.halfway.set()
            self.go_on.wait(10)
            file.write(content[1:])


def test_two_pods_that_share_a_cache_do_not_write_into_each_others_copy(store: Any) -> None:
    """They have the same process id; here they are two threads."""
    fsspec.register_implementation("halting", HaltingStore, clobber=True)
    store.pipe({"/models/base/config.json": b"{}", "/models/base/weights": b"weights"})
    pinned = pin("halting://models/base", "model")
    with ThreadPoolExecutor(2) as pods:
        first = pods.submit(fetch, pinned, "model")
        while not HaltingStore.readers:
            time.sleep(0.01)
        second = pods.submit(fetch, pinned, "model")
        whole = (first.result() / "weights").read_bytes()
        HaltingStore.go_on.set()
        assert (whole, second.result()) == (b"weights", first.result())
    assert [path.name for path in first.result().parent.iterdir() if ".partial-" not in path.name]


def test_a_remote_source_that_changed_after_it_was_pinned_is_refused(store: Any) -> None:
    store.pipe("/bucket/rows.jsonl", b"one")
    pinned = pin("memory://bucket/rows.jsonl", "dataset")
    fetch(pinned, "dataset")
    store.pipe("/bucket/rows.jsonl", b"two")
    assert pin("memory://bucket/rows.jsonl", "dataset").digest != pinned.digest
    with pytest.raises(DataError) as caught:
        fetch(pinned, "dataset")
    _assert_one_line(caught.value, "memory://bucket/rows.jsonl", "changed")


@pytest.mark.parametrize(
    ("uri", "kind", "named"),
    [
        ("memory://bucket/missing.jsonl", "dataset", ["dataset", "memory://bucket/missing.jsonl"]),
        ("memory://bucket/missing", "model", ["base_model", "memory://bucket/missing"]),
        ("nostore://bucket/rows.jsonl", "dataset", ["dataset", "nostore://bucket/rows.jsonl"]),
        ("org/name@main", "model", ["base_model", "org/name", "hub"]),
        ("org/name", "dataset", ["dataset", "org/name", "hub"]),
    ],
)
@pytest.mark.usefixtures("store")
def test_a_source_elsewhere_that_cannot_be_read(uri: str, kind: Kind, named: list[str]) -> None:
    with pytest.raises(DataError if kind == "dataset" else ModelError) as caught:
        pin(uri, kind)
    _assert_one_line(caught.value, *named)


class _Page(BaseHTTPRequestHandler):
    """Serves one file that holds a link, without a word on when it changed."""

    content = b""
    asked: ClassVar[set[str]] = set()

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        self.asked.add(self.path)
        self.send_response(200 if self.path == "/rows.jsonl" else 404)
        self.send_header("Content-Length", str(len(self.content)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(self.content)

    def log_message(self, format: str, *args: Any) -> None:
        """Prints nothing."""


def test_a_file_on_a_web_server_is_pinned_by_its_bytes_and_its_links_are_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PRIVATE_LLM_CACHE", str(tmp_path / "cache"))
    with ThreadingHTTPServer(("127.0.0.1", 0), _Page) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        uri = f"http://127.0.0.1:{server.server_port}/rows.jsonl"
        _Page.content = f'{{"text": "<a href={uri}/more.jsonl>"}}'.encode()
        pinned = pin(uri, "dataset")
        (path,) = fetch_files(pinned).values()
        assert (path.name, path.read_bytes()) == ("rows.jsonl", _Page.content)
        _Page.content = _Page.content.replace(b"more", b"less")
        assert pin(uri, "dataset").digest != pinned.digest
        with pytest.raises(DataError, match="changed after it was resolved"):
            fetch_files(pinned)
        with pytest.raises(DataError, match="cannot list"):
            pin(f"{uri}.gone", "dataset")
        server.shutdown()
    assert _Page.asked == {"/rows.jsonl", "/rows.jsonl.gone"}


class _Store(QuietHandler):
    """Serves one text under every path, with headers, and as much of it as it is told."""

    content = b"rows"
    headers_sent: ClassVar[dict[str, str]] = {}
    sent = 4
    status = 200

    def serve(self) -> None:
        self.close_connection = True
        self.send_response(self.status)
        for name, value in {"Content-Length": "4", "Connection": "close", **self.headers_sent}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(self.content[: self.sent])

    do_HEAD = QuietHandler.do_GET


@pytest.fixture
def web(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("PRIVATE_LLM_CACHE", str(tmp_path / "cache"))
    for name, value in {"headers_sent": {"ETag": '"1"'}, "sent": 4, "status": 200}.items():
        monkeypatch.setattr(_Store, name, value)
    with serving(_Store) as place:
        yield f"http://{place}"


def test_the_same_bytes_stored_again_are_the_same(web: str, monkeypatch: pytest.MonkeyPatch) -> None:
    digests = []
    for headers in ({"ETag": '"1"', "Last-Modified": "Mon"}, {"ETag": '"1"', "Last-Modified": "Tue"}, {"ETag": '"2"'}):
        monkeypatch.setattr(_Store, "headers_sent", headers)
        digests.append(pin(f"{web}/rows.jsonl", "dataset").digest)
    assert digests[0] == digests[1] != digests[2]


def test_what_stands_behind_a_question_mark_is_no_part_of_a_name(web: str) -> None:
    assert list(fetch_files(pin(f"{web}/a/faq.md?raw=true", "dataset"))) == ["faq.md"]
    with pytest.raises(ParameterError, match="dataset holds a signature, which is a credential") as caught:
        pin(f"{web}/faq.md?X-Amz-Signature=hunter2", "dataset")
    assert "hunter2" not in str(caught.value)


def test_a_download_that_breaks_is_one_line_and_leaves_nothing_half(web: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pinned = pin(f"{web}/rows.jsonl", "dataset")
    monkeypatch.setattr(_Store, "sent", 2)
    with pytest.raises(StorageError, match=r"cannot fetch rows\.jsonl of http\S+: .*[Pp]ayload") as caught:
        fetch_files(pinned)
    _assert_one_line(caught.value)
    monkeypatch.setattr(_Store, "sent", 4)
    (path,) = fetch_files(pinned).values()
    assert path.read_bytes() == b"rows"


def test_a_server_that_fails_says_why(web: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_Store, "status", 500)
    with pytest.raises(DataError, match=r"cannot list http\S+: 500") as caught:
        pin(f"{web}/rows.jsonl", "dataset")
    _assert_one_line(caught.value)


def _assert_one_line(error: PipelineError, *named: str) -> None:
    message = str(error)
    assert "\n" not in message
    assert [name for name in named if name not in message] == []


COMMIT = "1" * 40


class _Hub(QuietHandler):
    """The few answers of a Hugging Face hub that a download asks for: what a model holds, and each file."""

    files: ClassVar[dict[str, bytes]] = {
        **dict.fromkeys(("config.json", "model-00001-of-00001.safetensors", "tokenizer.json"), b"{}"),
        **dict.fromkeys(("consolidated.safetensors", "original/model.safetensors", "README.md"), b"the same again"),
    }
    missing = ""

    def serve(self) -> None:
        name = self.path.partition(f"/resolve/{COMMIT}/")[2]
        if "/tree/" in self.path:
            listed = [{"type": "file", "path": file, "size": len(self.files[file]), "oid": file} for file in self.files]
            self._answer(json.dumps(listed).encode())
        elif not name:
            listed = [{"rfilename": file} for file in self.files]
            self._answer(json.dumps({"id": "org/model", "sha": COMMIT, "siblings": listed}).encode())
        elif name == self.missing:
            self._answer(b"", 404, {"X-Error-Code": "EntryNotFound"})
        else:
            self._answer(self.files[name], headers={"ETag": f'"{name}"', "X-Repo-Commit": COMMIT})

    do_HEAD = QuietHandler.do_GET

    def _answer(self, content: bytes, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for header, value in {"Content-Length": str(len(content)), **(headers or {})}.items():
            self.send_header(header, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


def _from_hub(place: str, home: Path) -> subprocess.CompletedProcess[str]:
    """Fetches a model from a hub, in a process of its own: the address is read when the client is imported."""
    script = (
        "from components.models import MODEL_FILES; from components.sources import Pinned, fetch; "
        f"print(fetch(Pinned(uri='org/model@{COMMIT}', digest='x'), 'model', MODEL_FILES))"
    )
    environment = os.environ | {"HF_ENDPOINT": f"http://{place}", "HF_HOME": str(home), "HF_HUB_OFFLINE": "0"}
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, env=environment)


def test_of_a_hub_model_only_what_is_read_is_fetched(tmp_path: Path) -> None:
    """Mistral's models hold their weights a second time, in one file for Mistral's own program."""
    with serving(_Hub) as place:
        fetched = _from_hub(place, tmp_path)
    assert fetched.returncode == 0, fetched.stderr
    [folder] = fetched.stdout.splitlines()
    names = {path.relative_to(folder).as_posix() for path in Path(folder).rglob("*") if path.is_file()}
    assert names == {"config.json", "model-00001-of-00001.safetensors", "tokenizer.json"}


def test_a_hub_that_loses_a_file_is_told_in_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_Hub, "missing", "tokenizer.json")
    with serving(_Hub) as place:
        fetched = _from_hub(place, tmp_path)
    last = fetched.stderr.splitlines()[-1]
    assert last.startswith(f"components.errors.StorageError: cannot fetch org/model@{COMMIT} from the hub: "), last
