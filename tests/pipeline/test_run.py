"""The whole pipeline on this machine, on real records and a real model, through the command line."""

import json
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from huggingface_hub import ModelCard
from transformers import AutoModelForCausalLM, AutoTokenizer

from pipeline.containers import docker_runner
from pipeline.run import prepare
from pipeline.settings import load
from pipeline.summary import show

STEPS = [
    *("resolve", "ingest", "drift", "tokenize", "split", "admit", "train", "evaluate", "gate", "register", "report"),
    "notify",
]


def run(output: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pipeline.run", "--output", str(output), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def summary(output: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((output / "summary.json").read_text(encoding="utf-8"))
    return content


def cached(output: Path) -> dict[str, bool]:
    return {name: step["cached"] for name, step in summary(output)["steps"].items()}


def test_tuning_lowers_perplexity_by_a_third_and_the_summary_tells_all(trained: Path) -> None:
    result = summary(trained)
    records = result["records"]
    assert records["in"] == 300
    assert records["in"] == records["rejected"] + records["removed"] + records["train"] + records["test"]
    assert result["tuned"]["perplexity"] < result["base"]["perplexity"] * 2 / 3
    assert result["champion"] is None
    assert result["gate"]["verdict"] == "accepted"
    assert result["registered"] == {"name": "private-llm", "version": "1", "aliases": ["champion"]}
    assert sorted(result["steps"]) == sorted(STEPS)
    assert (result["outcome"], result["started_from"]) == ("accepted", "base")
    for artifact in result["artifacts"].values():
        assert Path(artifact["path"]).exists()
        assert artifact["digest"].startswith("sha256:")


def test_a_perplexity_that_no_number_holds_is_a_dash_in_the_summary(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = {**summary(trained), "tuned": {"perplexity": None, "bits_per_byte": 987.0}}
    parameters: Any = SimpleNamespace(registry="sqlite:////registry.db")
    show(told, parameters, trained)
    assert re.search(r"^tuned +perplexity –, bits per byte 987.0000$", capsys.readouterr().out, re.MULTILINE)


def test_the_registered_model_loads_stops_and_carries_its_papers(trained: Path) -> None:
    folder = next((trained.parent / "mlartifacts").rglob("model.safetensors")).parent
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert tokenizer.decode([model.generation_config.eos_token_id]) == "### End"
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "What is an apple?"}],
        add_generation_prompt=True,
        return_tensors="pt",
        return_dict=True,
    )
    assert model.generate(**prompt, max_new_tokens=5).shape[1] > prompt["input_ids"].shape[1]
    lineage = json.loads((folder / "lineage.json").read_text())
    assert lineage["dataset_license"] == "cc-by-sa-3.0"
    assert lineage["dataset_digest"].startswith("sha256:")
    assert lineage["gate"]["verdict"] == "accepted"
    card = ModelCard.load(folder / "README.md")
    assert card.data.license == "cc-by-sa-3.0"
    assert "perplexity" in card.text


def test_no_record_text_stands_in_logs_or_papers(trained: Path, dolly: Path) -> None:
    """A response long enough to be no accident stands in no log, JSON or page of a run without samples."""
    texts = [json.loads(line)["response"][:60] for line in dolly.read_text(encoding="utf-8").splitlines()[:300]]
    telling = [text for text in texts if len(text) == 60]
    assert len(telling) > 100
    files = [path for path in trained.rglob("*") if path.suffix in (".log", ".json", ".html", ".md")]
    content = "".join(path.read_text(encoding="utf-8") for path in files if "tokenizer" not in path.name)
    assert not any(text in content for text in telling)


