"""A KFP server of its own for each test, and time that passes only when somebody waits."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from pipeline.endpoint import Endpoint
from pipeline.kfp_api import Api, Clock
from pipeline.submit import main as submit
from tests.kfp_server.server import Server


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server, and an environment that names it and nothing else of KFP's."""
    for name in (
        "KFP_TOKEN",
        "KFP_TOKEN_FILE",
        "KFP_COOKIE",
        "KFP_COOKIE_FILE",
        "KFP_NAMESPACE",
        "KFP_CA_FILE",
        "http_proxy",
        "HTTP_PROXY",
    ):
        monkeypatch.delenv(name, raising=False)
    made = Server()
    monkeypatch.setenv("KF_PIPELINES_ENDPOINT", made.url)
    yield made
    made.close()
    assert made.state.mistakes == []


@dataclass
class Time:
    """A clock that jumps ahead when it is slept on."""

    at: datetime = datetime(2026, 12, 1, 12, tzinfo=UTC)
    slept: list[float] = field(default_factory=list)
    passing: Callable[[datetime], None] = lambda _: None

    def now(self) -> datetime:
        return self.at

    def monotonic(self) -> float:
        return self.at.timestamp()

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.go(self.at + timedelta(seconds=seconds))

    def go(self, to: datetime, step: int = 15) -> None:
        """On to a time, in steps, each of which is told."""
        while self.at < to:
            self.at = min(self.at + timedelta(seconds=step), to)
            self.passing(self.at)


@pytest.fixture
def time(server: Server) -> Time:
    """The time of the server, and of who asks it through `api`."""
    made = Time()
    server.now = made.now
    return made


@pytest.fixture
def api(server: Server, time: Time) -> Api:
    """The server as the commands ask it."""
    return Api(
        Endpoint(host=server.url), timeout=2, clock=Clock(now=time.now, sleep=time.sleep, monotonic=time.monotonic)
    )


@pytest.fixture
def uploaded(server: Server) -> Server:
    """A server that has the pipeline."""
    assert submit(["upload"]) == 0
    return server


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.write_text("first\n")
    return path
