"""What is sent to a cluster: whole objects, the restricted level of Pod Security, and commands byte for byte."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from app.cluster.kubernetes.manifests import (
    GpuType,
    Impossible,
    KubernetesSettings,
    as_yaml,
    job_manifest,
    literal,
    manifests,
    service_manifest,
)
from app.cluster.protocol import Attempt, AttemptKey, JobSpec, Volume

SETTINGS = KubernetesSettings(
    namespace="team-a",
    gpu_types={
        "H100": GpuType.of_product("NVIDIA-H100-80GB-HBM3"),
        "A100": GpuType.of_product("NVIDIA-A100-SXM4-40GB"),
        "slice": GpuType("nvidia.com/mig-1g.10gb", {"nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3"}),
        "L4": GpuType(node_labels={"pool": "small", "gpu": "l4"}),
        "any": GpuType(),
    },
)
SPEC = JobSpec(
    image="registry.example/pytorch:2.9", command="python train.py", gpus=0, nodes=1, max_runtime=3600, cpu="4"
)


def attempt(**changes: Any) -> Attempt:
    spec = dataclasses.replace(SPEC, **changes)
    return Attempt(AttemptKey("k3v9x2ab", 1), "digits", "install-1", org="12", user="7", spec=spec)


def pod(changes: dict[str, Any] | None = None, **settings_changes: Any) -> dict[str, Any]:
    changed = dataclasses.replace(SETTINGS, **settings_changes)
    spec: dict[str, Any] = job_manifest(attempt(**changes or {}), changed)["spec"]["template"]["spec"]
    return spec


def environment(**changes: Any) -> dict[str, Any]:
    (container,) = pod(changes)["containers"]
    names = [each["name"] for each in container["env"]]
    assert len(names) == len(set(names))
    return {each["name"]: each.get("value", each.get("valueFrom")) for each in container["env"]}


LABELS = {
    "app.kubernetes.io/managed-by": "simpletrain",
    "app.kubernetes.io/part-of": "simpletrain",
    "app.kubernetes.io/component": "training-job",
    "simpletrain.io/instance": "install-1",
    "simpletrain.io/job": "k3v9x2ab",
    "simpletrain.io/attempt": "1",
    "simpletrain.io/org": "12",
    "simpletrain.io/user": "7",
}
RANK = {"fieldRef": {"fieldPath": "metadata.labels['batch.kubernetes.io/job-completion-index']"}}
FAIL_WHEN_TAKEN_AWAY = {
    "rules": [{"action": "FailJob", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}]
}


def test_a_job_without_gpus_on_one_node() -> None:
    assert job_manifest(attempt(), SETTINGS) == {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": "r-digits-k3v9x2ab-a1",
            "namespace": "team-a",
            "labels": LABELS,
            "annotations": {"simpletrain.io/job-name": "digits"},
        },
        "spec": {
            "completionMode": "Indexed",
            "completions": 1,
            "parallelism": 1,
            "backoffLimit": 0,
            "podReplacementPolicy": "Failed",
            "podFailurePolicy": FAIL_WHEN_TAKEN_AWAY,
            "ttlSecondsAfterFinished": 604800,
            "template": {
                "metadata": {"labels": LABELS, "annotations": {"simpletrain.io/job-name": "digits"}},
                "spec": {
                    "restartPolicy": "Never",
                    "terminationGracePeriodSeconds": 60,
                    "activeDeadlineSeconds": 3600 + 86400,
                    "enableServiceLinks": False,
                    "automountServiceAccountToken": False,
                    "securityContext": {
                        "runAsNonRoot": True,
                        "runAsUser": 1000,
                        "runAsGroup": 1000,
                        "seccompProfile": {"type": "RuntimeDefault"},
                        "fsGroup": 1000,
                        "fsGroupChangePolicy": "OnRootMismatch",
                    },
                    "containers": [
                        {
                            "name": "main",
                            "image": "registry.example/pytorch:2.9",
                            "command": ["/bin/sh", "-c", "python train.py"],
                            "env": [
                                {"name": "HOME", "value": "/tmp"},
                                {"name": "USER", "value": "user"},
                                {"name": "PYTHONUNBUFFERED", "value": "1"},
                                {"name": "SIMPLETRAIN_JOB", "value": "digits"},
                                {"name": "SIMPLETRAIN_ATTEMPT", "value": "1"},
                                {"name": "NODES", "value": "1"},
                                {"name": "NNODES", "value": "1"},
                                {"name": "NODE_RANK", "valueFrom": RANK},
                                {"name": "WORLD_SIZE", "value": "1"},
                                {"name": "RANK", "valueFrom": RANK},
                                {"name": "GPUS", "value": "0"},
                                {"name": "MASTER_ADDR", "value": "127.0.0.1"},
                                {"name": "MASTER_PORT", "value": "29500"},
                                {"name": "NVIDIA_VISIBLE_DEVICES", "value": "void"},
                            ],
                            "resources": {
                                "requests": {"cpu": "4", "memory": "1Gi"},
                                "limits": {"memory": "1Gi"},
                            },
                            "securityContext": {
                                "allowPrivilegeEscalation": False,
                                "capabilities": {"drop": ["ALL"]},
                            },
                            "terminationMessagePolicy": "FallbackToLogsOnError",
                            "volumeMounts": [
                                {"name": "shm", "mountPath": "/dev/shm"},
                                {"name": "tmp", "mountPath": "/tmp"},
                            ],
                        }
                    ],
                    "volumes": [
                        {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "1Gi"}},
                        {"name": "tmp", "emptyDir": {}},
                    ],
                },
            },
        },
    }


def test_the_service_of_a_gang_gives_its_ranks_names_before_they_are_ready() -> None:
    assert service_manifest(attempt(nodes=4), SETTINGS) == {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": "r-digits-k3v9x2ab-a1",
            "namespace": "team-a",
            "labels": LABELS,
            "annotations": {"simpletrain.io/job-name": "digits"},
        },
        "spec": {
            "clusterIP": "None",
            "publishNotReadyAddresses": True,
            "selector": {
                "simpletrain.io/instance": "install-1",
                "simpletrain.io/job": "k3v9x2ab",
                "simpletrain.io/attempt": "1",
            },
            "ports": [{"name": "rendezvous", "port": 29500, "protocol": "TCP"}],
        },
    }


def test_a_gang_with_gpus_finds_its_first_rank_by_name() -> None:
    changes = {"nodes": 4, "gpus": 8, "gpu_types": ("H100", "A100")}
    found = job_manifest(attempt(**changes), SETTINGS)
    assert found["spec"]["completions"] == found["spec"]["parallelism"] == 4
    assert found["metadata"]["annotations"]["simpletrain.io/gpu-types"] == "H100,A100"
    spec = found["spec"]["template"]["spec"]
    assert spec["subdomain"] == "r-digits-k3v9x2ab-a1"
    assert spec["tolerations"] == [{"key": "nvidia.com/gpu", "operator": "Exists"}]
    assert spec["containers"][0]["resources"] == {
        "requests": {"cpu": "4", "memory": "1Gi", "nvidia.com/gpu": "8"},
        "limits": {"memory": "1Gi", "nvidia.com/gpu": "8"},
    }
    seen = environment(**changes)
    assert seen["MASTER_ADDR"] == "r-digits-k3v9x2ab-a1-0.r-digits-k3v9x2ab-a1"
    assert (seen["NNODES"], seen["WORLD_SIZE"], seen["GPUS"]) == ("4", "4", "8")
    assert seen["NODE_RANK"] == seen["RANK"] == RANK
    assert "NVIDIA_VISIBLE_DEVICES" not in seen


PRODUCT = "nvidia.com/gpu.product"


def terms(*types: str) -> Any:
    affinity = pod({"gpus": 1, "gpu_types": types}).get("affinity")
    if affinity is None:
        return None
    return affinity["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]


def expression(key: str, *values: str) -> dict[str, Any]:
    return {"key": key, "operator": "In", "values": list(values)}


H100, A100 = "NVIDIA-H100-80GB-HBM3", "NVIDIA-A100-SXM4-40GB"


@pytest.mark.parametrize(
    ("types", "wanted"),
    [
        ((), None),
        (("any",), None),
        (("H100", "any"), None),
        (("H100",), [{"matchExpressions": [expression(PRODUCT, H100)]}]),
        (("H100", "A100"), [{"matchExpressions": [expression(PRODUCT, H100, A100)]}]),
        (("L4",), [{"matchExpressions": [expression("pool", "small"), expression("gpu", "l4")]}]),
        (
            ("H100", "L4"),
            [
                {"matchExpressions": [expression(PRODUCT, H100)]},
                {"matchExpressions": [expression("pool", "small"), expression("gpu", "l4")]},
            ],
        ),
    ],
)
def test_gpu_types_become_a_choice_of_nodes(types: tuple[str, ...], wanted: Any) -> None:
    assert terms(*types) == wanted


def test_a_slice_is_asked_for_by_its_own_resource() -> None:
    resources = pod({"gpus": 2, "gpu_types": ("slice",)})["containers"][0]["resources"]
    assert resources["limits"]["nvidia.com/mig-1g.10gb"] == resources["requests"]["nvidia.com/mig-1g.10gb"] == "2"


@pytest.mark.parametrize(
    ("types", "sentence"),
    [
        (("B200",), "This cluster has no GPUs of type B200."),
        (("H100", "slice"), "On this cluster a job cannot ask for H100 or slice; choose one of them."),
    ],
)
def test_what_a_cluster_cannot_give_is_refused_with_a_sentence(types: tuple[str, ...], sentence: str) -> None:
    with pytest.raises(Impossible, match=re.escape(sentence)):
        manifests(attempt(gpus=1, gpu_types=types), SETTINGS)


def test_settings_of_the_cluster_shape_the_pod() -> None:
    spec = pod(
        priority_class="batch", image_pull_secrets=("one", "two"), run_as_user=4242, fs_group=None, grace=15, shm="2Gi"
    )
    assert spec["priorityClassName"] == "batch"
    assert spec["imagePullSecrets"] == [{"name": "one"}, {"name": "two"}]
    assert spec["securityContext"]["runAsUser"] == 4242
    assert "fsGroup" not in spec["securityContext"]
    assert spec["terminationGracePeriodSeconds"] == 15
    assert spec["volumes"][0]["emptyDir"]["sizeLimit"] == "2Gi"


def test_a_queue_is_a_label_of_the_job_and_not_of_its_pods() -> None:
    found = job_manifest(attempt(), dataclasses.replace(SETTINGS, queue="gpus"))
    assert found["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "gpus"
    assert "kueue.x-k8s.io/queue-name" not in found["spec"]["template"]["metadata"]["labels"]
    assert "suspend" not in found["spec"]


def test_the_backstop_stays_a_number_that_kubernetes_takes() -> None:
    assert pod({"max_runtime": 10**12})["activeDeadlineSeconds"] == 2**31 - 1


def test_a_claim_that_is_mounted_twice_is_one_volume() -> None:
    volumes = (Volume("data", "/data", read_only=True), Volume("data", "/out"), Volume("models.v2", "/m", True))
    spec = pod({"volumes": volumes})
    assert spec["volumes"][2:] == [
        {"name": "claim-0", "persistentVolumeClaim": {"claimName": "data"}},
        {"name": "claim-1", "persistentVolumeClaim": {"claimName": "models.v2", "readOnly": True}},
    ]
    assert spec["containers"][0]["volumeMounts"][2:] == [
        {"name": "claim-0", "mountPath": "/data", "readOnly": True},
        {"name": "claim-0", "mountPath": "/out"},
        {"name": "claim-1", "mountPath": "/m", "readOnly": True},
    ]
    seen = environment(volumes=volumes)
    assert (seen["SIMPLETRAIN_VOLUME_DATA"], seen["SIMPLETRAIN_VOLUME_MODELS_V2"]) == ("/data", "/m")


@pytest.mark.parametrize("path", ["/tmp", "/tmp/", "/dev/shm"])
def test_a_volume_takes_the_place_of_ours_at_the_same_path(path: str) -> None:
    mounts = pod({"volumes": (Volume("scratch", path),)})["containers"][0]["volumeMounts"]
    paths = [mount["mountPath"].rstrip("/") for mount in mounts]
    assert len(paths) == len(set(paths)) == 2


def test_the_jobs_own_variables_win() -> None:
    seen = environment(env={"HOME": "/data", "RANK": "7", "MINE": "x"})
    assert (seen["HOME"], seen["RANK"], seen["MINE"]) == ("/data", "7", "x")
    assert list(seen)[-1] == "MINE"


def test_the_service_comes_before_the_job_that_needs_its_names() -> None:
    assert [each["kind"] for each in manifests(attempt(nodes=2), SETTINGS)] == ["Service", "Job"]
    assert [each["kind"] for each in manifests(attempt(), SETTINGS)] == ["Job"]


def test_the_hash_is_the_same_on_all_objects_and_follows_the_spec() -> None:
    def hashes(**changes: Any) -> set[str]:
        found = manifests(attempt(nodes=2, **changes), SETTINGS)
        return {each["metadata"]["annotations"]["simpletrain.io/spec-hash"] for each in found}

    (one,) = hashes()
    assert re.fullmatch("[0-9a-f]{64}", one)
    assert hashes() == {one}
    assert hashes(env={"A": "1", "B": "2"}) != hashes(env={"A": "1", "B": "3"})
    assert hashes(command=("python", "train.py")) != {one}


# commands and variables arrive byte for byte


def expand(text: str, env: dict[str, str], runes: bool = True) -> str:
    """Kubernetes' third_party/forked/golang/expansion, line by line; without `runes` as it was when it took bytes."""
    data, out, checkpoint, cursor = text.encode(), b"", 0, 0
    while cursor < len(data):
        if data[cursor : cursor + 1] == b"$" and cursor + 1 < len(data):
            out += data[checkpoint:cursor]
            rest = data[cursor + 1 :]
            if rest[:1] == b"$":
                out, advance = out + b"$", 1
            elif rest[:1] == b"(" and b")" in rest:
                end = rest.index(b")")
                name = rest[1:end].decode()
                out += env.get(name, f"$({name})").encode()
                advance = end + 1
            elif rest[:1] == b"(":
                out, advance = out + b"$(", 1
            elif runes:
                first = rest.decode()[0].encode()
                out, advance = out + b"$" + first, len(first)
            else:
                out, advance = out + b"$" + chr(rest[0]).encode(), 1
            cursor += advance
            checkpoint = cursor + 1
        cursor += 1
    return (out + data[checkpoint:]).decode(errors="replace")


