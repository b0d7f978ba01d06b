"""notify: how a run ended, told to a real HTTP server; whatever that server does, the run is not failed by it."""

import json
import socket
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from components.notify import webhook
from components.notify.notify import WEBHOOK, notify
from components.registry import Entry, Registry, open_registry
from components.run_notes import Begun, begin, reject, stop
from tests.http_fakes import QuietHandler, serving

PATH = "/services/T000/B000/SECRET"


class Receiver:
    """A webhook: answers what it is told to, in turn, and then 200; keeps what it was sent."""

    def __init__(self) -> None:
        self.answers: list[tuple[int, dict[str, str]]] = []
        self.seconds = 0.0  # that it takes to answer
        self.messages: list[dict[str, Any]] = []
        self.requests: list[tuple[str, str]] = []
        self.url = ""

    def handler(self) -> type[BaseHTTPRequestHandler]:
        receiver = self

        class Handler(QuietHandler):
            def serve(self) -> None:
                receiver.requests.append((self.command, self.path))
                body = self.body()
                time.sleep(receiver.seconds)
                status, headers = receiver.answers.pop(0) if receiver.answers else (200, {})
                if status == 200:
                    receiver.messages.append(json.loads(body))
                self.send_response(status)
                for name, value in {"Content-Length": "2", "Connection": "close", **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(b"ok")

        return Handler


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    found = Receiver()
    with serving(found.handler()) as place:
        found.url = f"http://{place}{PATH}"
        monkeypatch.setenv(WEBHOOK, found.url)
        yield found


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same attempts, closer together."""
    monkeypatch.setattr(webhook, "PAUSES", (0.01, 0.02))
    monkeypatch.setattr(webhook, "ATTEMPT_SECONDS", 0.3)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("no_proxy", "*")


@pytest.fixture
def store(empty_database: bytes, tmp_path: Path) -> Registry:
    (tmp_path / "mlflow.db").write_bytes(empty_database)
    return open_registry(f"sqlite:///{tmp_path / 'mlflow.db'}", "faq")


def begun(run_digest: str = "r1", **changes: Any) -> Begun:
    values = {"run_digest": run_digest, "dataset_digest": "sha256:d1", "unchanged": "", "skipped": False}
    return Begun(**{**values, **changes})


def registered(store: Registry, folder: Path, run_digest: str) -> None:
    model = folder / f"model-{run_digest}"
    model.mkdir()
    (model / "model.safetensors").write_bytes(b"weights")
    figures = {"tuned_bits_per_byte": 1.25, "base_bits_per_byte": 1.5}
    tags = {"run_digest": run_digest}
    store.register(Entry(key=run_digest * 8, folder=model, configuration={}, metrics=figures, tags=tags))


def told(store: Registry, state: str = "SUCCEEDED", **options: str) -> None:
    notify(state=state, run_id="run-1", registry=store.address, model_name="faq", **options)


def test_an_accepted_model_is_told_with_its_version_and_figures(
    receiver: Receiver, store: Registry, tmp_path: Path
) -> None:
    begin(store, "run-1", begun())
    registered(store, tmp_path, "r1")
    told(store, ui="https://kubeflow.example.org/pipeline/")
    assert receiver.messages == [
        {
            "text": "faq: accepted: version 1, champion; bits per byte: tuned 1.25, base 1.5 (run run-1) "
            "https://kubeflow.example.org/pipeline/#/runs/details/run-1"
        }
    ]
    assert receiver.requests == [("POST", PATH)]
    assert store.notes() == {}, "what the run left for this step is cleaned up"


def test_a_rejected_model_is_told_with_the_rules_that_it_broke(receiver: Receiver, store: Registry) -> None:
    begin(store, "run-1", begun())
    reject(store, "r1", "1:k", ["as good as the champion: no: 1.3 against 1.2"])
    told(store)
    told_text = "rejected by the gate: as good as the champion: no: 1.3 against 1.2 (run run-1)"
    assert receiver.messages == [{"text": f"faq: {told_text}"}]


def test_a_message_that_is_too_long_loses_reasons_and_not_the_run(receiver: Receiver, store: Registry) -> None:
    begin(store, "run-1", begun())
    reject(store, "r1", "1:k", [f"rule {number}: no: {'x' * 400}" for number in range(10)])
    told(store, ui="https://kubeflow.example.org")
    text = receiver.messages[0]["text"]
    assert len(text) == 3000
    assert text.endswith("x… (run run-1) https://kubeflow.example.org/#/runs/details/run-1")


def test_a_rejected_model_whose_run_fails_for_it_is_told_as_that(receiver: Receiver, store: Registry) -> None:
    begin(store, "run-1", begun())
    reject(store, "r1", "", ["worse"])
    told(store, "FAILED")
    assert receiver.messages == [{"text": "faq: rejected by the gate, and so failed: worse (run run-1)"}]


@pytest.mark.parametrize("verdict", ["accepted", "rejected"])
def test_a_run_that_had_nothing_to_do_says_so(
    receiver: Receiver, store: Registry, tmp_path: Path, verdict: str
) -> None:
    if verdict == "accepted":
        registered(store, tmp_path, "r1")
    else:
        reject(store, "r1", "", ["worse"])
    begin(store, "run-1", begun(unchanged=verdict, skipped=True))
    told(store)
    what = "version 1" if verdict == "accepted" else "a model that the gate rejected"
    text = f"faq: unchanged: the same data and configuration gave {what}; nothing was trained (run run-1)"
    assert receiver.messages == [{"text": text}]


def test_a_run_that_drift_stopped_says_by_which_rule(receiver: Receiver, store: Registry) -> None:
    begin(store, "run-1", begun())
    stop(store, "sha256:d1", ["the categories are as they were: no: category_psi 2.1, must be at most 0.25"])
    told(store, "FAILED")
    (message,) = receiver.messages
    assert message["text"].startswith("faq: stopped before training, because the new data has drifted: the categories")
    begin(store, "run-2", begun())
    assert store.note("stopped.sha256-d1") is None, "the next run of the same data is not taken for this one"


def test_a_failed_run_is_told_also_when_it_failed_before_it_was_known(receiver: Receiver, store: Registry) -> None:
    told(store, "FAILED")
    assert receiver.messages == [{"text": "faq: failed: the log of the step that failed says why (run run-1)"}]


def test_a_run_that_was_ended_by_hand_is_no_failure(receiver: Receiver, store: Registry) -> None:
    begin(store, "run-1", begun())
    told(store, "CANCELLED")
    assert receiver.messages == [{"text": "faq: ended before its end: cancelled (run run-1)"}]


def test_a_run_that_failed_after_an_earlier_one_was_rejected_is_no_rejection(
    receiver: Receiver, store: Registry
) -> None:
    reject(store, "r1", "", ["worse"])
    begin(store, "run-1", begun(unchanged="rejected"))
    told(store, "FAILED")
    assert receiver.messages[0]["text"].startswith("faq: failed: ")


def test_a_registry_that_is_away_keeps_nothing_from_being_told(
    receiver: Receiver, capsys: pytest.CaptureFixture[str]
) -> None:
    notify(state="FAILED", run_id="run-1", registry="http://127.0.0.1:9", model_name="faq")
    assert receiver.messages == [{"text": "faq: failed: the log of the step that failed says why (run run-1)"}]
    assert "notify: registry http://127.0.0.1:9: cannot " in capsys.readouterr().out


def test_without_a_webhook_the_log_alone_says_it(
    store: Registry, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv(WEBHOOK, raising=False)
    told(store)
    assert capsys.readouterr().out.splitlines() == [
        "notify: faq: succeeded (run run-1)",
        "notify: posted nowhere, PRIVATE_LLM_WEBHOOK_URL is not set",
    ]


@pytest.mark.parametrize(
    ("answers", "said", "tries"),
    [
        ([500], "posted to the webhook, attempt 2", 2),
        ([503, 429], "posted to the webhook, attempt 3", 3),
        ([500, 502, 504], "not posted, after 3 attempts: the webhook answered 504", 3),
        ([404], "not posted, after 1 attempt: the webhook answered 404", 1),
        ([403], "not posted, after 1 attempt: the webhook answered 403", 1),
        ([302], "not posted, after 1 attempt: the webhook answered 302", 1),
    ],
)
def test_what_may_pass_is_tried_again_and_what_will_not_is_not(
    receiver: Receiver,
    store: Registry,
    capsys: pytest.CaptureFixture[str],
    answers: list[int],
    said: str,
    tries: int,
) -> None:
    receiver.answers = [(status, {"Location": "http://127.0.0.1:9/elsewhere"}) for status in answers]
    told(store)
    output = capsys.readouterr().out
    assert output.splitlines()[-1] == f"notify: {said}"
    assert len(receiver.requests) == tries
    assert "SECRET" not in output


def test_a_server_that_asks_for_a_longer_pause_gets_it(receiver: Receiver, store: Registry) -> None:
    receiver.answers = [(429, {"Retry-After": "1"})]
    start = time.monotonic()
    told(store)
    assert len(receiver.messages) == 1
    assert time.monotonic() - start >= 1


def test_a_server_that_never_answers_is_given_up(
    receiver: Receiver, store: Registry, capsys: pytest.CaptureFixture[str]
) -> None:
    receiver.seconds = 0.6
    told(store)
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == "notify: not posted, after 3 attempts: the webhook cannot be reached: TimeoutError"


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("http://127.0.0.1:{free}/SECRET", "after 3 attempts: the webhook cannot be reached: ConnectionRefusedError"),
        ("https://no-such-host.invalid/SECRET", "after 3 attempts: the webhook cannot be reached: gaierror"),
        ("hooks.example.org/SECRET", "the webhook's address must begin with http:// or https://"),
        ("file:///etc/passwd/SECRET", "the webhook's address must begin with http:// or https://"),
        ("http://[SECRET", "not posted, after 1 attempt: the webhook's address is not a URL"),
        ("http://127.0.0.1:9/SECRET with spaces", "not posted, after 1 attempt: the webhook's address is not a URL"),
        ("http://127.0.0.1:SECRET/", "not posted, after 1 attempt: the webhook's address is not a URL"),
    ],
)
def test_an_address_that_leads_nowhere_fails_nothing_and_is_never_shown(
    store: Registry, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], url: str, said: str
) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        free = probe.getsockname()[1]
    monkeypatch.setenv(WEBHOOK, url.format(free=free))
    told(store)
    captured = capsys.readouterr()
    assert said in captured.out.splitlines()[-1]
    assert "SECRET" not in captured.out + captured.err
