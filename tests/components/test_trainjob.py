"""The TrainJob that a training becomes: golden, valid by Trainer's own schema, and compared as a server changes it."""

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

from components.errors import ParameterError, TrainingError
from components.train.trainjob import (
    JobSettings,
    Run,
    Training,
    attempt_of,
    differences,
    settings_as_values,
    settings_from,
    train_job,
)
from tests.golden import assert_golden

SCHEMA = Path(__file__).parents[3] / "shared" / "schemas" / "trainer.kubeflow.org_trainjobs.yaml"
OWNER = {"apiVersion": "argoproj.io/v1alpha1", "kind": "Workflow", "name": "private-llm-x7k2p", "uid": "uid-1"}
RUN = Run(namespace="ml", run_id="4f1c8a52-9f5e-4b0a-9d6c-0d1f6d3b7c11", owner=OWNER)
# As KFP's driver hands it over: two H100 nodes on spot capacity.
H100: dict[str, Any] = {
    "resources": {
        "limits": {"cpu": "96", "memory": "1500Gi", "nvidia.com/gpu": "8"},
        "requests": {"cpu": "96", "memory": "1500Gi"},
    },
    "node_selector": {"cloud.google.com/gke-accelerator": "nvidia-h100-80gb"},
    "tolerations": [
        {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"},
        {"key": "cloud.google.com/gke-spot", "operator": "Equal", "value": "true", "effect": "NoSchedule"},
    ],
    "env": [{"name": "NCCL_IB_HCA", "value": "mlx5"}, {"name": "NCCL_SOCKET_IFNAME", "value": "eth0"}],
    "volumes": [
        {"name": "private-llm-training", "persistentVolumeClaim": {"claimName": "private-llm-training"}},
    ],
    "volume_mounts": [{"name": "private-llm-training", "mountPath": "/training"}],
}
KEY = {"name": "AWS_ACCESS_KEY_ID", "valueFrom": {"secretKeyRef": {"name": "bucket", "key": "id", "optional": True}}}
ON_ITS_OWN_DISK: dict[str, Any] = {
    **H100,
    "env": [KEY],
    "volumes": [{"name": "training", "emptyDir": {"sizeLimit": "400Gi"}}],
    "volume_mounts": [{"name": "training", "mountPath": "/training"}],
    "affinity": {
        "nodeAffinity": {
            "preferredDuringSchedulingIgnoredDuringExecution": [
                {"weight": 50, "preference": {"matchExpressions": [{"key": "fast-network", "operator": "Exists"}]}}
            ]
        }
    },
}
TRAINING = Training(
    image="registry.example/private-llm/train:0.1.0",
    command=("python", "-m", "components.train", "--config", "/training/runs/x/config.json"),
    nodes=2,
    processes=0,
    env={"PRIVATE_LLM_CACHE": "/training/cache"},
    key="0123456789abcdef0123456789abcdef",
    dataset_digest="6d1f",
    pipeline="private-llm",
    task_config=H100,
    image_pull_secrets=("registry",),
)
SETTINGS = JobSettings(queue="gpus", priority="low", shared_memory="64Gi", resources={"rdma/hca": "8"})


def schema() -> dict[str, Any]:
    if not SCHEMA.is_file():
        pytest.skip(f"no schemas beside the repository ({SCHEMA.name})")
    versions = yaml.safe_load(SCHEMA.read_text(encoding="utf-8"))["spec"]["versions"]
    checked: dict[str, Any] = strict(versions[0]["schema"]["openAPIV3Schema"])
    return checked


def strict(node: Any) -> Any:
    """A schema that refuses every field it does not name."""
    if isinstance(node, list):
        return [strict(inner) for inner in node]
    if not isinstance(node, dict):
        return node
    node = {name: strict(inner) for name, inner in node.items()}
    if "properties" in node and node["properties"] and "additionalProperties" not in node:
        node["additionalProperties"] = False
    return node


def test_two_nodes_of_eight_h100_on_spot_capacity() -> None:
    assert_golden("trainjob_2x8_h100_spot.yaml", yaml.safe_dump(train_job(RUN, TRAINING, SETTINGS), sort_keys=False))


@pytest.mark.parametrize(
    ("training", "settings"),
    [
        (TRAINING, SETTINGS),
        (replace(TRAINING, task_config={}, image_pull_secrets=()), JobSettings(shared_memory="")),
        (
            replace(
                TRAINING, task_config=ON_ITS_OWN_DISK, requests={"ephemeral-storage": "400Gi"}, secrets=("bucket",)
            ),
            JobSettings(pod_annotations={"k8s.v1.cni.cncf.io/networks": "rdma-net"}),
        ),
    ],
    ids=["everything", "nothing", "an object store"],
)
def test_trainers_own_schema_accepts_the_job(training: Training, settings: JobSettings) -> None:
    validator = Draft202012Validator(schema())
    assert list(validator.iter_errors(train_job(RUN, training, settings))) == []
    wrong = train_job(RUN, training, settings)
    wrong["spec"]["trainer"]["numberOfNodes"] = 2
    assert [error.message for error in validator.iter_errors(wrong)], "the check must see an unknown field"


@pytest.mark.parametrize("gpu", ["nvidia.com/gpu", "amd.com/gpu", "nvidia.com/mig-3g.40gb"])
def test_processes_and_gpus_of_a_node_are_one_number(gpu: str) -> None:
    task = {"resources": {"limits": {"cpu": "8", gpu: "8"}}}
    for asked, expected in ((0, 8), (4, 4)):
        job = train_job(RUN, replace(TRAINING, task_config=task, processes=asked), JobSettings())
        trainer = job["spec"]["trainer"]
        assert trainer["numProcPerNode"] == expected
        assert (
            trainer["resourcesPerNode"]["limits"][gpu] == trainer["resourcesPerNode"]["requests"][gpu] == str(expected)
        )
    job = train_job(RUN, replace(TRAINING, task_config={}, processes=0), JobSettings())
    assert job["spec"]["trainer"]["numProcPerNode"] == 1


def test_the_name_is_the_runs_and_leaves_room_for_the_pods_names() -> None:
    name = train_job(RUN, TRAINING, SETTINGS)["metadata"]["name"]
    assert (
        name == train_job(replace(RUN, owner=None), replace(TRAINING, image="b:1"), JobSettings())["metadata"]["name"]
    )
    assert name != train_job(replace(RUN, run_id="another"), TRAINING, SETTINGS)["metadata"]["name"]
    assert len(f"{name}-node-0-0-abcde") <= 63


def test_what_the_server_adds_is_no_difference() -> None:
    asked = train_job(RUN, TRAINING, SETTINGS)
    found = copy.deepcopy(asked)
    spec = found["spec"]
    spec |= {"managedBy": "trainer.kubeflow.org/trainjob-controller", "suspend": True, "initializer": None}
    spec["trainer"]["resourcesPerNode"]["limits"] |= {"cpu": "96000m", "memory": 1500 * 2**30}
    spec["runtimePatches"][0] |= {"time": "2026-11-23T10:00:00Z"}
    spec["runtimePatches"].append({"manager": "kueue.x-k8s.io/manager", "trainingRuntimeSpec": {}})
    assert differences(asked, found) == []


def test_a_difference_is_shown_with_its_place() -> None:
    asked = train_job(RUN, TRAINING, SETTINGS)
    found = train_job(RUN, replace(TRAINING, image="other:2", nodes=4), replace(SETTINGS, shared_memory="1Gi"))
    shared = "spec.runtimePatches[0].trainingRuntimeSpec.template.spec.replicatedJobs[0].template.spec.template.spec"
    assert differences(asked, found) == [
        f"{shared}.volumes[1].emptyDir.sizeLimit: asked for 68719476736, found 1073741824",
        "spec.trainer.image: asked for registry.example/private-llm/train:0.1.0, found other:2",
        "spec.trainer.numNodes: asked for 2, found 4",
    ]
    del found["spec"]["trainer"]["env"]
    assert "spec.trainer.env[0].name: asked for PRIVATE_LLM_CACHE, found nothing" in differences(asked, found)


def test_what_a_trainjob_cannot_carry_is_refused() -> None:
    task = H100 | {"tolerations": [{"key": "a", "operator": "Exists", "tolerationMinutes": 3}]}
    with pytest.raises(TrainingError, match=r"a TrainJob cannot carry .*tolerationMinutes=3"):
        train_job(RUN, replace(TRAINING, task_config=task), SETTINGS)


def test_credentials_and_what_changes_with_each_try_stay_with_the_launcher() -> None:
    token = {"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": {"name": "private-llm-hub", "key": "token"}}}
    of_this_try = {"name": "MLFLOW_RUN_ID", "value": "5"}
    training = replace(TRAINING, task_config=H100 | {"env": [of_this_try, *reversed(H100["env"]), token]})
    assert train_job(RUN, training, SETTINGS) == train_job(RUN, TRAINING, SETTINGS)


def test_settings_survive_the_way_through_kfp() -> None:
    through_kfp = {
        name: float(value) if isinstance(value, int) else value for name, value in settings_as_values(SETTINGS).items()
    }
    assert settings_from(through_kfp) == SETTINGS
    assert attempt_of(train_job(RUN, TRAINING, SETTINGS, attempt=3)) == 3
    with pytest.raises(ParameterError, match="max_wait_hours=0 must be at least 1"):
        JobSettings(max_wait_hours=0)
