"""Profiles: shipped ones by name, others by file; images are never latest."""

from pathlib import Path

import pytest

from components.errors import ParameterError
from pipeline.settings import Resources, Scheduling, SecretEnv, Toleration, load

DIGEST = "0" * 64


@pytest.mark.parametrize("profile", ["default", "local", "demo"])
def test_shipped_profiles_load(profile: str) -> None:
    assert load(profile).data_image


def test_a_file_is_a_profile_and_parameters_go_over_it(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(
        f"data_image: a:1\ntrain_image: b@sha256:{DIGEST}\n"
        "resources: {train: {gpus: 8}}\nparameters: {epochs: 1, seed: 3}\n"
    )
    settings = load(str(path), {"seed": "4"})
    assert settings.image("split") == "a:1"
    assert settings.image("train") == settings.image("evaluate") == f"b@sha256:{DIGEST}"
    assert settings.resources["train"].gpus == 8
    assert (settings.parameters.epochs, settings.parameters.seed) == (1, 4)


def test_a_profile_says_where_steps_run_and_which_secrets_they_see(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(
        """
        data_image: a:1
        train_image: b:1
        resources: {evaluate:}
        scheduling:
          evaluate:
            node_selector: {pool: a100}
            tolerations: [{key: nvidia.com/gpu}, {key: spot, operator: Equal, value: "true", effect: NoSchedule}]
        timeouts: {evaluate: 3600}
        secrets: [{name: hub, keys: {token: HF_TOKEN}, steps: [resolve, train], optional: true}]
        image_pull_secrets: [harbor]
        """
    )
    settings = load(str(path))
    assert settings.resources["evaluate"] == Resources()
    assert settings.scheduling["evaluate"] == Scheduling(
        node_selector={"pool": "a100"},
        tolerations=(
            Toleration(key="nvidia.com/gpu"),
            Toleration(key="spot", operator="Equal", value="true", effect="NoSchedule"),
        ),
    )
    assert settings.timeouts == {"evaluate": 3600}
    assert settings.secrets == (
        SecretEnv(name="hub", keys={"token": "HF_TOKEN"}, steps=("resolve", "train"), optional=True),
    )
    assert (settings.image_pull_secrets, settings.retries, settings.ttl) == (("harbor",), 0, 0)


def test_a_profile_extends_another_step_by_step(tmp_path: Path) -> None:
    (tmp_path / "ours.yaml").write_text("extends: default\nresources: {evaluate: {gpus: 2}}\nretries: 5\n")
    (tmp_path / "night.yaml").write_text("extends: ours.yaml\nttl: 60\nparameters: {seed: 7}\n")
    settings, default = load(str(tmp_path / "night.yaml")), load("default")
    assert settings.resources["evaluate"] == Resources(gpus=2)
    assert settings.resources["train"] == default.resources["train"]
    assert (settings.data_image, settings.retries, settings.ttl, settings.parameters.seed) == (
        default.data_image,
        5,
        60,
        7,
    )


@pytest.mark.parametrize("text", ["extends: bad.yaml", "extends: other.yaml", "extends: [default]"])
def test_a_profile_cannot_extend_itself_or_nonsense(tmp_path: Path, text: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    (tmp_path / "other.yaml").write_text("extends: bad.yaml\n")
    with pytest.raises(ParameterError, match="must be the name or file of a profile that does not extend this one"):
        load(str(path))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("scheduling: {train: {tolerations: [{key: a, operator: In}]}}", "operator='In' is not allowed"),
        ("scheduling: {train: {tolerations: [{key: a, value: b}]}}", "value='b' does not go with operator Exists"),
        ("scheduling: {train: {tolerations: [{key: a, effect: Never}]}}", "effect='Never' is not allowed"),
        ("scheduling: {train: {tolerations: {key: a}}}", r"scheduling\.train: tolerations: must be a list"),
        ("scheduling: {train: {node_selector: {a: 1}}}", "node_selector.a: 1 must be of type str"),
        ("scheduling: {training: {}}", "scheduling for unknown step 'training'; allowed: resolve"),
        ("scheduling: []", "scheduling: must be a mapping"),
        ("secrets: [{name: a, keys: {b: C}, steps: [fit]}]", "secrets for unknown step 'fit'"),
        ("secrets: [{name: a, keys: {b: C}}]", r"secrets\[0\]: 'steps' is missing"),
        ("retries: -1", "retries=-1 must be at least 0"),
        ("retries: true", "True must be of type int"),
        ("resources: {train: {cpu: lots}}", r"resources\.train: cpu='lots' must be a quantity such as 8 or 500m"),
        ("resources: {train: {memory: 128GiB}}", "memory='128GiB' must be a quantity such as 32Gi"),
        ("resources: {train: {gpus: -1}}", "gpus=-1 must be at least 0"),
        ("trainjob: {shared_memory: 64 GB}", "shared_memory='64 GB' must be a quantity such as 16Gi"),
        ("trainjob: {resources: {rdma/hca: one}}", "rdma/hca='one' must be a quantity"),
        ("storage: {scratch: much}", "scratch='much' must be a quantity"),
        ("parameters: [epochs]", "parameters must be a mapping of names to values"),
        ("parameters: {pii: off}", "pii=False must be of type str; put on, off, yes and no into quotes"),
        ("ui: 2026-02-30", "not YAML: day is out of range for month"),
        ("1: a\nnodes: 2", "'?(1|nodes)'? is unknown; allowed"),
    ],
)
def test_bad_placement_is_named_with_its_place(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(f"data_image: a:1\ntrain_image: b:1\n{text}\n")
    with pytest.raises(ParameterError, match=message) as error:
        load(str(path))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "data_image: a:latest\ntrain_image: b:1\n",
            "data_image='a:latest' must have a version tag or a digest, and not latest",
        ),
        ("data_image: host:5000/a\ntrain_image: b:1\n", "must have a version tag"),
        ("data_image: gcr.io/PROJECT/a:1\ntrain_image: b:1\n", "is no image's name: .* put in your registry"),
        ("data_image: my image:1\ntrain_image: b:1\n", "is no image's name"),
        ("data_image: ':1'\ntrain_image: b:1\n", "is no image's name"),
        ("data_image: host:5000/a/b-c:v1.2_3\ntrain_image: B:1\n", "train_image='B:1' is no image's name"),
        ("data_image: a:1\n", "'train_image' is missing"),
        ("data_image: a:1\ntrain_image: b:1\nimages: []\n", "'images' is unknown"),
        (
            "data_image: a:1\ntrain_image: b:1\nresources: {training: {}}\n",
            "unknown step 'training'; allowed: resolve, ingest",
        ),
        ("data_image: a:1\ntrain_image: b:1\nresources: {train: {gpu: 1}}\n", "'gpu' is unknown"),
        ("data_image: a:1\ntrain_image: b:1\nparameters: {lr: 1}\n", "unknown parameter 'lr'"),
        ("- a\n", "must be a mapping"),
        ("a: [\n", "not YAML"),
    ],
)
def test_a_bad_profile_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(ParameterError, match=message) as error:
        load(str(path))
    assert "\n" not in str(error.value)


def test_a_profile_that_is_no_text_is_named(tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_bytes(b"data_image: \xff\xfe")
    with pytest.raises(ParameterError, match=r"bad\.yaml: not YAML: .*utf-8"):
        load(str(path))


def test_an_unknown_profile_is_answered_with_the_known() -> None:
    with pytest.raises(ParameterError, match="profile 'prod' is neither a file nor one of a10"):
        load("prod")
