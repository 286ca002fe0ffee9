"""From the cluster's own words to sentences for people. Reads text only: what it is about, the caller knows."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from app.cluster.protocol import Code
from app.cluster.text import count

RAW_LIMIT = 1024  # bytes kept of the cluster's own words
_QUOTED_LIMIT = 200  # characters of them inside a sentence

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f\ud800-\udfff]")
_GPU = re.compile(r"(?:requests\.)?[a-z0-9.-]+\.[a-z]+/(?:gpu|mig-[a-z0-9.]+)(?:\.shared)?", re.ASCII)


def raw(said: str, from_end: bool = False) -> str:
    """At most 1 KiB of it, which any database takes and any page shows. Of a log, the end says most."""
    kept = _CONTROL.sub("\ufffd", said).strip()
    if len(kept.encode()) <= RAW_LIMIT:
        return kept
    room = RAW_LIMIT - len("…".encode())
    if from_end:
        return "…" + kept.encode()[-room:].decode(errors="ignore")
    return kept.encode()[:room].decode(errors="ignore") + "…"


def quoted(said: str) -> str:
    """A few of its words, on one line, to stand at the end of a sentence."""
    line = " ".join(_CONTROL.sub(" ", said).split()).rstrip(".")
    return line if len(line) <= _QUOTED_LIMIT else line[: _QUOTED_LIMIT - 1].rstrip() + "…"


def continued(sentence: str) -> str:
    """The sentence as it goes on behind a colon."""
    return sentence[:1].lower() + sentence[1:] if not sentence[1:2].isupper() else sentence


def amount(quantity: str) -> str:
    """64Gi → 64 GiB"""
    found = re.fullmatch(r"([0-9.]+)([kMGTPE]i?)?", quantity)
    if not found:
        return quantity
    return f"{found[1]} {found[2] or ''}{'B' if found[2] else 'bytes'}"


# no node takes a pod


def unschedulable(message: str, gpus: int, gpu_types: str) -> tuple[Code, str]:
    """Why the scheduler places a pod nowhere. How many nodes refuse for what changes all the time: it is left out."""
    # "0/12 nodes are available: 4 Insufficient nvidia.com/gpu, 8 node(s) had … . preemption: 0/12 nodes are …"
    said = message.split(" preemption:")[0]
    nodes = re.match(r"0/(\d+) nodes are available", said)
    if "no nodes available" in said or (nodes and nodes[1] == "0"):
        return Code.UNSCHEDULABLE, "The cluster has no node."
    checked = f" ({count(int(nodes[1]), 'node')} checked)" if nodes else ""
    of_type = f" of type {gpu_types}" if gpu_types else ""
    volume = _volume_in_the_way(said)
    if volume:
        return Code.VOLUME, volume
    short = re.findall(r"Insufficient ([^\s,]+?)[.,]?(?=\s|$)", said)
    if any(_GPU.fullmatch(each) for each in short):
        return (
            Code.NO_FREE_GPU,
            f"No node has {count(gpus, 'free GPU') if gpus else 'enough free GPUs'}{of_type}{checked}.",
        )
    if short:
        return Code.UNSCHEDULABLE, f"No node has enough free {_listed(_thing(each) for each in short)}{checked}."
    if "Too many pods" in said:
        return Code.UNSCHEDULABLE, f"Every node has as many pods as it may have{checked}."
    if "cannot allocate all claims" in said:
        return Code.NO_FREE_GPU, f"No node has the devices it asks for free{checked}."
    return Code.UNSCHEDULABLE, f"{_closed(said, of_type)}{checked}."


def _volume_in_the_way(said: str) -> str:
    claim = re.search(r'persistentvolumeclaim "([^"]+)" (not found|is being deleted|bound to non-existent)', said)
    if claim:
        how = {"not found": "does not exist", "is being deleted": "is being removed"}
        return f"The volume {claim[1]} {how.get(claim[2], 'has lost its storage')} in the cluster's namespace."
    if "unbound immediate PersistentVolumeClaims" in said:
        return "A volume that it uses has no storage yet."
    if "ReadWriteOncePod" in said:
        return "A volume that it uses belongs to another pod as long as that runs."
    if "volume node affinity conflict" in said or "no available volume zone" in said:
        return "A volume that it uses is out of reach of every node that could take it."
    if "non-existent pv" in said:
        return "A volume that it uses has lost its storage."
    return ""


def _closed(said: str, of_type: str) -> str:
    taint = re.search(r"untolerated taint \{([^}:=]+)", said)
    if taint:
        return f"The nodes that could take it are closed by a taint, {taint[1].strip()}"
    if "taint" in said:
        return "The nodes that could take it are closed by a taint"
    if "were unschedulable" in said:
        return "The nodes that could take it are closed for new pods, as before maintenance"
    if "node affinity/selector" in said:
        return f"No node has GPUs{of_type}" if of_type else "No node has the labels it asks for"
    if "exceed max volume count" in said:
        return "Every node has as many volumes as it can have"
    if "not enough free storage" in said or "did not have enough free storage" in said:
        return "No node has enough storage for a volume it uses"
    rest = re.sub(r"^0/\d+ nodes are available:?\s*|\b\d+ (?=node\(s\))", "", said)
    return f"No node takes it: {quoted(rest)}" if rest.strip() else "No node takes it"


def _thing(resource: str) -> str:
    plain = resource.removeprefix("requests.").removeprefix("limits.")
    if _GPU.fullmatch(plain):
        return "GPUs"
    return {"cpu": "CPU", "memory": "memory", "ephemeral-storage": "disk space"}.get(plain, plain)


def _listed(words: Iterable[str]) -> str:
    each = list(dict.fromkeys(words))
    return " and ".join([", ".join(each[:-1]), each[-1]]) if len(each) > 1 else "".join(each)


# no pod is made


def not_made(message: str) -> tuple[Code, str]:
    """Why the Job's pods are not even made: no pod exists then, and this event is all that tells."""
    said = message.removeprefix("Error creating: ")
    if "exceeded quota" in said:
        return Code.QUOTA, _quota(said)
    missing = re.search(r"must specify ([a-z0-9./-]+)", said)
    if missing:
        return Code.POLICY, f"The namespace's quota wants every pod to specify {missing[1]}, and this job's do not."
    rules = re.search(r'violates PodSecurity "([^"]*)": (.*)', said, re.DOTALL)
    if rules:
        names = re.sub(r"\s*\([^()]*(?:\([^()]*\)[^()]*)*\)", "", rules[2])
        return (
            Code.POLICY,
            f"The namespace's security level, {rules[1].split(':')[0]}, forbids its pods: {quoted(names)}.",
        )
    silent = re.search(r'failed calling webhook "([^"]+)"', said)
    if silent:
        return Code.POLICY, f"A check that the cluster makes before each pod does not answer ({silent[1]})."
    webhook = re.search(r'admission webhook "([^"]+)" denied the request:?\s*(.*)', said, re.DOTALL)
    if webhook:
        return Code.POLICY, _denied(webhook[1], webhook[2])
    policy = re.search(r"ValidatingAdmissionPolicy '([^']+)'.* denied request:?\s*(.*)", said, re.DOTALL)
    if policy:
        return Code.POLICY, _denied(policy[1], policy[2])
    priority = re.search(r"no PriorityClass with name (\S+) was found", said)
    if priority:
        return Code.POLICY, f"The cluster has no priority class {priority[1]}."
    limit = re.search(r"(?:maximum|minimum) .*? per (?:Container|Pod) is .*", said, re.DOTALL)
    if limit:
        return Code.POLICY, f"The namespace's limits forbid its pods: {quoted(limit[0].split('], ')[0].strip('[]'))}."
    if re.search(r"service ?account", said):
        return Code.POLICY, "The namespace has no service account for its pods yet."
    return Code.STARTING, f"The cluster does not make its pods: {quoted(said)}."


