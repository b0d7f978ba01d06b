"""What a server and a network do to a client, and that no run is ever made twice."""

import socket
from datetime import UTC, datetime, timedelta
from io import StringIO
from ipaddress import IPv4Address
from pathlib import Path

import kfp_server_api as kfp
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from pipeline.kfp_api import Api
from pipeline.kfp_faults import KfpError, LostAnswerError
from pipeline.packages import experiment
from pipeline.runs import create_once, follow, get_run
from pipeline.submit import main as submit
from tests.kfp_server.conftest import Time
from tests.kfp_server.play import Play
from tests.kfp_server.server import Server

RUN = ["--param", "dataset=org/data"]
Captured = pytest.CaptureFixture[str]


def wanted(server: Server, api: Api) -> kfp.V2beta1Run:
    """A run that may be made."""
    (version,) = server.state.versions.values()
    return kfp.V2beta1Run(
        display_name="a run",
        experiment_id=experiment(api, "Default"),
        pipeline_version_reference=kfp.V2beta1PipelineVersionReference(
            pipeline_id=version["pipeline_id"], pipeline_version_id=version["pipeline_version_id"]
        ),
    )


def error_of(capsys: Captured) -> str:
    """The one line that was printed."""
    error = capsys.readouterr().err
    assert error.count("\n") == 1, error
    return error


def test_an_unreachable_host_is_one_line_and_exit_2(capsys: Captured) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        host = f"http://127.0.0.1:{closed.getsockname()[1]}"
    assert submit([*RUN, "--host", host, "--patience", "0"]) == 2
    assert f"{host} cannot be reached: Connection refused; check --host and the network" in error_of(capsys)
    assert submit([*RUN, "--host", "http://kfp.invalid", "--patience", "0"]) == 2
    assert "http://kfp.invalid cannot be reached" in error_of(capsys)


