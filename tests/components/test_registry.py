"""The registry, one contract for every place that may hold it: idempotent, complete, and one line when it is away."""

import base64
import contextlib
import itertools
import multiprocessing
import os
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import pytest

from components.cli import choose
from components.errors import ParameterError, RegistryError
from components.register.commands import COMMANDS
from components.registry import Entry, Registry, check_address, kubeflow_registry, open_registry
from tests.http_fakes import KubeflowServer, Proxy, serving

# Processes that start with the clients imported, so that they meet.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload([__name__, "mlflow", "mr_openapi", "aiohttp"])


@pytest.fixture(scope="module")
def mlflow_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real MLflow server that keeps the artifacts itself, as one on a cluster does."""
    folder = tmp_path_factory.mktemp("mlflow")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{folder}/server.db", "--artifacts-destination", f"{folder}/kept"]
    quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, start_new_session=True, **quiet) as process:
        try:
            while not answers(port):
                with contextlib.suppress(subprocess.TimeoutExpired):
                    pytest.fail(f"the server ended with {process.wait(timeout=0.2)}")
            yield f"127.0.0.1:{port}"
        finally:
            os.killpg(process.pid, signal.SIGKILL)


def answers(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1) as response:
            return bool(response.status == 200)
    except OSError:
        return False


@pytest.fixture
def kubeflow() -> KubeflowServer:
    return KubeflowServer(page=2)


@pytest.fixture(params=["sqlite", "mlflow", "kubeflow"])
def proxy(request: pytest.FixtureRequest, tmp_path: Path, kubeflow: KubeflowServer) -> Iterator[Proxy | None]:
    """What stands between client and server; none before an embedded registry."""
    if request.param == "sqlite":
        yield None
    elif request.param == "mlflow":
        upstream = Proxy(request.getfixturevalue("mlflow_server"))
        with serving(upstream.handler()) as place:
            upstream.address = f"http://{place}"
            yield upstream
    else:
        with serving(kubeflow.handler()) as server:
            upstream = Proxy(server)
            with serving(upstream.handler()) as place:
                upstream.address = f"kubeflow://{place}?artifacts=file://{tmp_path}/kept"
                yield upstream


@pytest.fixture(scope="module")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MLflow's tables, which take it seconds to make."""
    path = tmp_path_factory.mktemp("empty") / "mlflow.db"
    assert open_registry(f"sqlite:///{path}", "m").versions() == []
    return path


@pytest.fixture
def embedded(empty_database: Path, tmp_path: Path) -> str:
    """The address of a database of the test's own."""
    return f"sqlite:///{shutil.copy(empty_database, tmp_path / 'mlflow.db')}"


@pytest.fixture
def address(proxy: Proxy | None, embedded: str) -> str:
    return proxy.address if proxy else embedded


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """One attempt a request: what a lost answer leaves behind is to be seen."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setattr(kubeflow_registry, "RETRY_SECONDS", ())


@pytest.fixture
def store(address: str, request: pytest.FixtureRequest) -> Registry:
    """A registered model of the test's own."""
    return open_registry(address, f"m {request.node.name}"[:60])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "model"
    (path / "more").mkdir(parents=True)
    (path / "model.safetensors").write_bytes(b"weights")
    (path / "more" / "config.json").write_bytes(b"{}")
    return path


def entry(folder: Path, key: str = "k1", **tags: str) -> Entry:
    return Entry(
        key=key.ljust(32, "0"), folder=folder, configuration={"epochs": 2}, metrics={"tuned_loss": 3.0}, tags=tags
    )


def test_registering_twice_makes_one_version(store: Registry, folder: Path) -> None:
    first, created = store.register(entry(folder, a="b"))
    again, created_again = store.register(entry(folder, a="b"))
    assert (created, created_again) == (True, False)
    assert again == first
    assert (first.tags["a"], first.tags["tuned_loss"]) == ("b", "3")
    assert [version.number for version in store.versions()] == [first.number]


@pytest.mark.parametrize("proxy", ["sqlite", "kubeflow"], indirect=True)
def test_the_champion_is_the_version_that_was_registered_last(store: Registry, folder: Path) -> None:
    assert store.champion() is None
    assert store.versions() == []
    store.register(entry(folder))
    second, _ = store.register(entry(folder, "k2"))
    assert store.champion() == second
    assert [version.aliases for version in store.versions()] == [[], ["champion"]]
    place = store.download(second)
    assert (place / "model.safetensors").read_bytes() == b"weights"
    assert (place / "more" / "config.json").read_bytes() == b"{}"


