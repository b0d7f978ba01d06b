"""register: what a version holds and says of itself, and what a person asks a registry."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from huggingface_hub import ModelCard
from mlflow import MlflowClient
from safetensors.numpy import save_file

from components.cli import choose
from components.errors import ParameterError, PipelineError
from components.records import path_digest, write_json
from components.register.card import model_card
from components.register.commands import COMMANDS
from components.register.register import register
from components.registry import open_registry
from tests.conftest import make_record, write_tokens

COMMIT = "a" * 40
MODEL = {"perplexity": 8.25, "word_perplexity": 20.5, "perplexity_interval": [8.0, 8.5], "bits_per_byte": 0.9}
TASK = {"models": {"base": {"value": 0.6, "stderr": 0.01}, "tuned": {"value": 0.7, "stderr": None}}}
EVALUATION: dict[str, Any] = {
    "models": {"base": MODEL, "tuned": MODEL},
    "records": 2,
    "corpora": {"wiki": {"models": {"base": MODEL, "tuned": {**MODEL, "bits_per_byte": 0.95}}}},
    "tasks": {"boolq": {"acc": TASK}},
}


@pytest.fixture
def address(empty_database: bytes, tmp_path: Path) -> str:
    path = tmp_path / "mlflow.db"
    path.write_bytes(empty_database)
    return f"sqlite:///{path}"


@pytest.fixture
def arguments(address: str, tmp_path: Path) -> dict[str, Any]:
    """What the step gets in a run: a model, rows, figures and a verdict."""
    model = tmp_path / "model"
    model.mkdir()
    save_file({"weight": np.ones(4, dtype=np.float32)}, model / "model.safetensors")
    write_json(model / "tokenizer_config.json", {"eos_token": "### End"})
    (model / "README.md").write_text("what the base model said of itself")
    records = [make_record("Question?", f"Answer {number}.") for number in range(3)]
    write_json(tmp_path / "evaluation.json", EVALUATION)
    write_json(tmp_path / "verdict.json", {"verdict": "accepted", "reasons": ["improves on the base model"]})
    return {
        "model": model,
        "train": write_tokens(tmp_path / "train.parquet", records[:2]),
        "test": write_tokens(tmp_path / "test.parquet", records[2:]),
        "evaluation": tmp_path / "evaluation.json",
        "verdict": tmp_path / "verdict.json",
        "configuration": {"epochs": 2},
        "dataset": f"org/questions@{COMMIT}",
        "dataset_digest": f"git:{COMMIT}",
        "base_model": "/models/base",
        "base_model_digest": "sha256:base",
        "license": "CC-BY-SA-3.0",
        "template": "dolly",
        "template_digest": "",
        "champion": "",
        "run_digest": "r1",
        "registry": address,
        "model_name": "faq",
        "registered": tmp_path / "registered.json",
    }


@pytest.fixture
def ask(address: str, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """A command on the registry: its exit code, output and errors."""

    def call(command: str, *more: str, **changes: str) -> tuple[int, str, str]:
        capsys.readouterr()
        places = {"registry": address, "model_name": "faq", **changes}
        argv = [command, *(f"--{name}={value}" for name, value in places.items()), *more]
        code = choose(COMMANDS, prog="python -m components.register", argv=argv)
        return code, *capsys.readouterr()

    return call


def three_versions(arguments: dict[str, Any]) -> None:
    for digest in ("r1", "r2", "r3"):
        register(**{**arguments, "run_digest": digest, "champion": champion_of(arguments)})


def champion_of(arguments: dict[str, Any]) -> str:
    """The champion as a run refers to it that begins now."""
    champion = open_registry(arguments["registry"], "faq").champion()
    return champion.reference if champion else ""


def test_a_model_does_not_replace_a_champion_that_it_was_not_compared_with(
    arguments: dict[str, Any], address: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two runs at the same time are both compared with what was the champion before them."""
    store = open_registry(address, "faq")
    register(**arguments)
    before = store.versions()[0].reference
    capsys.readouterr()
    assert register(**{**arguments, "run_digest": "r2", "champion": before})["aliases"] == ["champion"]
    capsys.readouterr()
    overtaken = {**arguments, "run_digest": "r3", "champion": before}
    for there in ("new", "was there"):
        assert register(**overtaken) == {"name": "faq", "version": "3", "aliases": []}
        assert capsys.readouterr().out == (
            f"register: faq version 3 ({there}), alias none: version 2 became the champion meanwhile and was not "
            "compared with it; compare the two, and promote by hand\n"
        )
    assert [move.to for move in store.moves()] == ["1", "2"]
    # compared anew, with the present champion, it may replace that
    assert register(**{**overtaken, "champion": store.versions()[1].reference})["aliases"] == ["champion"]
    assert register(**{**arguments, "run_digest": "r4"})["aliases"] == [], "nor one that was compared with none"