def _denied(rule: str, why: str) -> str:
    return f"A rule of the cluster ({rule}) forbids its pods{': ' + quoted(why) if why.strip() else ''}."


def _quota(said: str) -> str:
    found = re.search(r"requested: (.*?), used: (.*?), limited: (\S*)", said)
    if not found:
        return "The namespace's quota is full."
    asked, used, limited = (_amounts(each) for each in found.groups())
    full = [name for name in asked if name in used and name in limited]
    if not full:
        return "The namespace's quota is full."
    name = next((each for each in full if _GPU.fullmatch(each)), full[0])
    thing = _thing(name)
    return f"The namespace's quota of {thing} is full: {asked[name]} asked for, {used[name]} of {limited[name]} in use."


def _amounts(written: str) -> dict[str, str]:
    pairs = (each.split("=", 1) for each in written.split(",") if "=" in each)
    return {name.strip(): value for name, value in pairs}


# an image does not come


@dataclass(frozen=True, slots=True)
class ImageTrouble:
    text: str
    passes: bool  # by itself, often: worth waiting for


_BUSY = (
    r"toomanyrequests|rate.?limit|too many requests|\b429\b|timed? ?out|deadline exceeded|bad gateway|"
    r"service unavailable|gateway time|internal server error|\b50[0234]\b|connection (?:reset|refused)|no such host|"
    r"temporary failure|no route to host|network is unreachable|unexpected EOF|\bEOF\b|server misbehaving|"
    r"QPS exceeded|registryunavailable|broken pipe|use of closed"
)
_DENIED = r"unauthorized|authentication required|\b401\b|\b403\b|forbidden|denied|no basic auth|insufficient_scope"
_ABSENT = r"not found|manifest unknown|name unknown|does not exist|\b404\b"