LITERALS = [
    ("", ""),
    ("echo hello", "echo hello"),
    ("echo $HOME ${HOME} $1 $", "echo $HOME ${HOME} $1 $"),
    ("echo $(date)", "echo $$(date)"),
    ("echo $(RANK)", "echo $$(RANK)"),
    ("echo $(( 1 + 2 ))", "echo $$(( 1 + 2 ))"),
    ("echo $(unclosed", "echo $$(unclosed"),
    ("kill $$", "kill $$$"),
    ("echo $$$", "echo $$$$$"),
    ("echo $$(RANK)", "echo $$$$(RANK)"),
    ("echo $$$(RANK)", "echo $$$$$$(RANK)"),
    ("grep 'a$' | awk '{print $1}'", "grep 'a$' | awk '{print $1}'"),
    ("echo $é $中", "echo $$é $$中"),
    ("$", "$"),
    ("$\n$(x)\n", "$\n$$(x)\n"),
]


@pytest.mark.parametrize(("text", "written"), LITERALS)
def test_a_dollar_is_doubled_where_kubernetes_would_take_it(text: str, written: str) -> None:
    assert literal(text) == written
    assert expand(written, {"RANK": "0", "date": "never"}) == text


@settings(max_examples=500)
@given(st.text("$()RANK é中a\n") | st.text())
def test_every_text_arrives_as_it_was_written(text: str) -> None:
    env = {"RANK": "0", "": "empty", "A": "$(A)"}
    assert expand(literal(text), env) == expand(literal(text), env, runes=False) == text