def test_a_version_holds_the_model_its_card_and_its_lineage(arguments: dict[str, Any], address: str) -> None:
    before = path_digest(arguments["model"])
    register(**arguments)
    assert path_digest(arguments["model"]) == before, "the run's own model stays as it is"
    store = open_registry(address, "faq")
    (version,) = store.versions()
    folder = store.download(version)
    names = {path.name for path in folder.iterdir()}
    assert names == {"model.safetensors", "tokenizer_config.json", "README.md", "lineage.json"}
    lineage = json.loads((folder / "lineage.json").read_text())
    for name, value in {
        "dataset": f"org/questions@{COMMIT}",
        "dataset_digest": f"git:{COMMIT}",
        "dataset_license": "CC-BY-SA-3.0",
        "train_records": 2,
        "test_records": 1,
        "base_model": "/models/base",
        "base_model_digest": "sha256:base",
        "model_digest": before,
        "run_digest": "r1",
    }.items():
        assert lineage[name] == value
        assert version.tags[name] == str(value)
    assert lineage["configuration"] == {"epochs": 2}
    assert lineage["gate"]["verdict"] == version.tags["verdict"] == "accepted"
    assert lineage["evaluation"]["tuned"] == MODEL


def test_mlflow_shows_the_trainings_curves_with_the_version(
    arguments: dict[str, Any], address: str, tmp_path: Path
) -> None:
    curves = [{"step": step, "epoch": step / 4, "loss": 2.0 - step / 10} for step in range(1, 5)]
    write_json(tmp_path / "curves.json", [{"step": 0, "epoch": 0.0, "eval_loss": 2.5}, *curves])
    client = MlflowClient(address)
    for _ in range(2):  # the second time changes nothing
        register(**arguments, curves=tmp_path / "curves.json")
        run = client.get_model_version("faq", "1").run_id
        points = client.get_metric_history(run, "train/loss")
        assert [(point.step, point.value) for point in points] == [(step["step"], step["loss"]) for step in curves]
        assert client.get_metric_history(run, "train/eval_loss")[0].step == 0