def test_the_same_run_again_takes_every_step_from_the_cache_but_those_that_look_around(
    trained: Path, trained_arguments: list[str], tmp_path: Path
) -> None:
    again = run(trained.parent / "again", *trained_arguments)
    assert again.returncode == 0, again.stdout + again.stderr
    assert cached(trained.parent / "again") == {name: name not in ("resolve", "notify") for name in STEPS}
    assert "nothing is new: the same data and configuration gave version 1 of private-llm" in again.stdout
    for key in ("records", "base", "tuned", "champion", "gate", "registered"):
        assert summary(trained.parent / "again")[key] == summary(trained)[key]
    artifacts = summary(trained.parent / "again")["artifacts"]
    for name in artifacts.keys() - {"notice"}:  # which says this time that nothing is new
        assert artifacts[name]["digest"] == summary(trained)["artifacts"][name]["digest"], name


@pytest.mark.long
def test_a_changed_byte_behind_the_same_path_runs_what_depends_on_it_and_meets_the_champion(
    trained: Path, trained_arguments: list[str]
) -> None:
    data = Path(next(argument.partition("=")[2] for argument in trained_arguments if argument.startswith("dataset=")))
    original = data.read_bytes()
    try:
        data.write_bytes(original.replace(b"e", b"E", 1))
        fewer = [argument.replace("epochs=2", "epochs=0.5") for argument in trained_arguments]
        changed = run(trained.parent / "changed", *fewer)
    finally:
        data.write_bytes(original)
    assert changed.returncode == 0, changed.stdout + changed.stderr
    assert cached(trained.parent / "changed") == dict.fromkeys(STEPS, False)
    result = summary(trained.parent / "changed")
    assert result["champion"]["perplexity"] == pytest.approx(summary(trained)["tuned"]["perplexity"], rel=0.3)
    # half an epoch is worse than the champion's two: rejected, not registered, and the run does not fail
    assert result["gate"]["verdict"] == "rejected"
    assert any(reason.startswith("as good as the champion: no: ") for reason in result["gate"]["reasons"])
    assert "| as good as the champion | records | **no** |" in (trained.parent / "changed" / "verdict.md").read_text()
    assert result["registered"] is None


def test_a_step_that_fails_is_named_with_its_reason_and_log(stories: Path, tmp_path: Path) -> None:
    data = tmp_path / "bad.jsonl"
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "summary.json").write_text("{}")  # an earlier run's must not pass for this one's
    data.write_text("not json\n" * 5 + '{"instruction": "a", "response": "b"}\n')
    failed = run(tmp_path / "run", "--param", f"dataset={data}", f"base_model={stories}")
    assert failed.returncode == 1
    first, second = failed.stderr.strip().splitlines()[-2:]
    assert first.startswith("run: step ingest failed: dataset: 5 of 6 rows of ")
    assert "not_json 5" in first
    log = Path(second.removeprefix("run: its log is "))
    assert "not_json 5" in log.read_text()
    assert not (tmp_path / "run" / "summary.json").exists()