def test_commands_and_values_are_written_so() -> None:
    text = "a=$(hostname); echo $$ $a"
    (container,) = pod({"command": text, "env": {"X": "$(RANK)$$"}})["containers"]
    assert container["command"] == ["/bin/sh", "-c", "a=$$(hostname); echo $$$ $a"]
    assert container["env"][-1] == {"name": "X", "value": "$$(RANK)$$$"}
    (container,) = pod({"command": ("printf", "%s", "$(RANK)", "")})["containers"]
    assert container["command"] == ["printf", "%s", "$$(RANK)", ""]
    assert "args" not in container


# Pod Security, level restricted, after kubernetes.io/docs/concepts/security/pod-security-standards

VOLUME_KINDS = {
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "persistentVolumeClaim",
    "projected",
    "secret",
}


def violations(spec: dict[str, Any]) -> Iterator[str]:
    """Every rule of the baseline and the restricted level that a pod of a Linux node breaks."""
    of_pod = spec.get("securityContext", {})
    for name in ("hostNetwork", "hostPID", "hostIPC"):
        if spec.get(name):
            yield name
    if of_pod.get("sysctls") or of_pod.get("windowsOptions", {}).get("hostProcess"):
        yield "sysctls or hostProcess"
    for volume in spec.get("volumes", []):
        if set(volume) - {"name"} - VOLUME_KINDS:
            yield f"volume {volume}"
    containers = [*spec.get("initContainers", []), *spec["containers"], *spec.get("ephemeralContainers", [])]
    for container in containers:
        own = container.get("securityContext", {})
        merged = {**of_pod, **own}
        if own.get("privileged") or own.get("procMount", "Default") != "Default":
            yield "privileged or procMount"
        if own.get("allowPrivilegeEscalation") is not False:
            yield "allowPrivilegeEscalation"
        if merged.get("runAsNonRoot") is not True:
            yield "runAsNonRoot"
        if merged.get("runAsUser") == 0:
            yield "runAsUser"
        if merged.get("seccompProfile", {}).get("type") not in {"RuntimeDefault", "Localhost"}:
            yield "seccompProfile"
        if merged.get("appArmorProfile", {}).get("type", "RuntimeDefault") not in {"RuntimeDefault", "Localhost"}:
            yield "appArmorProfile"
        if set(merged.get("seLinuxOptions", {})) & {"user", "role"}:
            yield "seLinuxOptions"
        capabilities = own.get("capabilities", {})
        if capabilities.get("drop") != ["ALL"] or set(capabilities.get("add", [])) - {"NET_BIND_SERVICE"}:
            yield "capabilities"
        if any("hostPort" in port for port in container.get("ports", [])):
            yield "hostPort"
        if any("host" in (container.get(probe) or {}).get("httpGet", {}) for probe in ("livenessProbe",)):
            yield "probe host"