def test_what_only_this_execution_knows_changes_neither_key_nor_bytes(
    arguments: dict[str, Any], address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KFP_RUN_ID", "first-run")
    monkeypatch.setenv("PRIVATE_LLM_TRAIN_IMAGE", "registry.example.org/train@sha256:1")
    register(**arguments)
    monkeypatch.setenv("KFP_RUN_ID", "second-run")
    again = register(**arguments)
    assert again["version"] == "1"
    (version,) = open_registry(address, "faq").versions()
    assert version.tags["kfp_run_id"] == "first-run"
    assert version.tags["train_image"] == "registry.example.org/train@sha256:1"
    other = register(**{**arguments, "model_name": "other"})
    (elsewhere,) = open_registry(address, "other").versions()
    assert other["version"] == "1"
    assert elsewhere.tags["kfp_run_id"] == "second-run"


def test_the_card_is_what_the_hub_reads(arguments: dict[str, Any], address: str) -> None:
    register(**{**arguments, "base_model": f"org/base@{COMMIT}"})
    store = open_registry(address, "faq")
    card = ModelCard.load(store.download(store.versions()[0]) / "README.md")
    assert (card.data.license, card.data.library_name) == ("cc-by-sa-3.0", "transformers")
    assert (card.data.base_model, card.data.datasets) == ("org/base", ["org/questions"])
    assert card.data.metrics == ["perplexity", "bits_per_byte"]
    metrics = {result.metric_type: result.metric_value for result in card.data.eval_results}
    assert metrics == {"perplexity": 8.25, "bits_per_byte": 0.9}
    assert ModelCard(str(card)).data.to_dict() == card.data.to_dict()
    for said in ("## Intended use", "## Limits", "8.250 (8.000 to 8.500)", "Gate: accepted.", "`### End`"):
        assert said in card.text
    assert store.versions()[0].tags["base_model_revision"] == COMMIT


def test_a_version_is_compared_by_what_it_does_on_records_texts_and_tasks(
    arguments: dict[str, Any], address: str
) -> None:
    register(**arguments)
    store = open_registry(address, "faq")
    (version,) = store.versions()
    figures = {"tuned_bits_per_byte": "0.9", "tuned_wiki_bits_per_byte": "0.95", "tuned_boolq_acc": "0.7"}
    assert {name: version.tags[name] for name in figures} == figures
    card = ModelCard.load(store.download(version) / "README.md").text
    assert "| wiki | tuned | 20.500 | 0.9500 |" in card
    assert "| boolq | acc | base | 0.6000 | 0.0100 |\n| boolq | acc | tuned | 0.7000 |  |\n" in card


def test_a_single_test_record_has_no_interval(arguments: dict[str, Any], address: str) -> None:
    one = {**MODEL, "perplexity_interval": None}
    write_json(arguments["evaluation"], {**EVALUATION, "models": {"base": one, "tuned": one}, "records": 1})
    register(**arguments)
    store = open_registry(address, "faq")
    card = ModelCard.load(store.download(store.versions()[0]) / "README.md").text
    assert "| tuned | 8.250 | 0.9000 |" in card


def test_a_base_model_of_no_finite_perplexity_is_registered_without_it(arguments: dict[str, Any], address: str) -> None:
    beyond = {**MODEL, "perplexity": None, "word_perplexity": None, "perplexity_interval": None}
    write_json(arguments["evaluation"], {**EVALUATION, "models": {"base": beyond, "tuned": MODEL}})
    register(**arguments)
    (version,) = open_registry(address, "faq").versions()
    assert "base_perplexity" not in version.tags
    assert version.tags["base_bits_per_byte"] == "0.9"


def test_a_perplexity_that_no_number_can_hold_is_a_dash_in_the_card() -> None:
    beyond = {**MODEL, "perplexity": None, "word_perplexity": None, "perplexity_interval": None}
    lineage = {"base_model": "/models/base", "dataset": "/data/faq.csv", "train_records": 2, "template": "dolly"}
    card = model_card(
        name="faq",
        license="mit",
        lineage={**lineage, "started_from": ""},
        models={"base": MODEL, "tuned": beyond},
        records=2,
        corpora={"wiki": {"models": {"tuned": beyond}}},
        tasks={},
        stop="### End",
        verdict={"verdict": "accepted", "reasons": []},
    )
    assert "| tuned | – | 0.9000 |" in card
    assert "| wiki | tuned | – | 0.9000 |" in card
    assert [found.metric_type for found in ModelCard(card).data.eval_results] == ["bits_per_byte"]


def test_a_card_names_no_path_and_no_unknown_licence_as_if_the_hub_knew_it(
    arguments: dict[str, Any], address: str
) -> None:
    register(**{**arguments, "base_model": "/models/our base", "dataset": "/data/faq.csv.gz", "license": "Our own 1.0"})
    store = open_registry(address, "faq")
    data = ModelCard.load(store.download(store.versions()[0]) / "README.md").data
    assert (data.base_model, data.datasets) == ("our-base", ["faq"])
    assert (data.license, data.license_name) == ("other", "Our own 1.0")


@pytest.mark.parametrize("name", ["pytorch_model.bin", "modeling_own.py", "more/weights.pt"])
def test_files_that_can_run_code_are_refused(arguments: dict[str, Any], address: str, name: str) -> None:
    path = arguments["model"] / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"code")
    with pytest.raises(PipelineError, match=rf"must be safetensors alone, found {path.name}"):
        register(**arguments)
    assert open_registry(address, "faq").versions() == []


