"""Everything under manifests/ renders and is what Kubernetes, Trainer and PodSecurity's restricted level accept."""

import json
import os
import re
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from pipeline.compile import compile_profile
from pipeline.settings import STEPS, load
from tests.golden import FOLDER
from tests.manifests.rendering import (
    FOLDERS,
    MANIFESTS,
    ROOT,
    Object,
    job_of_runtime,
    of_kind,
    patched,
    pod_templates,
    problems,
    render,
)

CLUSTER_WIDE = {"Namespace", "ClusterQueue", "ResourceFlavor"}
TEAM = """
namespace: team-a
resources: [{gke}]
images: [{{name: private-llm/train, newName: r.example/t, newTag: v2}}]
"""
POSTGRES = "resources: [{base}]\ncomponents: [{postgres}]\n"
OBJECT_STORE = "resources: [{gke}]\ncomponents: [{object_store}]\n"
SHARED = "resources: [{gke}]\ncomponents: [{postgres}, {shared}]\n"
WEBHOOK = "resources: [{base}]\ncomponents: [{webhook}]\n"


@pytest.fixture(params=FOLDERS)
def objects(request: pytest.FixtureRequest) -> tuple[Object, ...]:
    return render(request.param)


def user_overlay(folder: Path, text: str) -> tuple[Object, ...]:
    """What a user's own kustomization renders to; {names} in the text become paths into manifests/."""
    paths = {
        "base": os.path.relpath(MANIFESTS / "base", folder),
        "gke": os.path.relpath(MANIFESTS / "overlays" / "gke", folder),
        "shared": os.path.relpath(MANIFESTS / "components" / "shared-namespace", folder),
        "webhook": os.path.relpath(MANIFESTS / "components" / "webhook", folder),
        "postgres": os.path.relpath(MANIFESTS / "components" / "postgres", folder),
        "object_store": os.path.relpath(MANIFESTS / "components" / "object-store", folder),
    }
    header = "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\n"
    (folder / "kustomization.yaml").write_text(header + text.format(**paths), encoding="utf-8")
    return render(str(folder))


@cache
def validate(found: str, version: str) -> None:
    """Overlays have most objects in common; each is looked at once."""
    kubernetes_validate.validate(json.loads(found), version, strict=True)


@pytest.mark.parametrize(("folder", "version"), [("base", "1.30"), *((folder, "1.36") for folder in FOLDERS)])
def test_kubernetes_knows_every_field(folder: str, version: str) -> None:
    """Custom resources have their own definitions; Kueue's are not at hand here."""
    for found in (*render(folder), job_of_runtime(render(folder))):
        if "kubeflow.org" not in found["apiVersion"] and "x-k8s.io" not in found["apiVersion"]:
            validate(json.dumps(found), version)


def test_trainer_knows_every_field_of_the_runtime(objects: tuple[Object, ...]) -> None:
    runtime = of_kind(objects, "TrainingRuntime")["private-llm"]
    assert problems("trainer.kubeflow.org_trainingruntimes", runtime) == []
    jobset = {"apiVersion": "jobset.x-k8s.io/v1alpha2", "kind": "JobSet", "spec": runtime["spec"]["template"]["spec"]}
    assert problems("jobset.x-k8s.io_jobsets", jobset) == []
    (job,) = runtime["spec"]["template"]["spec"]["replicatedJobs"]
    assert (job["name"], job["replicas"]) == ("node", 1), "what Trainer's webhook asks for"
    assert job["template"]["metadata"]["labels"] == {"trainer.kubeflow.org/trainjob-ancestor-step": "trainer"}


def test_an_unknown_field_would_be_found() -> None:
    runtime = of_kind(render("base"), "TrainingRuntime")["private-llm"]
    broken = {**runtime, "spec": {**runtime["spec"], "mlPolicies": {}}}
    assert "mlPolicies" in problems("trainer.kubeflow.org_trainingruntimes", broken)[0]


