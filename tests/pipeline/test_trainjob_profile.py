"""A profile with TrainJobs: the same pipeline, and what is set on the step that trains is found in its TrainJob."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from components.errors import ParameterError
from components.train.trainjob import Run, Training, settings_from, train_job
from pipeline.compile import compile_profile
from pipeline.settings import load

PROFILE = """
data_image: data:1
train_image: train:1
launcher: trainjob
image_pull_secrets: [registry]
resources:
  train: {cpu: "96", memory: 1500Gi, gpus: 8, gpu_type: nvidia.com/gpu}
scheduling:
  train:
    node_selector: {accelerator: h100}
    tolerations: [{key: spot, operator: Equal, value: "true", effect: NoSchedule}]
    node_affinity:
      - {key: topology.kubernetes.io/zone, values: [a, b]}
      - {key: gpu-generation, operator: Gt, values: ["8"]}
      - {key: fast-network, operator: Exists, weight: 50}
trainjob:
  pod_annotations: {kueue.x-k8s.io/podset-required-topology: block}
  queue: gpus
  resources: {rdma/hca: "8"}
  env: {NCCL_IB_HCA: mlx5}
  max_wait_hours: 48
"""


@pytest.fixture
def profile(tmp_path: Path) -> Path:
    path = tmp_path / "cluster.yaml"
    path.write_text(PROFILE)
    return path


def documents(profile: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The pipeline and its Kubernetes part."""
    spec, *platform = yaml.safe_load_all(compile_profile(profile))
    return spec, platform[0] if platform else {}


def by_kfps_driver(spec: dict[str, Any], platform: dict[str, Any]) -> dict[str, Any]:
    """What KFP's driver makes of the step's settings for dsl.TaskConfig (backend/src/v2/driver of KFP 2.17)."""
    passed = {entry["field"] for entry in spec["components"]["comp-train"]["taskConfigPassthroughs"]}
    container = spec["deploymentSpec"]["executors"]["exec-train"]["container"]
    given = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]["exec-train"]
    asked = container["resources"]
    limits = {"cpu": asked["resourceCpuLimit"], "memory": asked["resourceMemoryLimit"]}
    limits[asked["accelerator"]["resourceType"]] = asked["accelerator"]["resourceCount"]
    claims = [mount["constant"] for mount in given["pvcMount"]]
    whole: dict[str, tuple[str, Callable[[], Any]]] = {
        "resources": ("RESOURCES", lambda: {"limits": limits, "requests": {"cpu": asked["resourceCpuRequest"]}}),
        "env": ("ENV", lambda: container["env"]),
        "node_selector": ("KUBERNETES_NODE_SELECTOR", lambda: given["nodeSelector"]["labels"]),
        "affinity": ("KUBERNETES_AFFINITY", lambda: {"nodeAffinity": affinity(given["nodeAffinity"])}),
        "tolerations": ("KUBERNETES_TOLERATIONS", lambda: given["tolerations"]),
        "volumes": (
            "KUBERNETES_VOLUMES",
            lambda: [{"name": claim, "persistentVolumeClaim": {"claimName": claim}} for claim in claims],
        ),
        "volume_mounts": (
            "KUBERNETES_VOLUMES",
            lambda: [{"name": mount["constant"], "mountPath": mount["mountPath"]} for mount in given["pvcMount"]],
        ),
    }
    return {name: value() for name, (field, value) in whole.items() if field in passed}


def affinity(terms: list[dict[str, Any]]) -> dict[str, Any]:
    preferred = [
        {"weight": int(term["weight"]), "preference": {"matchExpressions": term["matchExpressions"]}}
        for term in terms
        if "weight" in term
    ]
    required = [{"matchExpressions": term["matchExpressions"]} for term in terms if "weight" not in term]
    return {
        "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": required},
        "preferredDuringSchedulingIgnoredDuringExecution": preferred,
    }


def tasks(spec: dict[str, Any]) -> dict[str, Any]:
    """Every task, wherever it stands in the pipeline."""
    groups = [spec["root"], *spec["components"].values()]
    return {name: task for group in groups if "dag" in group for name, task in group["dag"]["tasks"].items()}


def handed_over(spec: dict[str, Any]) -> dict[str, Any]:
    """The launcher parameter of the step."""
    inputs = tasks(spec)["train"]["inputs"]["parameters"]
    values: dict[str, Any] = inputs["launcher"]["runtimeValue"]["constant"]
    return values


