"""Manifests of launch/kubernetes: what they start is what launch/multi_node.sh takes, and published schemas fit."""

import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from sharded_emb import cli
from sharded_emb.config.run import RunConfig
from tests.cli.scratch import ROOT, Project

FOLDER = ROOT / "launch" / "kubernetes"
FILES = sorted(FOLDER.glob("*.yaml"))
OBJECTS = {(file.stem, each["kind"]): each for file in FILES for each in yaml.safe_load_all(file.read_text())}
JOB, SERVICE = OBJECTS["job", "Job"], OBJECTS["job", "Service"]
REPLICAS = OBJECTS["pytorchjob", "PyTorchJob"]["spec"]["pytorchReplicaSpecs"]
PODS = {
    "job": JOB["spec"]["template"]["spec"],
    **{f"pytorchjob {role}": replica["template"]["spec"] for role, replica in REPLICAS.items()},
}
# the lines of the script's header that name its variables
DOCUMENTED = set(re.findall(r"^#   ([A-Z]+) {2,}", (ROOT / "launch" / "multi_node.sh").read_text(), flags=re.MULTILINE))


def container(pod: dict[str, Any]) -> dict[str, Any]:
    (only,) = pod["containers"]
    found: dict[str, Any] = only
    return found


def variables(pod: dict[str, Any]) -> dict[str, str]:
    return {each["name"]: each["value"] for each in container(pod)["env"]}


@pytest.mark.parametrize("pod", PODS.values(), ids=PODS)
def test_a_pod_starts_what_the_launcher_takes(project: Project, pod: dict[str, Any]) -> None:
    interpreter, script, args = *container(pod)["command"], container(pod)["args"]
    assert (interpreter, script) == ("bash", "launch/multi_node.sh")
    assert len(DOCUMENTED) == 7
    assert set(variables(pod)) <= DOCUMENTED
    done = project.run(script, *args, **variables(pod))
    assert done.returncode == 0, done.stderr
    (line,) = project.started("-m torch.distributed.run")
    assert "--nnodes 2 --nproc-per-node 2 --max-restarts 3 --rdzv-backend c10d" in line
    assert f"--rdzv-endpoint {variables(pod)['RENDEZVOUS']} --rdzv-id {variables(pod)['JOB']} " in line
    assert line.endswith(f"-m sharded_emb.train {' '.join(args[1:])} resume=true")
    cli.compose_all("train", args[1:]).validated(RunConfig, files=False)


@pytest.mark.parametrize("pod", PODS.values(), ids=PODS)
def test_a_pod_is_not_root_has_time_to_save_and_writes_to_the_shared_volume(pod: dict[str, Any]) -> None:
    security = pod["securityContext"]
    assert (security["runAsNonRoot"], security["runAsUser"], security["fsGroup"]) == (True, 1000, 1000)
    assert pod["terminationGracePeriodSeconds"] > 30  # which torchrun allows its ranks
    mounts = {each["mountPath"]: each["name"] for each in container(pod)["volumeMounts"]}
    volumes = {each["name"]: each for each in pod["volumes"]}
    claim = OBJECTS["storage", "PersistentVolumeClaim"]
    assert volumes[mounts["/shared"]]["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    assert volumes[mounts["/dev/shm"]]["emptyDir"]["medium"] == "Memory"
    paths = dict(word.split("=") for word in container(pod)["args"] if word.startswith(("data=", "run=")))
    assert len(paths) == 2
    assert all(path.startswith("/shared/") for path in paths.values())


def test_pods_of_the_job_meet_at_its_first_pod_and_are_as_many_as_hosts() -> None:
    pod, spec, name = PODS["job"], JOB["spec"], JOB["metadata"]["name"]
    assert spec["completionMode"] == "Indexed"
    assert int(variables(pod)["HOSTS"]) == spec["completions"] == spec["parallelism"]
    assert variables(pod)["RENDEZVOUS"] == f"{name}-0.{pod['subdomain']}:{SERVICE['spec']['ports'][0]['port']}"
    assert pod["subdomain"] == SERVICE["metadata"]["name"]
    assert SERVICE["spec"]["selector"] == {"job-name": name}
    # pods meet before they are ready, and by their own addresses
    assert (SERVICE["spec"]["publishNotReadyAddresses"], SERVICE["spec"]["clusterIP"]) == (True, "None")


def test_pods_of_the_pytorchjob_meet_at_the_master_and_are_as_many_as_hosts() -> None:
    job = OBJECTS["pytorchjob", "PyTorchJob"]["metadata"]["name"]
    for pod in (replica["template"]["spec"] for replica in REPLICAS.values()):
        assert variables(pod)["RENDEZVOUS"].startswith(f"{job}-master-0:")
        assert int(variables(pod)["HOSTS"]) == sum(replica["replicas"] for replica in REPLICAS.values())
        assert container(pod)["name"] == "pytorch"  # by which the operator finds it


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_its_first_comment_is_its_command(file: Path) -> None:
    assert file.read_text().startswith(f"# kubectl apply -f launch/kubernetes/{file.name}\n#\n")


def has(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


@pytest.mark.skipif(not has("kubernetes_validate"), reason="the extra [checks] is not installed")
@pytest.mark.parametrize("key", [key for key in OBJECTS if key[1] != "PyTorchJob"], ids="-".join)
def test_objects_of_kubernetes_are_right_by_its_schemas(key: tuple[str, str]) -> None:
    import kubernetes_validate

    for version in kubernetes_validate.latest_version(), "1.29":
        kubernetes_validate.validate(OBJECTS[key], version, strict=True)


@pytest.mark.skipif(not has("kubeflow.training"), reason="the extra [checks] is not installed")
def test_the_pytorchjob_is_right_by_the_models_of_its_operator() -> None:
    found = list(unknown(OBJECTS["pytorchjob", "PyTorchJob"], "KubeflowOrgV1PyTorchJob", ""))
    assert found == []
    broken = {"spec": {"runPolicy": {"backofLimit": 1}, "pytorchReplicaSpecs": {"Master": {"replicas": "1"}}}}
    assert list(unknown(broken, "KubeflowOrgV1PyTorchJob", "")) == [
        ".spec.pytorchReplicaSpecs.Master.replicas: want int",
        ".spec.runPolicy.backofLimit: unknown",
    ]


def unknown(value: Any, kind: str, place: str) -> Any:
    """What a value has that a type of the operator's models has not, or has as another type."""
    from kubeflow.training import models
    from kubernetes.client import models as of_kubernetes

    if match := re.fullmatch(r"list\[(.*)\]", kind):
        for number, each in enumerate(value):
            yield from unknown(each, match[1], f"{place}[{number}]")
    elif match := re.fullmatch(r"dict\((.*), (.*)\)", kind):
        for key, each in value.items():
            yield from unknown(each, match[2], f"{place}.{key}")
    elif (model := getattr(models, kind, None) or getattr(of_kubernetes, kind, None)) is not None:
        by_key = {model.attribute_map[name]: name for name in model.attribute_map}
        for key in sorted(value):
            if key not in by_key:
                yield f"{place}.{key}: unknown"
            else:
                yield from unknown(value[key], model.openapi_types[by_key[key]], f"{place}.{key}")
    elif kind in ("int", "str", "bool") and not isinstance(value, {"int": int, "str": str, "bool": bool}[kind]):
        yield f"{place}: want {kind}"