def test_pods_meet_the_restricted_level_and_more(objects: tuple[Object, ...]) -> None:
    for name, template in pod_templates(objects).items():
        assert_restricted(name, template["spec"])


def test_a_training_pod_is_the_runtimes_with_what_its_trainjob_adds() -> None:
    """A run on 2 nodes with 8 GPUs each, merged with GKE's runtime."""
    job = yaml.safe_load((FOLDER / "trainjob_2x8_h100_spot.yaml").read_text(encoding="utf-8"))
    (patch,) = job["spec"]["runtimePatches"]
    (replicated,) = patch["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"]
    merged = patched(job_of_runtime(render("overlays/gke")), replicated["template"])
    validate(json.dumps(merged), "1.36")
    pod = merged["spec"]["template"]["spec"]
    assert_restricted("merged", pod)
    assert {mount["mountPath"] for mount in pod["containers"][0]["volumeMounts"]} == {"/training", "/tmp", "/dev/shm"}
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    assert len(volumes) == len(pod["volumes"]) == 3
    assert volumes["shared-memory"]["emptyDir"] == {"medium": "Memory", "sizeLimit": "64Gi"}


def assert_restricted(name: str, pod: dict[str, Any]) -> None:
    """PodSecurity's restricted level, and beyond it no token, no writable root and no unbounded container."""
    assert not {"hostNetwork", "hostPID", "hostIPC", "hostUsers"} & pod.keys(), name
    kinds = {next(iter(volume.keys() - {"name"})) for volume in pod["volumes"]}
    assert kinds <= {"emptyDir", "persistentVolumeClaim"}, name
    assert pod["securityContext"]["runAsNonRoot"] is True, name
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
    assert pod["automountServiceAccountToken"] is False, name
    for container in [*pod["containers"], *pod.get("initContainers", [])]:
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }, name
        assert_bounded(name, container)


def assert_bounded(name: str, container: dict[str, Any]) -> None:
    """Requests and limits of CPU and memory, and an image that cannot change unnoticed."""
    for bound in ("requests", "limits"):
        assert {"cpu", "memory"} <= container["resources"][bound].keys(), (name, bound)
    last = container["image"].rpartition("/")[2]
    assert "@sha256:" in last or (":" in last and not last.endswith(":latest")), (name, container["image"])


def test_every_object_lies_in_one_namespace(objects: tuple[Object, ...]) -> None:
    namespaces = {found["metadata"].get("namespace") for found in objects if found["kind"] not in CLUSTER_WIDE}
    assert len(namespaces) == 1
    assert None not in namespaces