def test_files_that_changed_are_refused_when_loaded_again(embedded: str, folder: Path) -> None:
    store = open_registry(embedded, "m")
    version, _ = store.register(entry(folder))
    (store.download(version) / "model.safetensors").write_bytes(b"other w")
    with pytest.raises(RegistryError, match="the files of version 1 are not those that were registered: sha256:"):
        store.download(version)


@pytest.mark.parametrize("proxy", ["sqlite", "kubeflow"], indirect=True)
def test_a_registry_that_was_emptied_is_another(
    address: str, empty_database: Path, folder: Path, store: Registry, tmp_path: Path
) -> None:
    """It counts from 1 again; its version 1 is not the old version 1."""
    assert store.identity() == open_registry(address, store.name).identity()
    old, _ = store.register(entry(folder))
    other = open_registry(f"sqlite:///{shutil.copy(empty_database, tmp_path / 'other.db')}", store.name)
    other.register(entry(folder, "k2"))
    with pytest.raises(RegistryError, match="no longer the one that was resolved"):
        other.version(old.reference)


@pytest.mark.parametrize("proxy", ["sqlite", "kubeflow"], indirect=True)
def test_only_what_was_compared_with_the_champion_replaces_it(store: Registry, folder: Path) -> None:
    first, _ = store.register(entry(folder, compared_with=""))
    second, _ = store.register(entry(folder, "k2", compared_with=first.reference))
    third, _ = store.register(entry(folder, "k3", compared_with=first.reference))
    assert store.champion() == second
    assert third.aliases == []
    store.promote(first, "by hand")
    again, created = store.register(entry(folder, "k3", compared_with=first.reference))
    assert (created, again.aliases) == (False, ["champion"]), "begun before and not promoted: now it may be"


@pytest.mark.parametrize("proxy", ["sqlite", "kubeflow"], indirect=True)
def test_a_champion_moves_with_a_reason_and_back(store: Registry, folder: Path) -> None:
    one, two, three = (store.register(entry(folder, key, run_digest=key))[0] for key in ("k1", "k2", "k3"))
    assert store.previous_champion() == store.numbered(two.number)
    store.promote(two, "answers in French")
    assert store.previous_champion().number == one.number, "and not the third, which it replaced"
    store.promote(one, "still does")
    assert [move.to for move in store.moves()] == [x.number for x in (one, two, three, two, one)]
    assert store.moves()[-1].reason == "still does"
    champion = store.champion()
    assert champion is not None
    assert champion.number == one.number
    with pytest.raises(ParameterError, match="is the champion already"):
        store.promote(one, "again")
    with pytest.raises(ParameterError, match="has no champion before it"):
        store.previous_champion()
    with pytest.raises(ParameterError, match="reason must be a text of 1 to 500 characters"):
        store.promote(two, " ")
    again, created = store.register(entry(folder, "k3", run_digest="k3"))
    assert (created, again.aliases) == (False, []), "what somebody moved stays where it was moved"
    assert store.of_run("k3") == again
    assert store.of_run("k4") is None


def test_notes_are_kept_beside_the_versions_and_disturb_none(store: Registry, folder: Path) -> None:
    """Also before there is a version; a note that is written again or removed leaves the others."""
    assert store.notes() == {}
    assert store.note("rejected.r1") is None
    store.write_note("rejected.r1", {"compared_with": "", "reasons": ["worse, by 3 %"]})
    store.write_note("run.1", {"run_digest": "r1"})
    version, _ = store.register(entry(folder))
    store.write_note("run.1", {"run_digest": "r2"})
    assert store.note("run.1") == {"run_digest": "r2"}
    store.write_note("run.1", None)
    store.write_note("run.2", None)
    assert open_registry(store.address, store.name).notes().keys() == {"rejected.r1"}
    assert store.note("rejected.r1") == {"compared_with": "", "reasons": ["worse, by 3 %"]}
    assert store.champion() == version
    assert [one.number for one in store.versions()] == [version.number]