@pytest.mark.long
def test_a_run_that_failed_late_resumes_from_the_steps_that_succeeded(
    stories: Path, dolly_slice: Path, tmp_path: Path
) -> None:
    arguments = [
        "--param",
        f"dataset={dolly_slice}",
        f"base_model={stories}",
        "precision=fp32",
        "nproc_per_node=2",
        "zero_stage=2",
        "gradient_checkpointing=false",
    ]
    failed = run(tmp_path / "run", *arguments, "learning_rate=1e30")
    assert failed.returncode == 1
    assert "step train failed: training failed: " in failed.stderr
    mended = run(tmp_path / "run", *arguments, "learning_rate=1e-3", "epochs=0.5")
    assert mended.returncode == 0, mended.stdout + mended.stderr
    hits = {name for name, hit in cached(tmp_path / "run").items() if hit}
    assert hits == {"ingest", "drift", "tokenize", "split", "admit"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--param", "epoch=3"], "unknown parameter 'epoch'; allowed: dataset, base_model, "),
        (["--param", "epochs=-1"], "epochs=-1.0 is not allowed; it must be above 0"),
        (["--param", "epochs"], "'epochs' is not of the form name=value"),
        (["--param", "seed=1", "seed=2"], "'seed=2' is given twice"),
        (["--param", "dataset=missing.jsonl"], "missing.jsonl does not exist"),
        (["--param", "dataset=x/y", "base_model=/no/model"], "/no/model does not exist"),
        (["--param", "dataset=x/y", "base_model=/etc"], "/etc is not a model folder: it has no config.json"),
        (
            ["--param", "dataset=x/y", "base_model=x/z", "columns=question"],
            "'question' is not field=column; fields are ",
        ),
        (["--param", "dataset=x/y", "base_model=x/z", "test_size=1.5"], "test_size=1.5 is neither a fraction"),
        (["--param", "dataset=x/y", "base_model=x/z", "on_reject=stop"], "it must be one of continue, fail"),
        (
            ["--param", "dataset=x/y", "base_model=x/z", "evaluation_corpora=/no/text.txt"],
            "is not name=path or name=uri",
        ),
        (["--param", "dataset=x/y", "base_model=x/z", "evaluation_corpora=a=/no.txt"], "/no.txt does not exist"),
        (
            ["--param", "dataset=x/y", "base_model=x/z", "evaluation_corpora=a=/etc/passwd"],
            "/etc/passwd is not a file of a kind that is read here; allowed: .txt, .jsonl, .parquet",
        ),
        (
            ["--param", "dataset=x/y", "base_model=x/z", "decontaminate=a=/no.txt"],
            "decontaminate: /no.txt does not exist",
        ),
        (["--param", "dataset=x/y", "base_model=x/z", "gate_rules=/no.yaml"], "gate_rules: /no.yaml does not exist"),
        (["--param", "dataset=x/y", "base_model=x/z", "registry=mlflow.db"], "registry='mlflow.db' is not an address"),
        (
            ["--profile", "prod"],
            "profile 'prod' is neither a file nor one of a10",
        ),
    ],
)
def test_bad_input_is_one_line_and_exit_2_before_anything_runs(
    tmp_path: Path, arguments: list[str], message: str
) -> None:
    finished = run(tmp_path / "run", *arguments)
    assert finished.returncode == 2
    assert message in finished.stderr
    assert finished.stderr.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_a_clusters_profile_trains_in_a_process_here(stories: Path, dolly_slice: Path, tmp_path: Path) -> None:
    wanted = load("default", {"dataset": str(dolly_slice), "base_model": str(stories), "template": "base"})
    assert wanted.launcher == "trainjob"
    assert prepare(wanted, tmp_path / "run").launcher == "local"


def test_containers_see_what_a_run_names_and_write_where_it_may(stories: Path, tmp_path: Path) -> None:
    """Of a glob its folder, of a list of sources what it lists."""
    for name in ("globbed", "listed", "runs"):
        (tmp_path / name).mkdir()
    (tmp_path / "listed" / "sources.yaml").write_text(
        f"sources: [{{dataset: '{tmp_path}/globbed/*.csv'}}, {{dataset: rows.jsonl}}]"
    )
    for file in ("globbed/rows.csv", "listed/rows.jsonl"):
        (tmp_path / file).write_text("instruction,response\na,b\n")
    mounted = {}
    for dataset in (f"{tmp_path}/globbed/*.csv", f"{tmp_path}/listed/sources.yaml"):
        values = {"dataset": dataset, "base_model": str(stories), "ingest_cache": str(tmp_path / "kept")}
        settings = prepare(load("local", values), tmp_path / "runs" / "run")
        for mount in docker_runner(settings, tmp_path / "runs" / "run").container_run_args["mounts"]:
            mounted[mount["Target"].removeprefix(f"{tmp_path}/")] = mount["ReadOnly"]
    assert {"globbed": True, "listed/sources.yaml": True, "listed/rows.jsonl": True}.items() <= mounted.items()
    assert not mounted["kept"]
    assert not mounted["runs"]


def test_a_folder_that_cannot_be_made_is_one_line(stories: Path, dolly_slice: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    finished = run(tmp_path / "file" / "run", "--param", f"dataset={dolly_slice}", f"base_model={stories}")
    assert finished.returncode == 2
    assert re.fullmatch(r"run: --output \S+ cannot be written: [\w ]+\n", finished.stderr)