def test_the_namespace_enforces_the_restricted_level() -> None:
    labels = of_kind(render("base"), "Namespace")["private-llm"]["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"


def test_another_namespace_and_other_images_take_everything_along(tmp_path: Path) -> None:
    objects = user_overlay(tmp_path, TEAM)
    assert {found["metadata"].get("namespace", "team-a") for found in objects} == {"team-a"}
    assert list(of_kind(objects, "Namespace")) == ["team-a"]
    for binding in of_kind(objects, "RoleBinding").values():
        assert {subject["namespace"] for subject in binding["subjects"]} == {"team-a"}
    (container,) = job_of_runtime(objects)["spec"]["template"]["spec"]["containers"]
    assert container["image"] == "r.example/t:v2"


def test_the_guides_examples_work(tmp_path: Path) -> None:
    guide = (ROOT / "docs" / "installation.md").read_text(encoding="utf-8")
    kustomization, profile = re.findall(r"```yaml\n(.*?)```", guide, re.DOTALL)
    (tmp_path / "profile.yaml").write_text(profile, encoding="utf-8")
    assert load(str(tmp_path / "profile.yaml")).timeouts["evaluate"] == 14400
    manifests = os.path.relpath(MANIFESTS, tmp_path)
    (tmp_path / "kustomization.yaml").write_text(kustomization.replace("../manifests", manifests), encoding="utf-8")
    objects = render(str(tmp_path))
    assert problems("trainer.kubeflow.org_trainingruntimes", of_kind(objects, "TrainingRuntime")["private-llm"]) == []
    assert job_of_runtime(objects)["spec"]["template"]["spec"]["priorityClassName"] == "training"


def test_postgres_takes_its_address_from_a_secret(tmp_path: Path) -> None:
    objects = user_overlay(tmp_path, POSTGRES)
    deployment = of_kind(objects, "Deployment")["mlflow"]
    validate(json.dumps(deployment), "1.36")
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    (uri,) = [entry for entry in container["env"] if entry["name"] == "MLFLOW_BACKEND_STORE_URI"]
    assert uri == {
        "name": "MLFLOW_BACKEND_STORE_URI",
        "valueFrom": {"secretKeyRef": {"name": "private-llm-postgres", "key": "uri"}},
    }


def test_an_object_store_takes_the_place_of_the_claim(tmp_path: Path) -> None:
    objects = user_overlay(tmp_path, OBJECT_STORE)
    assert set(of_kind(objects, "PersistentVolumeClaim")) == {"private-llm-mlflow"}
    assert not of_kind(objects, "Job")
    policy = of_kind(objects, "NetworkPolicy")["training-object-store"]
    validate(json.dumps(policy), "1.36")
    assert policy["metadata"]["namespace"] == "private-llm"
    pods = job_of_runtime(objects)["spec"]["template"]
    assert policy["spec"]["podSelector"]["matchLabels"].items() <= pods["metadata"]["labels"].items()
    assert {port["port"] for rule in policy["spec"]["egress"] for port in rule["ports"]} == {80, 443, 988, 8333, 9000}


def test_a_shared_namespace_closes_off_this_pipelines_pods_alone(tmp_path: Path) -> None:
    """KFP's drivers and other pipelines' pods, its servers, and what stands for DNS."""
    policies = of_kind(user_overlay(tmp_path, SHARED), "NetworkPolicy")
    driver = {"pipelines.kubeflow.org/v2_component": "true", "pipeline/runid": "1"}
    assert chosen(policies, driver) == chosen(policies, {"app": "ml-pipeline"}) == set()
    step = chosen(policies, {**driver, "private-llm/step": "split"})
    dns = {"dns", "gke-cloud-dns"}
    assert step == {"default-deny", "pipeline-pods", "cloud-artifacts", "gke-metadata", *dns}
    assert chosen(policies, {"private-llm/step": "training"}) == {"default-deny", "training-ranks", *dns}
    mlflow = [policies[name] for name in chosen(policies, {"app.kubernetes.io/name": "mlflow"})]
    ports = {port["port"] for policy in mlflow for rule in policy["spec"].get("egress", []) for port in rule["ports"]}
    assert ports == {53, 5432}


def chosen(policies: dict[str, Object], labels: dict[str, str]) -> set[str]:
    """The policies that select a pod of these labels."""

    def fits(selector: Object) -> bool:
        found = [
            {
                "Exists": expression["key"] in labels,
                "In": labels.get(expression["key"]) in expression.get("values", []),
                "NotIn": labels.get(expression["key"]) not in expression.get("values", []),
            }[expression["operator"]]
            for expression in selector.get("matchExpressions", [])
        ]
        return all(found) and selector.get("matchLabels", {}).items() <= labels.items()

    return {name for name, policy in policies.items() if fits(policy["spec"]["podSelector"])}


def test_kfps_store_lets_in_the_runs_of_another_namespace() -> None:
    policy = yaml.safe_load((MANIFESTS / "kubeflow-artifacts.yaml").read_text(encoding="utf-8"))
    validate(json.dumps(policy), "1.36")
    (namespace,) = of_kind(render("base"), "Namespace")
    (rule,) = policy["spec"]["ingress"]
    for source in rule["from"]:
        assert source["namespaceSelector"]["matchLabels"] == {"kubernetes.io/metadata.name": namespace}


def test_the_webhook_is_reached_by_the_step_that_reports_alone(tmp_path: Path) -> None:
    added = of_kind(user_overlay(tmp_path, WEBHOOK), "NetworkPolicy")["webhook"]
    validate(json.dumps(added), "1.36")
    assert added["spec"]["podSelector"] == {"matchLabels": {"private-llm/step": "notify"}}
    (rule,) = added["spec"]["egress"]
    assert rule["ports"] == [{"port": 443, "protocol": "TCP"}]
    assert "webhook" not in of_kind(render("base"), "NetworkPolicy")


@pytest.mark.parametrize(("overlay", "namespace"), [("kubeflow-profile", "team-a"), ("kfp-standalone", "kubeflow")])
def test_a_shared_namespace_keeps_its_own_labels_and_accounts(overlay: str, namespace: str) -> None:
    objects = render(f"overlays/{overlay}")
    assert {found["metadata"]["namespace"] for found in objects} == {namespace}
    assert set(of_kind(objects, "ServiceAccount")) == {"private-llm-training", "mlflow"}
    (binding,) = of_kind(objects, "RoleBinding").values()
    assert [subject["namespace"] for subject in binding["subjects"]] == [namespace]


@pytest.mark.parametrize(
    ("overlay", "classes", "taints"),
    [
        ("gke", ["premium-rwo", "standard-rwx"], ["nvidia.com/gpu", "cloud.google.com/gke-spot"]),
        ("eks", ["gp3", "efs-sc"], ["nvidia.com/gpu"]),
        ("aks", ["managed-csi-premium", "azurefile-csi-premium"], ["sku", "kubernetes.azure.com/scalesetpriority"]),
        ("on-prem", [None, "nfs-csi"], ["nvidia.com/gpu"]),
        ("kind", [None, None], []),
    ],
)
def test_an_overlay_brings_its_storage_and_taints(overlay: str, classes: list[str | None], taints: list[str]) -> None:
    objects = render(f"overlays/{overlay}")
    claims = of_kind(objects, "PersistentVolumeClaim")
    assert [claims[name]["spec"].get("storageClassName") for name in sorted(claims)] == classes
    tolerations = job_of_runtime(objects)["spec"]["template"]["spec"].get("tolerations", [])
    assert [toleration["key"] for toleration in tolerations] == taints


def with_images(overlay: str, folder: Path) -> str:
    """An overlay's profile with the images of an installation; in the overlay, some are placeholders."""
    path = folder / "profile.yaml"
    extended = MANIFESTS / "overlays" / overlay / "profile.yaml"
    path.write_text(f"extends: {extended}\ndata_image: r.example/d:1\ntrain_image: r.example/t:1\n", encoding="utf-8")
    return str(path)


@pytest.mark.parametrize("overlay", ["gke", "eks", "aks", "on-prem", "kueue", "kind"])
def test_an_overlays_profile_compiles_and_places_the_steps_that_want_gpus(overlay: str, tmp_path: Path) -> None:
    profile = with_images(overlay, tmp_path)
    assert ":latest" not in compile_profile(profile)
    settings = load(profile)
    assert set(settings.resources) == set(STEPS)
    gpu_steps = {step for step, wanted in settings.resources.items() if wanted.gpus}
    assert gpu_steps == ({"drift", "train", "evaluate"} if overlay != "kind" else set())
    assert set(settings.scheduling) == gpu_steps
    assert settings.launcher == "trainjob"
    assert set(settings.timeouts) == set(STEPS) - {"train"}


@pytest.mark.parametrize("overlay", ["gke", "eks", "aks", "on-prem", "kueue"])
def test_the_runtime_tolerates_what_the_profile_does(overlay: str, tmp_path: Path) -> None:
    """A TrainJob's tolerations replace the runtime's, so one list must not be shorter than the other."""
    settings = load(with_images(overlay, tmp_path))
    runtime = job_of_runtime(render(f"overlays/{overlay}"))["spec"]["template"]["spec"]["tolerations"]
    profile = [
        {name: value for name, value in asdict(taint).items() if value}
        for taint in settings.scheduling["train"].tolerations
    ]
    assert profile == runtime