def test_code_that_the_user_trusted_is_registered_and_recorded(arguments: dict[str, Any], address: str) -> None:
    (arguments["model"] / "modeling_own.py").write_text("class Own: ...")
    register(**{**arguments, "configuration": {"trust_remote_code": "true"}})
    store = open_registry(address, "faq")
    (version,) = store.versions()
    assert version.tags["trust_remote_code"] == "True"
    folder = store.download(version)
    assert (folder / "modeling_own.py").is_file()
    assert json.loads((folder / "lineage.json").read_text())["trust_remote_code"] is True
    assert "| trust_remote_code | `True` |" in ModelCard.load(folder / "README.md").text


def test_a_rejected_model_leaves_the_registry_as_it_is(arguments: dict[str, Any], address: str) -> None:
    write_json(arguments["verdict"], {"verdict": "rejected", "reasons": ["falls behind the champion"]})
    assert register(**arguments) == {}
    assert json.loads(arguments["registered"].read_text()) is None
    assert open_registry(address, "faq").versions() == []


def test_list_and_show(arguments: dict[str, Any], ask: Callable[..., tuple[int, str, str]]) -> None:
    assert ask("list")[:2] == (0, f"faq has no version in {arguments['registry']}\n")
    three_versions(arguments)
    code, table, _ = ask("list")
    header, _, *rows = table.splitlines()
    assert code == 0
    assert header.split() == [
        "version",
        "alias",
        "registered",
        "bits",
        "per",
        "byte",
        "perplexity",
        "dataset",
        "base",
        "model",
    ]
    assert [row.split()[0] for row in rows] == ["1", "2", "3"]
    assert ["champion" in row for row in rows] == [False, False, True]
    listed = json.loads(ask("list", "--json=true")[1])
    assert [one["aliases"] for one in listed] == [[], [], ["champion"]]
    shown = json.loads(ask("show", "--json=true")[1])
    assert (shown["version"], shown["tags"]["dataset_license"]) == ("3", "CC-BY-SA-3.0")
    assert [(move["from"], move["to"]) for move in shown["champion_moves"]] == [("", "1"), ("1", "2"), ("2", "3")]
    text = ask("show", "--version=1")[1]
    for said in ("run_digest", "r1", "tuned_bits_per_byte", "0.9", "accepted by the gate"):
        assert said in text


def test_a_champion_is_rolled_back_and_promoted_again(
    arguments: dict[str, Any], ask: Callable[..., tuple[int, str, str]]
) -> None:
    three_versions(arguments)
    assert ask("rollback", "--reason=invents prices")[:2] == (
        0,
        "champion of faq: version 2, was 3; reason: invents prices\n",
    )
    assert ask("rollback", "--reason=still does")[1].startswith("champion of faq: version 1, was 2;")
    code, _, error = ask("rollback", "--reason=further")
    assert (code, error) == (2, "register: version 1 of faq has no champion before it\n")
    moved = json.loads(ask("promote", "--version=3", "--reason=prices fixed", "--json=true")[1])
    assert (moved["to"], moved["from"], moved["reason"]) == ("3", "1", "prices fixed")
    assert ask("rollback", "--version=1", "--reason=no")[0] == 0


def test_a_rollback_knows_what_was_done_past_us(
    arguments: dict[str, Any], address: str, ask: Callable[..., tuple[int, str, str]]
) -> None:
    """In MLflow's own UI: an alias that was set there, and a version that was deleted."""
    three_versions(arguments)
    overtaken = {**arguments, "run_digest": "r4", "champion": "1:old"}
    assert register(**overtaken)["aliases"] == []
    client = MlflowClient(tracking_uri=address, registry_uri=address)
    client.set_registered_model_alias("faq", "champion", "4")
    assert ask("rollback", "--reason=not this one")[1].startswith("champion of faq: version 3, was 4;")
    client.delete_model_version("faq", "2")
    assert ask("rollback", "--reason=nor this")[1].startswith("champion of faq: version 1, was 3;")


