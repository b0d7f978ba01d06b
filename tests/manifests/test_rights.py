"""Who may do what: the launcher exactly what its code calls, training pods nothing, and everything else is closed."""

import re
from fnmatch import fnmatch
from urllib.parse import urlsplit

import pytest

from components.train.kubernetes import PERMISSIONS
from components.train.outcome import RESUME
from components.train.trainjob import NODE, JobSettings
from pipeline.kfp_glue import STEP_LABEL
from pipeline.parameters import Parameters
from pipeline.settings import STEPS, Storage, load
from tests.manifests.rendering import FOLDERS, MANIFESTS, ROOT, Object, job_of_runtime, of_kind, pod_templates, render

Grants = set[tuple[str, str, str]]
SHARED = {"overlays/kubeflow-profile": "default-editor", "overlays/kfp-standalone": "pipeline-runner"}
INTERNET = "0.0.0.0/0"
# RFC 1918, link-local, and the addresses of carriers (RFC 6598), which clouds give to pods and nodes.
NOT_PUBLIC = {"10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16", "100.64.0.0/10"}
ROW = r"^\| `(private-llm-.*?)` \| (.*?) \| `(.*?)`.*? \| (.*?) \|"  # role, API group, resource, verbs


def grants(role: Object) -> Grants:
    """(API group, resource, verb) of everything that a Role allows."""
    return {
        (group, resource, verb)
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def test_the_launcher_may_do_what_its_code_calls_and_nothing_else() -> None:
    called = {(group, resource, verb) for (group, resource), verbs in PERMISSIONS.items() for verb in verbs}
    assert grants(of_kind(render("base"), "Role")["private-llm-launcher"]) == called


def test_no_right_is_open_ended() -> None:
    for role in of_kind(render("base"), "Role").values():
        assert "*" not in {word for grant in grants(role) for word in grant}
        for rule in role["rules"]:
            if {"secrets", "configmaps"} & set(rule["resources"]):
                assert rule["resourceNames"]
                assert rule["verbs"] == ["get"]
    assert not [found for found in render("base") if found["kind"].startswith("Cluster")]


@pytest.mark.parametrize("folder", FOLDERS)
def test_only_the_account_of_runs_has_rights(folder: str) -> None:
    objects = render(folder)
    bound = {subject["name"] for binding in of_kind(objects, "RoleBinding").values() for subject in binding["subjects"]}
    assert bound == {SHARED.get(folder, "private-llm-launcher")}
    used = {template["spec"]["serviceAccountName"] for template in pod_templates(objects).values()}
    accounts = of_kind(objects, "ServiceAccount")
    assert used == {"private-llm-training", "mlflow"}
    assert not any(accounts[name]["automountServiceAccountToken"] for name in used)


def test_the_guide_lists_every_right() -> None:
    """The table in docs/installation.md, row by row."""
    text = (ROOT / "docs" / "installation.md").read_text(encoding="utf-8")
    listed: dict[str, Grants] = {}
    for role, group, resource, verbs in re.findall(ROW, text, re.MULTILINE):
        core = "" if group == "core" else group.strip("`")
        listed.setdefault(role, set()).update((core, resource, verb) for verb in verbs.split(", "))
    assert listed == {name: grants(role) for name, role in of_kind(render("base"), "Role").items()}


@pytest.mark.parametrize("folder", FOLDERS)
def test_nothing_goes_in_or_out_unless_named(folder: str) -> None:
    policies = of_kind(render(folder), "NetworkPolicy")
    ours = {"matchExpressions": [{"key": STEP_LABEL, "operator": "Exists"}]} if folder in SHARED else {}
    assert policies["default-deny"]["spec"] == {"podSelector": ours, "policyTypes": ["Ingress", "Egress"]}
    assert policies["mlflow"]["spec"]["policyTypes"] == ["Ingress", "Egress"]
    blocks = [
        (name, target["ipBlock"])
        for name, policy in policies.items()
        for rule in policy["spec"].get("egress", [])
        for target in rule["to"]
        if "ipBlock" in target
    ]
    open_to_all = {name for name, block in blocks if block["cidr"] == INTERNET}
    for _, block in blocks:
        if block["cidr"] == INTERNET:
            assert set(block["except"]) >= NOT_PUBLIC
    connected = {"overlays/gke", "overlays/eks", "overlays/aks"}
    allowed = {"hub", "cloud-artifacts"} if folder in connected else {"hub"} if folder == "overlays/kind" else set()
    assert open_to_all == allowed
    for policy in policies.values():
        for rule in [*policy["spec"].get("egress", []), *policy["spec"].get("ingress", [])]:
            assert rule.get("ports") or policy["metadata"]["name"] == "training-ranks"


@pytest.mark.parametrize("folder", FOLDERS)
def test_policies_and_budgets_select_steps_that_exist(folder: str) -> None:
    objects = render(folder)
    known = {*STEPS, *(template["metadata"]["labels"].get(STEP_LABEL) for template in pod_templates(objects).values())}
    selected = set(re.findall(r"'key': '" + STEP_LABEL + r"', 'operator': 'In', 'values': \[(.*?)\]", str(objects)))
    names = {name.strip("' ") for values in selected for name in values.split(",")}
    assert names
    assert names <= known


def test_training_pods_reach_each_other_and_dns_only() -> None:
    labels = job_of_runtime(render("base"))["spec"]["template"]["metadata"]["labels"]
    policies = of_kind(render("base"), "NetworkPolicy")
    reaching = {
        name
        for name, policy in policies.items()
        if policy["spec"]["podSelector"].get("matchLabels", {}).items() <= labels.items()
        and "matchExpressions" not in policy["spec"]["podSelector"]
    }
    assert reaching == {"default-deny", "dns", "training-ranks"}


def test_a_training_restarts_where_it_can_resume_and_fails_otherwise() -> None:
    """Exit code 75 and a disruption end the Job as PodFailurePolicy, which alone restarts the JobSet."""
    runtime = of_kind(render("base"), "TrainingRuntime")["private-llm"]["spec"]["template"]["spec"]
    job = job_of_runtime(render("base"))["spec"]
    assert [rule["action"] for rule in runtime["failurePolicy"]["rules"]] == ["RestartJobSet", "FailJobSet"]
    assert runtime["failurePolicy"]["rules"][0]["onJobFailureReasons"] == ["PodFailurePolicy"]
    assert job["podFailurePolicy"]["rules"] == [
        {"action": "FailJob", "onExitCodes": {"containerName": "node", "operator": "In", "values": [RESUME]}},
        {"action": "FailJob", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
    ]
    assert (job["backoffLimit"], job["template"]["spec"]["restartPolicy"]) == (0, "Never")
    assert job["template"]["spec"]["terminationGracePeriodSeconds"] > Parameters().grace_seconds


def test_what_a_trainjob_relies_on_is_there() -> None:
    """The names that the launcher and the manifests share; docs/cluster.md lists them."""
    job, storage = JobSettings(), Storage()
    assert job.runtime in of_kind(render("base"), "TrainingRuntime")
    claim = of_kind(render("base"), "PersistentVolumeClaim")[storage.claim]
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    pod = job_of_runtime(render("base"))["spec"]["template"]["spec"]
    assert [container["name"] for container in pod["containers"]] == [NODE]
    assert {mount["name"]: mount["mountPath"] for mount in pod["containers"][0]["volumeMounts"]} == {
        "tmp": "/tmp",
        "shared-memory": "/dev/shm",
    }
    assert pod["containers"][0]["terminationMessagePolicy"] == "FallbackToLogsOnError"
    queue = load(str(MANIFESTS / "overlays" / "kueue" / "profile.yaml")).trainjob.queue
    assert queue in of_kind(render("overlays/kueue"), "LocalQueue")


def test_the_registry_answers_to_the_name_that_runs_call_it_by() -> None:
    """MLflow refuses a request whose Host header matches none of these patterns."""
    (container,) = pod_templates(render("base"))["Deployment/mlflow"]["spec"]["containers"]
    (option,) = [argument for argument in container["args"] if argument.startswith("--allowed-hosts=")]
    patterns = option.partition("=")[2].split(",")
    called = urlsplit(Parameters().registry).netloc
    for host in (called, "mlflow.private-llm.svc.cluster.local:5000", "localhost:5000"):
        assert any(fnmatch(host, pattern) for pattern in patterns), host
    assert not any(fnmatch("evil.example:5000", pattern) for pattern in patterns)
    (port,) = of_kind(render("base"), "Service")["mlflow"]["spec"]["ports"]
    assert called == f"mlflow:{port['port']}"