def image(name: str, said: str) -> ImageTrouble:
    """Why an image is not there, from what the node says of it."""

    def has(pattern: str) -> bool:
        return re.search(pattern, said, re.IGNORECASE) is not None

    if has(_BUSY):
        return ImageTrouble(f"The registry of image {name} is busy or out of reach; the node tries again.", passes=True)
    if has("pull access denied|may require authorization|may require 'docker login'"):
        return ImageTrouble(f"Image {name} does not exist, or its registry wants a login.", passes=False)
    if has(_DENIED):
        return ImageTrouble(f"The registry refused the login for image {name}.", passes=False)
    if has("x509|certificate|http response to https"):
        return ImageTrouble(f"The node does not trust the registry of image {name}.", passes=False)
    if has("no match for platform|no matching manifest"):
        return ImageTrouble(f"Image {name} is not made for the node's kind of processor.", passes=False)
    if has("no space left"):
        return ImageTrouble(f"The node's disk has no room for image {name}.", passes=False)
    if has(_ABSENT):
        return ImageTrouble(f"Image {name} was not found.", passes=False)
    return ImageTrouble(f"Image {name} cannot be downloaded.", passes=False)


# a container cannot be made


def not_created(said: str) -> str:
    """Why a node does not make or start a container; empty where the words are not known."""
    absent = re.search(r'(secret|configmap) "([^"]+)" not found', said)
    if absent:
        kind = {"secret": "Secret", "configmap": "ConfigMap"}[absent[1]]
        return f"The {kind} {absent[2]} does not exist in the cluster's namespace."
    key = re.search(r"couldn't find key (\S+) in (Secret|ConfigMap) (?:[^/\s]+/)?(\S+)", said)
    if key:
        return f"The {key[2]} {key[3]} has no key {key[1]}."
    if "runAsNonRoot" in said or "run as root" in said:
        return "Its image runs as root, which the namespace forbids."
    command = re.search(r'exec: "([^"]*)": ([^:]*)', said)
    if command and ("not found" in command[2] or "stat " in command[2] or "no such file" in said):
        return f"The command {quoted(command[1])} was not found in the image."
    if command and "permission denied" in said:
        return f"The command {quoted(command[1])} is not executable in the image."
    if "exec format error" in said:
        return "The command is not made for the node's kind of processor."
    if "no command specified" in said:
        return "It has no command, and neither has its image."
    if "failed to reserve container name" in said or "deadline exceeded" in said.lower():
        return "The node takes long to make its container."
    return ""


def not_mounted(said: str, claims: dict[str, str], fallback: str = "") -> str:
    """Why a node waits for a volume. `claims`: the pod's volumes by their names in it."""
    if "Multi-Attach" in said:
        return "A volume that it uses is still held by another node."
    absent = re.search(r'(secret|configmap) "([^"]+)" not found', said)
    if absent:
        return not_created(said)
    names = re.findall(r'for volume "([^"]+)"', said) + re.findall(r"unmounted volumes=\[([^\]\s,]+)", said)
    known = [claims[name] for name in names if name in claims]
    volume = (known or [name for name in names if not name.startswith("kube-api-access")] or [fallback])[0]
    return f"It waits for the volume {volume}." if volume else "It waits for a volume."