def test_what_is_set_on_the_step_is_found_in_the_trainjob(profile: Path) -> None:
    spec, platform = documents(str(profile))
    launcher = handed_over(spec)
    training = Training(
        image=launcher["image"],
        command=("true",),
        nodes=2,
        processes=0,
        env={},
        key="k",
        dataset_digest="d",
        pipeline="private-llm",
        task_config=by_kfps_driver(spec, platform),
        image_pull_secrets=tuple(launcher["image_pull_secrets"]),
    )
    job = train_job(Run(namespace="ml", run_id="r"), training, settings_from(launcher))
    trainer, [patch] = job["spec"]["trainer"], job["spec"]["runtimePatches"]
    [replicated] = patch["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"]
    template = replicated["template"]["spec"]["template"]
    pods = template["spec"]
    assert template["metadata"]["annotations"] == {"kueue.x-k8s.io/podset-required-topology": "block"}
    near = pods["affinity"]["nodeAffinity"]
    assert near["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"] == [
        {
            "matchExpressions": [
                {"key": "topology.kubernetes.io/zone", "operator": "In", "values": ["a", "b"]},
                {"key": "gpu-generation", "operator": "Gt", "values": ["8"]},
            ]
        }
    ]
    assert near["preferredDuringSchedulingIgnoredDuringExecution"] == [
        {"weight": 50, "preference": {"matchExpressions": [{"key": "fast-network", "operator": "Exists"}]}}
    ]
    assert trainer["image"] == "train:1"
    assert trainer["numProcPerNode"] == 8
    assert trainer["resourcesPerNode"]["limits"] == {
        "cpu": "96",
        "memory": "1500Gi",
        "nvidia.com/gpu": "8",
        "rdma/hca": "8",
    }
    env = {entry["name"]: entry["value"] for entry in trainer["env"]}
    assert env["NCCL_IB_HCA"] == "mlx5"
    assert env["PRIVATE_LLM_CACHE"] == "/training/cache"
    assert pods["nodeSelector"] == {"accelerator": "h100"}
    assert pods["tolerations"] == [{"key": "spot", "operator": "Equal", "value": "true", "effect": "NoSchedule"}]
    assert {"name": "private-llm-training", "mountPath": "/training"} in pods["containers"][0]["volumeMounts"]
    assert pods["imagePullSecrets"] == [{"name": "registry"}]
    assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "gpus"
    assert job["spec"]["activeDeadlineSeconds"] == 3600 * (48 + 168)


def test_the_launchers_own_pod_gets_the_volumes_and_the_environment_alone(profile: Path) -> None:
    spec, _ = documents(str(profile))
    passed = spec["components"]["comp-train"]["taskConfigPassthroughs"]
    assert len(passed) == 6
    assert {entry["field"] for entry in passed if entry.get("applyToTask")} == {"ENV", "KUBERNETES_VOLUMES"}
    assert spec["deploymentSpec"]["executors"]["exec-train"]["container"]["image"] == "data:1"
    assert spec["deploymentSpec"]["executors"]["exec-evaluate"]["container"]["image"] == "train:1"


def test_only_what_touches_the_model_mounts_the_claim(profile: Path) -> None:
    _, platform = documents(str(profile))
    executors = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    mounting = {name for name, given in executors.items() if given.get("pvcMount")}
    assert mounting == {"exec-drift", "exec-train", "exec-evaluate", "exec-register"}


def test_with_an_object_store_nothing_mounts_a_claim(tmp_path: Path) -> None:
    path = tmp_path / "bucket.yaml"
    path.write_text(
        "extends: default\n"
        "storage: {uri: s3://bucket/llm, scratch: 400Gi, secret: private-llm-object-store}\n"
        "trainjob: {env: {NCCL_IB_HCA: mlx5}}\n"
    )
    spec, platform = documents(str(path))
    executors = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    assert not any("pvcMount" in given for given in executors.values())
    launcher = handed_over(spec)
    assert launcher["bucket"] == {"uri": "s3://bucket/llm", "scratch": "400Gi"}
    assert launcher["secrets"] == ["private-llm-object-store"]
    env = spec["deploymentSpec"]["executors"]["exec-train"]["container"]["env"]
    assert env == [{"name": "NCCL_IB_HCA", "value": "mlx5"}]
    for step in ("train", "evaluate", "register"):  # they read and write the store
        secrets = {entry["secretName"] for entry in executors[f"exec-{step}"]["secretAsEnv"]}
        assert "private-llm-object-store" in secrets


@pytest.fixture
def without(tmp_path: Path) -> Path:
    path = tmp_path / "own-pod.yaml"
    path.write_text("extends: default\nlauncher: local\n")
    return path


def test_without_trainjobs_the_step_trains_in_its_own_pod(without: Path) -> None:
    spec, platform = documents(str(without))
    assert handed_over(spec) == {}
    assert "taskConfigPassthroughs" not in spec["components"]["comp-train"]
    executors = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    assert not any("pvcMount" in given for given in executors.values())


def test_both_kinds_of_profile_give_the_same_steps(profile: Path, without: Path) -> None:
    here, there = (tasks(documents(str(name))[0]) for name in (without, profile))
    assert here.keys() == there.keys()
    for step, task in here.items():
        assert task["componentRef"] == there[step]["componentRef"]
        assert task.get("dependentTasks") == there[step].get("dependentTasks")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("launcher: mpi\n", "launcher='mpi' must be one of local, trainjob"),
        ("parameters: {num_nodes: 2}\n", "num_nodes=2 needs a profile with launcher: trainjob"),
        ("trainjob: {max_restarts: -1}\n", "trainjob: max_restarts=-1 must be at least 0"),
        ("trainjob: {gang: true}\n", "'gang' is unknown"),
        ("storage: {uri: bucket/llm}\n", "uri='bucket/llm' must name an object store's folder, such as s3://"),
        ("storage: {secret: keys}\n", "storage: secret='keys' must be one of the secrets of train: there are none"),
        ("scheduling: {train: {node_affinity: [{key: a}]}}\n", r"values=\[\] do not go with operator In"),
        ("scheduling: {train: {node_affinity: [{key: a, operator: has}]}}\n", "operator='has' is not allowed"),
        ("timeouts: {trian: 60}\n", "timeouts for unknown step 'trian'"),
        ("timeouts: {gate: 0}\n", "timeouts: gate=0 must be at least 1"),
        ("storage: {claim: 3}\n", "storage: claim: 3 must be of type str"),
    ],
)
def test_a_profile_that_cannot_work_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text("data_image: a:1\ntrain_image: b:1\n" + text)
    with pytest.raises(ParameterError, match=message):
        load(str(path))