def test_kubeflow_hides_the_notes_from_the_list_of_models(
    kubeflow: KubeflowServer, folder: Path, tmp_path: Path
) -> None:
    with serving(kubeflow.handler()) as place:
        store = open_registry(f"kubeflow://{place}?artifacts={tmp_path}/kept", "m")
        store.register(entry(folder))
        store.write_note("run.1", {})
    assert {one["name"]: one["state"] for one in kubeflow.models.values()} == {"m": "LIVE", "m.notes": "ARCHIVED"}


def test_what_a_server_keeps_is_fetched_once(
    mlflow_server: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the digest of its content: a step that trains on from a version need not fetch what another step did."""
    monkeypatch.setenv("PRIVATE_LLM_CACHE", str(tmp_path / "cache"))
    store = open_registry(f"http://{mlflow_server}", "fetched once")
    version, _ = store.register(entry(folder))
    place = store.download(version)
    assert place.parent == tmp_path / "cache" / "registry"
    before = (place / "model.safetensors").stat().st_ino
    assert store.download(version) == place
    assert (place / "model.safetensors").stat().st_ino == before
    assert [path.name for path in place.parent.iterdir()] == [place.name]


def test_verify_reads_what_the_registry_holds_now(
    kubeflow: KubeflowServer,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """And not what was fetched before."""
    monkeypatch.setenv("PRIVATE_LLM_CACHE", str(tmp_path / "cache"))
    with serving(kubeflow.handler()) as place:
        address = f"kubeflow://{place}?artifacts=memory://verified"
        store = open_registry(address, "m")
        version, _ = store.register(entry(folder))
        words = ["verify", f"--registry={address}", "--model_name=m"]
        kept = store.download(version)
        assert choose(COMMANDS, prog="register", argv=words) == 0
        fsspec.filesystem("memory").pipe_file(f"{version.source}/model.safetensors", b"another")
        assert choose(COMMANDS, prog="register", argv=words) == 1
        refused = f"the files of version {version.number} are not those that were registered"
        assert refused in capsys.readouterr().err
        assert store.download(version) == kept, "what is loaded from the cache is what was registered"
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["registry"]


def test_a_metric_of_any_name_is_registered(store: Registry, folder: Path) -> None:
    """Such as lm-evaluation-harness's own filter maj@64; MLflow takes few characters."""
    named = replace(entry(folder), metrics={"tuned_gsm8k_exact_match_maj@64": 0.25})
    version, _ = store.register(named)
    assert {"0.25"} == {value for name, value in version.tags.items() if name.startswith("tuned_gsm8k_exact_match_maj")}


def register_elsewhere(address: str, name: str, folder: Path, numbers: Any) -> None:
    version, _ = open_registry(address, name).register(entry(folder))
    numbers.put(version.number)


def test_registrations_at_one_moment_make_one_version(address: str, folder: Path, store: Registry) -> None:
    numbers = PROCESSES.Queue()
    arguments = (address, store.name, folder, numbers)
    running = [PROCESSES.Process(target=register_elsewhere, args=arguments) for _ in range(4)]
    for process in running:
        process.start()
    for process in running:
        process.join(120)
    assert [process.exitcode for process in running] == [0, 0, 0, 0]
    (version,) = store.versions()
    assert {numbers.get(timeout=10) for _ in running} == {version.number}
    assert version.aliases == ["champion"]
    assert store.download(version)


@pytest.mark.parametrize("proxy", ["mlflow", "kubeflow"], indirect=True)
def test_whatever_answer_is_lost_the_next_try_makes_it_whole(
    proxy: Proxy, address: str, folder: Path, kubeflow: KubeflowServer
) -> None:
    """Each write in turn is carried out and its answer lost: it fails, shows nothing half-made, and is mended."""
    kubeflow.page = 100
    for lost in itertools.count():
        store = open_registry(address, f"lost {lost}")
        proxy.reset(lambda number, lost=lost: number == lost)  # type: ignore[misc]
        with contextlib.suppress(RegistryError):
            store.register(entry(folder))
        if proxy.count <= lost:  # there was no such write
            break
        proxy.reset(lambda number: False)
        for version in store.versions():
            assert store.download(version), "what can be seen is whole"
        version, _ = store.register(entry(folder))
        assert [one.number for one in store.versions()] == [version.number]
        assert version.aliases == ["champion"]
        assert [move.to for move in store.moves()] == [version.number]
        assert store.download(version)
    assert lost >= 5


@pytest.mark.parametrize("proxy", ["mlflow", "kubeflow"], indirect=True)
def test_a_server_that_is_away_for_a_moment_is_asked_again(
    proxy: Proxy, address: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also requests that were carried out are sent again then, and still make one version."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "0")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_BACKOFF_JITTER", "0")
    monkeypatch.setattr(kubeflow_registry, "RETRY_SECONDS", (0.01, 0.01))
    store = open_registry(address, "flaky")
    proxy.reset(lambda number: number % 2 == 0)
    store.register(entry(folder))
    proxy.reset(lambda number: False)
    (version,) = store.versions()
    assert version.aliases == ["champion"]
    assert store.download(version)


@pytest.mark.parametrize("proxy", ["mlflow", "kubeflow"], indirect=True)
def test_a_server_that_stays_away_is_one_line(proxy: Proxy, address: str) -> None:
    proxy.down = True
    with pytest.raises(RegistryError, match=r"^registry \S+: cannot open the ") as error:
        open_registry(address, "m").identity()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("proxy", ["mlflow"], indirect=True)
@pytest.mark.parametrize(
    ("wants", "variables"),
    [
        (
            "Basic " + base64.b64encode(b"me:hunter2").decode(),
            {"MLFLOW_TRACKING_USERNAME": "me", "MLFLOW_TRACKING_PASSWORD": "hunter2"},
        ),
        ("Bearer hunter2", {"MLFLOW_TRACKING_TOKEN": "hunter2"}),
    ],
    ids=["password", "token"],
)
def test_an_mlflow_server_that_asks_who_is_there(
    proxy: Proxy, store: Registry, folder: Path, wants: str, variables: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy.wants = wants
    with pytest.raises(RegistryError, match="401") as error:
        store.register(entry(folder))
    assert "\n" not in str(error.value)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    version, _ = store.register(entry(folder))
    assert store.download(version)
    proxy.wants = "Bearer another"
    with pytest.raises(RegistryError, match="401") as error:
        store.versions()
    assert "hunter2" not in str(error.value)


def test_kubeflow_shows_a_version_when_it_is_whole(kubeflow: KubeflowServer, folder: Path, tmp_path: Path) -> None:
    """As its own UI shows it: live, with a model artifact that points to the files."""
    with serving(kubeflow.handler()) as place:
        store = open_registry(f"kubeflow://{place}?artifacts={tmp_path}/kept", "m")
        version, _ = store.register(entry(folder))
    (made,) = kubeflow.versions.values()
    (artifact,) = kubeflow.artifacts.values()
    assert (made["id"], made["state"]) == (version.number, "LIVE")
    assert artifact["uri"] == version.source
    assert Path(artifact["uri"], "model.safetensors").read_bytes() == b"weights"
    assert made["customProperties"]["config.epochs"]["string_value"] == "2"
    assert made["customProperties"]["tuned_loss"]["double_value"] == 3.0


@pytest.mark.parametrize("place", ["variable", "file"])
def test_kubeflow_gets_its_token_from_the_environment(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(KubeflowServer(token="abc").handler()) as server:
        store = open_registry(f"kubeflow://{server}?artifacts={tmp_path}", "m")
        with pytest.raises(RegistryError, match="cannot list the versions: 401 Unauthorized"):
            store.versions()
        (tmp_path / "token").write_text("abc\n")
        if place == "variable":
            monkeypatch.setenv("MODEL_REGISTRY_TOKEN", "abc")
        else:
            monkeypatch.setenv("KF_PIPELINES_SA_TOKEN_PATH", str(tmp_path / "token"))
        assert store.versions() == []


@pytest.mark.parametrize("address", ["mlflow.db", "postgresql://host/db", ""])
def test_an_address_of_another_kind_is_refused(address: str) -> None:
    with pytest.raises(ParameterError, match=r"is not an address; allowed: sqlite:///FILE, http\(s\)://HOST"):
        check_address(address)


def test_kubeflow_without_a_place_for_files_is_refused() -> None:
    with pytest.raises(ParameterError, match=r"does not say where files are kept.*add \?artifacts=URI"):
        check_address("kubeflow://registry:8080")


@pytest.mark.parametrize("scheme", ["https", "kubeflow+https"])
def test_an_address_with_a_password_is_refused_without_repeating_it(scheme: str) -> None:
    with pytest.raises(ParameterError, match="MLFLOW_TRACKING_PASSWORD") as error:
        check_address(f"{scheme}://me:hunter2@mlflow.example.org?artifacts=s3://b")
    assert "hunter2" not in str(error.value)