@pytest.mark.parametrize(
    ("command", "changes", "said"),
    [
        ("show --version=9", {}, "faq has no version '9'; it has 1"),
        ("promote --version=1 --reason=again", {}, "version 1 of faq is the champion already"),
        ("list", {"registry": "postgres://host"}, "is not an address; allowed: sqlite:///FILE"),
        ("list", {"registry": "sqlite:////nowhere/mlflow.db"}, "/nowhere/mlflow.db does not exist"),
        ("show", {"model_name": "other"}, "other has no champion; name a version"),
        ("verify --public_key=/nowhere.pem", {}, "public_key=/nowhere.pem: no such file"),
    ],
)
def test_bad_input_is_one_line_and_2(
    arguments: dict[str, Any],
    ask: Callable[..., tuple[int, str, str]],
    command: str,
    changes: dict[str, str],
    said: str,
) -> None:
    register(**arguments)
    code, output, error = ask(*command.split(), **changes)
    assert (code, output, error.count("\n")) == (2, "", 1)
    assert said in error


def test_a_registry_that_is_down_is_one_line_and_1(
    ask: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    code, output, error = ask("list", registry="http://127.0.0.1:9")
    assert (code, output, error.count("\n")) == (1, "", 1)
    assert error.startswith("register: registry http://127.0.0.1:9: cannot list the versions")


def test_verify_tells_changed_files(arguments: dict[str, Any], ask: Callable[..., tuple[int, str, str]]) -> None:
    register(**arguments)
    code, output, _ = ask("verify")
    assert (code, output.startswith("version 1 of faq: files are those registered, sha256:")) == (0, True)
    source = json.loads(ask("show", "--json=true")[1])["source"]
    Path(source.removeprefix("file://"), "model.safetensors").write_bytes(b"other")
    code, _, error = ask("verify")
    assert (code, error.count("\n")) == (1, 1)
    assert "the files of version 1 are not those that were registered" in error


def test_a_signature_holds_for_its_files_and_its_key(
    arguments: dict[str, Any],
    ask: Callable[..., tuple[int, str, str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("model_signing", reason="the extra signing is not installed")
    ours, other = (write_keys(tmp_path / name) for name in ("ours", "other"))
    register(**{**arguments, "run_digest": "unsigned"})
    assert ask("verify", f"--public_key={ours[1]}")[0::2] == (
        1,
        "register: the version has no signature; set PRIVATE_LLM_SIGNING_KEY where register runs\n",
    )
    monkeypatch.setenv("PRIVATE_LLM_SIGNING_KEY", str(ours[0]))
    register(**{**arguments, "champion": champion_of(arguments)})
    code, output, _ = ask("verify", f"--public_key={ours[1]}")
    assert (code, output.endswith("; signature holds\n")) == (0, True)
    code, _, error = ask("verify", f"--public_key={other[1]}")
    assert (code, error.count("\n")) == (1, 1)
    assert error.startswith("register: the signature does not hold: ")
    monkeypatch.setenv("PRIVATE_LLM_SIGNING_KEY", str(tmp_path / "none.pem"))
    with pytest.raises(ParameterError, match=r"PRIVATE_LLM_SIGNING_KEY=.*none.pem: no such file"):
        register(**{**arguments, "run_digest": "r9"})


def write_keys(path: Path) -> tuple[Path, Path]:
    """A private key and its public one, as PEM files."""
    key = ec.generate_private_key(ec.SECP256R1())
    private, public = path.with_suffix(".pem"), path.with_suffix(".pub.pem")
    pem = serialization.Encoding.PEM
    private.write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()),
    )
    public.write_bytes(key.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo))
    return private, public