# a pod is taken away


def disruption(kind: str, said: str, node: str) -> tuple[Code, str]:
    """What the cluster did to a pod, to stand behind `Rank 2 ` or `It `. None of this is the program's doing."""
    on = f"node {node}" if node else "its node"
    if kind == "PreemptionByScheduler":
        return Code.PREEMPTED, f"had to leave {on} to make room for a pod of higher priority"
    if kind == "EvictionByEvictionAPI":
        return Code.EVICTED, f"was evicted from {on}, as when a node is drained"
    if kind == "DeletionByTaintManager":
        return Code.NODE_LOST, f"had to leave {on}, which was lost or closed"
    if kind == "DeletionByDeviceTaintManager":
        return Code.NODE_LOST, f"had to leave {on}, one of whose devices was closed"
    if kind in {"DeletionByPodGC", "NodeLost"}:
        return Code.NODE_LOST, f"was lost together with {on}"
    if kind in {"Terminated", "Shutdown", "NodeShutdown"} or "shutdown" in said or "shutting down" in said:
        return Code.EVICTED, f"had to leave {on}, which was shut down"
    if "critical pod" in said or kind == "Preempting":
        return Code.PREEMPTED, f"had to leave {on} to make room for a pod of the system"
    if kind in {"Evicted", "TerminationByKubelet"}:
        return Code.EVICTED, f"was evicted: {_pressure(said, on)}"
    return Code.EVICTED, f"had to leave {on}"


def _pressure(said: str, on: str) -> str:
    volume = re.search(r'Usage of EmptyDir volume "([^"]+)" exceeds the limit "([^"]+)"', said)
    if volume:
        where = {"shm": "/dev/shm", "tmp": "/tmp"}.get(volume[1], f"the volume {volume[1]}")  # noqa: S108 - names
        return f"it wrote more than {amount(volume[2])} to {where}"
    storage = re.search(r'(?:total limit of containers|ephemeral storage limit) "?([0-9.]+[A-Za-z]*)', said)
    if storage:
        return f"it wrote more than {amount(storage[1])} to the node's disk"
    low = re.search(r"low on resource: ([a-z-]+)", said)
    if low:
        things = {"ephemeral-storage": "disk space", "inodes": "file entries on its disk", "pids": "process ids"}
        return f"{on} ran out of {things.get(low[1], low[1])}"
    pressure = re.search(r"(Memory|Disk|PID)Pressure", said)
    if pressure:
        return f"{on} ran out of {({'Memory': 'memory', 'Disk': 'disk space', 'PID': 'process ids'})[pressure[1]]}"
    return f"{on} needed what it used"


def rejected(kind: str, said: str, node: str) -> str | None:
    """Why a node turned a pod away that the scheduler had sent there, to stand behind `Rank 2 `; None: it did not."""
    on = f"node {node}" if node else "its node"
    if kind.startswith("OutOf"):
        return f"was turned away by {on}, which had too little {_short(kind.removeprefix('OutOf'))} left"
    if kind == "UnexpectedAdmissionError":
        device = (
            "whose devices were not all there" if "unavailable" in said or "Allocate failed" in said else "at its door"
        )
        return f"was turned away by {on}, {device}"
    if kind in {"NodeAffinity", "NodeSelectorMismatching", "TopologyAffinityError", "AdmissionError"}:
        return f"was turned away by {on}, which no longer fits what it asks for"
    return None


def _short(resource: str) -> str:
    return "GPU" if _GPU.fullmatch(resource) else _thing(resource)


# a program ended

MEANINGS = {
    126: "a command was found but is not executable",
    127: "a command was not found",
    134: "aborted, signal 6",
    135: "a bus error, signal 7; often /dev/shm is too small",
    136: "an arithmetic error, signal 8",
    137: "killed, signal 9; the cluster does not say why",
    139: "a bad memory access, signal 11",
    143: "asked to end, signal 15",
}


def exit_text(code: int) -> str:
    return f"exit code {code} ({MEANINGS[code]})" if code in MEANINGS else f"exit code {code}"