specs = st.builds(
    attempt,
    image=st.text(min_size=1),
    command=st.text() | st.lists(st.text(), min_size=1).map(tuple),
    gpus=st.integers(0, 16),
    nodes=st.integers(1, 64),
    max_runtime=st.integers(1, 10**11),
    gpu_types=st.sampled_from([(), ("H100",), ("H100", "A100"), ("slice",), ("L4",)]),
    env=st.dictionaries(st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,20}", fullmatch=True), st.text(), max_size=4),
    volumes=st.lists(
        st.builds(Volume, st.sampled_from(["data", "out.v2"]), st.sampled_from(["/a", "/b", "/tmp"]), st.booleans()),
        max_size=3,
    ).map(tuple),
    shm=st.sampled_from(["", "2Gi"]),
)


@given(specs)
def test_every_pod_keeps_to_the_restricted_level(made: Attempt) -> None:
    for each in manifests(made, SETTINGS):
        if each["kind"] == "Job":
            assert list(violations(each["spec"]["template"]["spec"])) == []


def test_the_check_of_the_restricted_level_finds_what_it_looks_for() -> None:
    bare = {"containers": [{"name": "main"}], "hostPID": True, "volumes": [{"name": "x", "hostPath": {"path": "/"}}]}
    assert set(violations(bare)) >= {
        "hostPID", "allowPrivilegeEscalation", "runAsNonRoot", "seccompProfile", "capabilities"
    }  # fmt: skip