def test_a_token_without_tls_is_warned_of(monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    monkeypatch.setenv("KFP_TOKEN", "a-secret")
    assert submit([*RUN, "--host", "http://kfp.invalid", "--patience", "0"]) == 2
    said = capsys.readouterr().err
    assert "kfp.invalid is asked without TLS" in said
    assert "a-secret" not in said


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A certificate that nobody but itself has signed, as a server inside an organisation may have, with its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name, now = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")]), datetime.now(UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path = tmp_path / "own.pem"
    path.write_bytes(private + made.public_bytes(pem))
    return path


def test_a_certificate_of_ones_own_is_trusted_where_it_is_named(
    certificate: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    server = Server(certificate)
    try:
        words = [*RUN, "--host", server.url, "--patience", "0"]
        assert submit(words) == 2
        assert "is its certificate trusted? --ca-file" in error_of(capsys)
        assert submit([*words, "--ca-file", str(tmp_path / "none.pem")]) == 2
        assert "none.pem' is no file" in error_of(capsys)
        assert submit([*words, "--ca-file", str(certificate)]) == 0
        monkeypatch.setenv("HOME", str(tmp_path))
        profile = tmp_path / "mine.yaml"
        profile.write_text("extends: default\nkfp: {ca_file: ~/own.pem}\n")
        assert submit([*words, "--profile", str(profile)]) == 0
        assert len(server.state.runs) == 2
    finally:
        server.close()


@pytest.mark.parametrize(
    "host", ["kubeflow.example.com", "ftp://kubeflow", "http://[bad", "https://user:secret@kubeflow"]
)
def test_an_address_that_is_none_is_exit_2_and_shows_no_password(host: str, capsys: Captured) -> None:
    assert submit([*RUN, "--host", host]) == 2
    assert "secret" not in error_of(capsys)


def test_no_server_named_is_exit_2(monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    for name in ("KF_PIPELINES_ENDPOINT", "KUBERNETES_SERVICE_HOST"):
        monkeypatch.delenv(name, raising=False)
    assert submit(RUN) == 2
    assert "no KFP server: give --host, set KF_PIPELINES_ENDPOINT, or write host under kfp" in error_of(capsys)


def test_a_token_comes_from_a_file_or_the_environment(
    server: Server, token_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.state.tokens = ["first"]
    assert submit([*RUN, "--token-file", str(token_file)]) == 0
    monkeypatch.setenv("KFP_TOKEN", "first")
    assert submit(RUN) == 0


def test_a_browsers_session_is_taken_from_its_cookie(server: Server, tmp_path: Path) -> None:
    server.state.cookies = ["authservice_session=abc"]
    path = tmp_path / "cookie"
    path.write_text("authservice_session=abc\n")
    assert submit([*RUN, "--cookie-file", str(path)]) == 0


def test_a_pod_takes_the_token_that_the_kubelet_keeps(
    server: Server, token_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.state.tokens = ["first"]
    monkeypatch.setenv("KF_PIPELINES_SA_TOKEN_PATH", str(token_file))
    assert submit(RUN) == 0


def test_a_missing_login_is_exit_2_and_names_no_secret(
    server: Server, token_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    server.state.tokens = ["another"]
    assert submit(RUN) == 2
    assert "asks for a login (401): no token or cookie was given" in error_of(capsys)
    monkeypatch.setenv("KFP_TOKEN", "a-wrong-secret")
    assert submit(RUN) == 2
    said = error_of(capsys)
    assert "credentials (from the environment) were not accepted" in said
    assert "a-wrong-secret" not in said


def test_a_proxy_that_sends_to_its_login_page_is_told_from_a_server(server: Server, capsys: Captured) -> None:
    server.fault("GET /apis", 302, page="<html>log in</html>")
    assert submit(RUN) == 2
    assert "asks for a login (302)" in error_of(capsys)
    server.fault("GET /apis", 200, page="<html>log in</html>")
    assert submit(RUN) == 2
    assert "is no KFP API: it did not answer with JSON; the address of the UI usually needs /pipeline" in error_of(
        capsys
    )
    assert server.state.runs == {}


def test_a_namespace_that_one_may_not_use_is_exit_2(server: Server, capsys: Captured) -> None:
    server.state.namespaces = {"theirs": {"somebody"}}
    assert submit([*RUN, "--namespace", "theirs"]) == 2
    assert "refused (403): User is not authorized; the user may not do this; check --namespace" in error_of(capsys)


@pytest.mark.parametrize("status", [0, 429, 500, 502, 503, 504])
def test_what_passes_is_asked_again(server: Server, capsys: Captured, status: int) -> None:
    assert submit(["upload"]) == 0
    server.fault("GET /apis/v2beta1/experiments", status)
    assert submit(RUN) == 0
    assert "asking again in" in capsys.readouterr().err


def test_a_busy_server_is_waited_for_as_long_as_it_asks(uploaded: Server, api: Api, time: Time) -> None:
    run = wanted(uploaded, api)
    uploaded.fault("POST /apis/v2beta1/runs", 429, retry_after=17, times=2)
    create_once(api, run)
    assert time.slept == [17, 17]
    assert len(uploaded.state.runs) == 1


def test_a_busy_server_may_ask_for_more_than_patience_but_not_for_hours(uploaded: Server, api: Api, time: Time) -> None:
    run = wanted(uploaded, api)
    uploaded.fault("POST /apis/v2beta1/runs", 429, retry_after=300)
    create_once(api, run)
    assert time.slept == [300]
    uploaded.fault("GET /apis/v2beta1/runs/", 429, retry_after=7200)
    with pytest.raises(KfpError, match="too busy"):
        get_run(api, "a-run")


def test_a_server_that_stays_away_is_given_up_after_patience(uploaded: Server, api: Api, time: Time) -> None:
    made, _ = create_once(api, wanted(uploaded, api))
    uploaded.fault("GET /apis/v2beta1/runs/", 503, times=1000)
    with pytest.raises(KfpError, match="failed \\(503\\)"):
        get_run(api, made.run_id)
    assert 60 < sum(time.slept) <= 120
    assert max(time.slept) <= 30


@pytest.mark.parametrize("status", [0, 500, 503, 504])
@pytest.mark.parametrize("after", [True, False])
def test_a_lost_answer_never_makes_a_second_run(
    uploaded: Server, api: Api, time: Time, status: int, after: bool
) -> None:
    run = wanted(uploaded, api)
    uploaded.fault("POST /apis/v2beta1/runs", status, after=after)
    made, new = create_once(api, run)
    assert new
    assert list(uploaded.state.runs) == [made.run_id]
    assert uploaded.asked("POST /apis/v2beta1/runs") == (1 if after else 2)


def test_an_answer_that_does_not_come_in_time_is_lost_too(uploaded: Server, api: Api) -> None:
    run = wanted(uploaded, api)
    api.timeout = 0.2
    uploaded.fault("POST /apis/v2beta1/runs", hang=0.5, after=True)
    made, _ = create_once(api, run)
    assert list(uploaded.state.runs) == [made.run_id]


def test_a_request_that_comes_through_late_has_its_run_terminated(uploaded: Server, api: Api, time: Time) -> None:
    """A gateway answers 504, the server behind it works on, and its run appears when all hope was gone."""
    run = wanted(uploaded, api)
    uploaded.fault("POST /apis/v2beta1/runs", 504, later=True)
    create_once(api, run)
    assert time.slept == [1, 2, 4, 8]
    assert [one["state"] for one in uploaded.state.runs.values()] == ["CANCELING", "PENDING"], "the first is late"


def test_a_server_that_never_answers_makes_the_user_look(uploaded: Server, api: Api) -> None:
    run = wanted(uploaded, api)
    uploaded.fault("POST /apis/v2beta1/runs", 502, times=9)
    with pytest.raises(LostAnswerError, match="no run of this submission is on the server after 3 tries"):
        create_once(api, run)
    assert uploaded.state.runs == {}


@pytest.mark.parametrize("status", [0, 429, 502])
def test_waiting_goes_on_through_what_passes(uploaded: Server, api: Api, time: Time, status: int) -> None:
    made, _ = create_once(api, wanted(uploaded, api))
    uploaded.fault("GET /apis/v2beta1/runs/", status, times=3)
    ended = follow(api, made.run_id, {}, poll=5, limit=0, out=StringIO())
    assert ended.state == "SUCCEEDED"
    assert len(uploaded.state.runs) == 1


def test_a_token_that_expires_while_waiting_is_read_anew(server: Server, token_file: Path) -> None:
    """Something else renews the file, as the kubelet or a cron job does."""
    server.state.tokens = ["first"]
    server.state.expire_after = 9

    def renew() -> None:
        if server.asked("GET /apis/v2beta1/runs/") > 3:
            token_file.write_text("second\n")
            server.state.tokens = ["second"]

    server.state.on_refusal = renew
    words = [*RUN, "--token-file", str(token_file), "--wait", "--poll", "0"]
    assert submit(words) == 0
    assert server.state.tokens == ["second"], "it did expire"


def test_a_token_that_is_not_renewed_ends_the_wait_and_not_the_run(
    server: Server, token_file: Path, capsys: Captured
) -> None:
    server.state.tokens = ["first"]
    server.state.expire_after = 9
    server.state.script = lambda run: Play(run, stuck_at="train")
    words = [*RUN, "--token-file", str(token_file), "--wait", "--poll", "0", "--patience", "1"]
    assert submit(words) == 2
    assert f"the credentials ({token_file}) were not accepted; renew them" in capsys.readouterr().err
    assert [run["state"] for run in server.state.runs.values()] == ["RUNNING"]


@pytest.mark.parametrize("content", ["", "two\nlines\n", None])
def test_a_token_file_that_is_none_is_exit_2(
    server: Server, tmp_path: Path, capsys: Captured, content: str | None
) -> None:
    path = tmp_path / "token"
    if content is not None:
        path.write_text(content)
    assert submit([*RUN, "--token-file", str(path)]) == 2
    assert f"token_file={str(path)!r}" in error_of(capsys)


def test_what_two_make_at_once_is_made_once(server: Server, api: Api) -> None:
    """Pipeline, version and experiment have unique names: who comes second takes the first one's."""
    for call in ("POST /apis/v2beta1/pipelines", "POST /apis/v2beta1/experiments"):
        server.fault(call, 409, after=True)
    server.fault("upload_version", 409, after=True)
    assert submit(RUN) == 0
    held = (server.state.pipelines, server.state.versions, server.state.experiments, server.state.runs)
    assert [len(things) for things in held] == [1, 1, 1, 1]


def test_a_refusal_says_what_the_server_said(server: Server, capsys: Captured) -> None:
    server.fault("POST /apis/v2beta1/runs", 400)
    assert submit(RUN) == 2
    assert "refused (400): the fault of a test" in capsys.readouterr().err


def test_another_content_of_the_same_version_is_refused(uploaded: Server, capsys: Captured) -> None:
    for version in uploaded.state.versions.values():
        version["description"] = "sha256:" + "0" * 64
    assert submit(RUN) == 1
    assert "is on the server with another content; delete it there" in error_of(capsys)
