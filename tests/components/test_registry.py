"""The registry on MLflow's embedded store: idempotent, complete, one line when it cannot be reached."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from components.errors import ParameterError, RegistryError
from components.registry import Registry, check_address


@pytest.fixture
def address(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'store' / 'mlflow.db'}"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "model"
    path.mkdir()
    (path / "model.safetensors").write_bytes(b"weights")
    return path


def test_registering_twice_makes_one_version(address: str, folder: Path) -> None:
    arguments = {
        "key": "k1",
        "folders": [folder],
        "params": {"epochs": 2},
        "metrics": {"perplexity": 3.0},
        "tags": {"a": "b"},
    }
    first, created = Registry(address, "m").register(**arguments)  # type: ignore[arg-type]
    again, created_again = Registry(address, "m").register(**arguments)  # type: ignore[arg-type]
    assert (created, created_again) == (True, False)
    assert again == first
    assert first.number == "1"
    assert first.tags["a"] == "b"


def test_the_champion_is_the_version_that_was_registered_last(address: str, folder: Path) -> None:
    store = Registry(address, "m")
    assert store.champion() is None
    store.register(key="k1", folders=[folder], params={}, metrics={}, tags={})
    second, _ = store.register(key="k2", folders=[folder], params={}, metrics={}, tags={})
    champion = store.champion()
    assert champion == second
    assert (store.download(second) / "model.safetensors").read_bytes() == b"weights"


def test_a_reference_does_not_outlive_its_registry(address: str, folder: Path, tmp_path: Path) -> None:
    """An emptied registry counts from 1 again; its version 1 is not the old version 1."""
    old, _ = Registry(address, "m").register(key="k1", folders=[folder], params={}, metrics={}, tags={})
    store = Registry(f"sqlite:///{tmp_path / 'new.db'}", "m")
    store.register(key="k2", folders=[folder], params={}, metrics={}, tags={})
    with pytest.raises(RegistryError, match="no longer the one that was resolved"):
        store.version(old.reference)


def test_two_registries_have_two_identities(address: str, tmp_path: Path) -> None:
    store = Registry(address, "m")
    assert store.identity() == store.identity()
    assert store.identity() != Registry(f"sqlite:///{tmp_path / 'other.db'}", "m").identity()


def test_an_unfinished_registration_is_completed(address: str, folder: Path) -> None:
    """The run was made and then the process died: the next call uploads into it and makes the version."""
    store = Registry(address, "m")
    experiment = store.identity().partition("@")[0]
    store._client.create_run(experiment, tags={"key": "k1"})
    version, created = store.register(key="k1", folders=[folder], params={}, metrics={}, tags={})
    assert created
    assert len(store._client.search_runs([experiment])) == 1
    assert (store.download(version) / "model.safetensors").exists()


@pytest.mark.parametrize("address", ["mlflow.db", "postgresql://host/db", ""])
def test_an_address_of_another_kind_is_refused(address: str) -> None:
    with pytest.raises(ParameterError, match=r"is not an address; allowed: sqlite:///…, http://…, https://…"):
        check_address(address)


def test_an_address_with_a_password_is_refused_without_repeating_it() -> None:
    with pytest.raises(ParameterError, match="MLFLOW_TRACKING_PASSWORD") as error:
        check_address("https://me:hunter2@mlflow.example.org")
    assert "hunter2" not in str(error.value)


def test_a_server_that_is_not_there_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(RegistryError, match=r"registry http://127\.0\.0\.1:9: cannot open the experiment") as error:
        Registry("http://127.0.0.1:9", "m").identity()
    assert "\n" not in str(error.value)


def test_an_alias_that_somebody_moved_stays_where_it_was_moved(address: str, folder: Path) -> None:
    store = Registry(address, "m")
    first, _ = store.register(key="k1", folders=[folder], params={}, metrics={}, tags={"run_digest": "r1"})
    second, _ = store.register(key="k2", folders=[folder], params={}, metrics={}, tags={"run_digest": "r2"})
    assert second.aliases == ["champion"]
    store._client.set_registered_model_alias("m", "champion", first.number)
    again, created = store.register(key="k2", folders=[folder], params={}, metrics={}, tags={"run_digest": "r2"})
    assert (created, again.aliases) == (False, [])
    champion = store.champion()
    assert champion is not None
    assert champion.number == first.number
    assert store.holds("r2")
    assert not store.holds("r3")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """A real MLflow server that keeps the artifacts itself, as one on a cluster does."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{tmp_path}/server.db", "--artifacts-destination", f"{tmp_path}/kept"]
    quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, start_new_session=True, **quiet) as process:
        try:
            while not answers(port):
                with contextlib.suppress(subprocess.TimeoutExpired):
                    pytest.fail(f"the server ended with {process.wait(timeout=0.2)}")
            yield f"http://127.0.0.1:{port}"
        finally:
            os.killpg(process.pid, signal.SIGKILL)


def answers(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1) as response:
            return bool(response.status == 200)
    except OSError:
        return False


def test_a_server_keeps_the_version_and_gives_it_back(server: str, folder: Path) -> None:
    store = Registry(server, "m")
    assert store.champion() is None
    version, created = store.register(key="k1", folders=[folder], params={"a": 1}, metrics={"b": 2.0}, tags={})
    again, created_again = store.register(key="k1", folders=[folder], params={"a": 1}, metrics={"b": 2.0}, tags={})
    assert (created, created_again, again) == (True, False, version)
    assert version.source.startswith("mlflow-artifacts:/")
    assert (store.download(version) / "model.safetensors").read_bytes() == b"weights"
