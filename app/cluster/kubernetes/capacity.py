"""How many GPUs a cluster has, by type, and how many of them our pods hold. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from app.cluster.kubernetes.fields import Object, condition, items, mapping, text
from app.cluster.kubernetes.manifests import DEFAULT_GPU, GPU_TYPES, PRODUCT_LABEL, GpuType
from app.cluster.protocol import Capacity, GpuPool

ANY = "GPU"  # the type of those that say nothing about themselves


@dataclass(frozen=True, slots=True)
class Node:
    """What counts of a node; the object itself is long."""

    name: str
    labels: Mapping[str, str]
    allocatable: Mapping[str, int]  # extended resources
    usable: bool


@dataclass(slots=True)
class _Pool:
    total: int = 0
    used: int = 0
    free_by_node: dict[str, int] = field(default_factory=dict)


def node_of(found: Object) -> Node:
    return Node(
        name=text(found, "metadata", "name"),
        labels=mapping(found, "metadata", "labels"),
        allocatable=_whole_numbers(mapping(found, "status", "allocatable")),
        usable=bool(condition(found, "Ready")) and mapping(found, "spec").get("unschedulable") is not True,
    )


def capacity(
    nodes: Sequence[Node] | None,
    pods: Iterable[Object],
    types: Mapping[str, GpuType],
    totals: Mapping[str, int],
) -> Capacity:
    """`nodes` is None where the portal may not see them; then `totals`, the operator's word, holds."""
    pools: dict[str, _Pool] = {name: _Pool(total=0 if nodes is not None else total) for name, total in totals.items()}
    for name in types:
        pools.setdefault(name, _Pool())
    type_of_node: dict[str, str] = {}
    for node in nodes or ():
        name, resource = _type_of(node, types)
        count = node.allocatable.get(resource, 0)
        if not count:
            continue
        type_of_node[node.name] = name
        if node.usable:
            pool = pools.setdefault(name, _Pool())
            pool.total += count
            pool.free_by_node[node.name] = count
    resources = {kind.resource for kind in types.values()} | {DEFAULT_GPU}
    for pod in pods:
        where = text(pod, "spec", "nodeName")
        held = _gpus_of(pod, resources)
        if not held or not where or text(pod, "status", "phase") in ("Succeeded", "Failed"):
            continue
        told = text(pod, "metadata", "annotations", GPU_TYPES).partition(",")[0]
        pool = pools.setdefault(type_of_node.get(where) or told or next(iter(types), ANY), _Pool())
        pool.used += held
        if where in pool.free_by_node:
            pool.free_by_node[where] = max(0, pool.free_by_node[where] - held)
    return Capacity(
        gpus=tuple(_shown(name, pool, nodes is not None) for name, pool in sorted(pools.items())),
        nodes=sum(node.usable for node in nodes) if nodes is not None else None,
        sees_all_pods=False,
    )


def _shown(name: str, pool: _Pool, nodes_known: bool) -> GpuPool:
    free = sum(pool.free_by_node.values()) if nodes_known else max(0, pool.total - pool.used)
    most = max(pool.free_by_node.values(), default=0) if nodes_known else free
    return GpuPool(name, pool.total, pool.used, free, most)


def _type_of(node: Node, types: Mapping[str, GpuType]) -> tuple[str, str]:
    """The type with the most labels that the node has: a type without labels takes what no other does."""
    fitting = [
        (name, kind)
        for name, kind in types.items()
        if node.allocatable.get(kind.resource) and all(node.labels.get(k) == v for k, v in kind.node_labels.items())
    ]
    if fitting:
        name, kind = max(fitting, key=lambda each: len(each[1].node_labels))
        return name, kind.resource
    return str(node.labels.get(PRODUCT_LABEL) or ANY), DEFAULT_GPU


def _gpus_of(pod: Object, resources: set[str]) -> int:
    return sum(
        count
        for container in items(pod, "spec", "containers")
        for resource, count in _whole_numbers(mapping(container, "resources", "limits")).items()
        if resource in resources
    )


def _whole_numbers(quantities: Mapping[str, object]) -> dict[str, int]:
    """Devices are counted in whole numbers, so a quantity of them has no unit."""
    return {name: int(str(value)) for name, value in quantities.items() if "/" in name and str(value).isdecimal()}