# YAML


def go_would_read_another_type(plain: str) -> bool:
    """Whether a YAML 1.1 or 1.2 reader may take an unquoted word for a number, a truth value, null or a date."""
    return re.fullmatch(r"(?i)y|n|yes|no|on|off|true|false|null|~|[-+.]?(\d.*|\.?inf|\.?nan)", plain) is not None


@pytest.mark.parametrize(
    "value",
    [
        "1e3", "0o17", "0x1F", "1_000", "12:30:45", "2026-11-24", ".5", "+1", "-", "~", "null", "y", "No", "on", "=",
        "<<", "", " ", "a: b",
        "a #b", "#", "- a", "{a}", "[a]", "&a", "*a", "!a", "|", ">", "%a", "@a", "`a`", "'", '"',
        "\ttab", "trailing ", " leading", "a\nb", "a\n", "\na", "a\n\n", "a \nb", "a\r\nb", "a\x85b", "a\u2028b",
        "\x07", "\x1b[31m", "\ufeff", "é中🙂", "\\n", "---", "...", "a\n---\nb", "x" * 500, "two words " * 40,
    ],
)  # fmt: skip
def test_yaml_keeps_a_string_that_string(value: str) -> None:
    written = as_yaml([{"kind": "Job", "value": value, "list": [value]}])
    assert list(yaml.safe_load_all(written)) == [{"kind": "Job", "value": value, "list": [value]}]
    plain = re.search(r"^value: ([^\"|\n]*)$", written, re.MULTILINE)
    assert not (plain and go_would_read_another_type(plain[1]))


@given(specs)
def test_yaml_reads_back_as_the_same_objects(made: Attempt) -> None:
    objects = manifests(made, SETTINGS)
    assert list(yaml.safe_load_all(as_yaml(objects))) == objects


def test_yaml_shows_a_script_as_it_was_written() -> None:
    script = "set -e\nfor i in 1 2; do\n  echo $i\ndone\n"
    written = as_yaml(manifests(attempt(command=script, nodes=2), SETTINGS))
    assert re.search(r"- \|\n +set -e\n +for i in 1 2; do\n +  echo \$i\n +done\n", written)
    assert written.startswith("apiVersion: v1\nkind: Service\nmetadata:\n  name: r-digits-k3v9x2ab-a1\n")
    assert written.count("\n---\n") == 1
    assert "&id" not in written


def test_objects_are_plain_json() -> None:
    objects = manifests(attempt(nodes=2, gpus=1), SETTINGS)
    assert json.loads(json.dumps(objects)) == objects
