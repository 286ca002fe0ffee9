"""What the form's side says before anything is launched: what will run, where, and whether it starts at once."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import func, select

from app.cluster.protocol import JobSpec
from app.clusters import service as clusters
from app.clusters.service import ClusterKind, ClusterRow
from app.database import db
from app.jobs.models import Job, Wish
from app.jobs.request import LaunchRefused, LaunchRequest, allowed_clusters, fits_now, resolve
from app.jobs.states import State
from app.presets.service import PresetView


@dataclass(frozen=True, slots=True)
class Preview:
    tone: str  # good: starts now; warn: waits; bad: cannot run
    title: str
    text: str
    spec: JobSpec | None
    cluster: ClusterRow | None
    errors: dict[str, str]


@dataclass(frozen=True, slots=True)
class Limits:
    """What the form says beside a field before anyone breaks it."""

    gpus: str
    nodes: str
    cluster: str
    gpus_max: int


def preview(org_id: int, asked: LaunchRequest, preset: PresetView | None) -> Preview:
    try:
        spec, cluster = resolve(asked, preset, clusters.of_org(org_id))
    except LaunchRefused as refused:
        return Preview("bad", "This cannot run yet", "", None, None, refused.errors)
    ahead = _ahead(cluster.id, spec.gpus > 0)
    total = spec.gpus * spec.nodes
    free = free_text(cluster, spec.gpus > 0)
    if clusters.capacity(cluster) is None:
        return Preview("warn", f"Waits for {cluster.name}", "The worker has not looked at it yet.", spec, cluster, {})
    if clusters.silent_since(cluster):
        return Preview("warn", f"Waits for {cluster.name}", "It does not answer now.", spec, cluster, {})
    if fits_now(cluster, spec) and not ahead:
        return Preview("good", f"Starts now on {cluster.name}", free, spec, cluster, {})
    if ahead:
        others = "1 job waits" if ahead == 1 else f"{ahead} jobs wait"
        return Preview(
            "warn", f"Waits on {cluster.name}", f"{others} before it for the same. {free}", spec, cluster, {}
        )
    needs = f"It needs {total} GPU{'s' if total != 1 else ''}" if total else "It needs a free slot"
    return Preview("warn", f"Waits on {cluster.name}", f"{needs}. {free}", spec, cluster, {})


def limits(preset: PresetView, usable: list[ClusterRow]) -> Limits:
    content = preset.content
    most = content.gpus.max
    why = ""
    rows = allowed_clusters(preset, usable)
    totals = [max((pool.total for pool in seen.gpus), default=0) for row in rows if (seen := clusters.capacity(row))]
    if totals and max(totals) < most:
        most = max(totals)
        place = rows[0].name if len(rows) == 1 else "the largest cluster"
        why = f", {place} has {'no GPU' if most == 0 else most}"
    where = f"{len(rows)} of {len(usable)} fit" if len(usable) > 1 else ""
    return Limits(
        gpus=f"0 to {most}{why}" if most else f"none{why}" if why else "none, says the preset",
        nodes=f"1 to {content.nodes.max}" if content.nodes.max > 1 else "1, says the preset",
        cluster=where,
        gpus_max=most,
    )


@dataclass(frozen=True, slots=True)
class GpuChoice:
    """A type of GPU that the form offers."""

    type: str
    text: str
    refused: str  # why it cannot be chosen; empty: it can


def gpu_choices(preset: PresetView, usable: list[ClusterRow]) -> list[GpuChoice]:
    """The types of the clusters that the org may use, by name; none where there is nothing to choose."""
    if not preset.content.gpus.max:
        return []
    allowed = {row.id for row in allowed_clusters(preset, usable)}
    free: dict[str, int] = {}
    elsewhere: dict[str, str] = {}
    for row in usable:
        seen = clusters.capacity(row)
        for pool in seen.gpus if seen else ():
            if row.id not in allowed:
                elsewhere.setdefault(pool.type, row.name)
            elif pool.total:
                free[pool.type] = free.get(pool.type, 0) + pool.free
    wanted = preset.content.gpu_types
    choices = []
    for name in sorted({*free, *elsewhere}):
        refused = ""
        if name not in free:
            refused = f"{name} is on {elsewhere[name]}, where the preset {preset.name} does not run."
        elif wanted and name not in wanted:
            refused = f"The preset {preset.name} does not run on {name}."
        choices.append(GpuChoice(name, name if refused else f"{name}, {free[name]} free", refused))
    return choices if any(not choice.refused for choice in choices) else []


def free_text(row: ClusterRow, for_gpus: bool) -> str:
    """What is free on a cluster, in a sentence."""
    seen = clusters.capacity(row)
    if seen is None:
        return ""
    if for_gpus:
        parts = [f"{pool.free} of {pool.total} {label(pool)}" for pool in seen.gpus]
        return f"Free: {', '.join(parts)}." if parts else f"{row.name} has no GPU."
    if seen.cpu_slots is None:
        return ""
    return f"{seen.cpu_slots_free} of {seen.cpu_slots} slots for jobs without a GPU are free."


def label(pool: clusters.GpuPool) -> str:
    return f"{pool.type} (simulated)" if pool.simulated else pool.type


def _ahead(cluster_id: int, for_gpus: bool) -> int:
    waiting = (
        select(Job.id)
        .where(Job.cluster_id == cluster_id, Job.settled.is_(False), Job.state == State.QUEUED, Job.wish == Wish.RUN)
        .where(Job.gpus > 0 if for_gpus else Job.gpus == 0)
        .limit(1000)
        .subquery()
    )
    return db.session.scalar(select(func.count()).select_from(waiting)) or 0


def runs_as_portal(row: ClusterRow | None) -> bool:
    """Whether the page has to say that the image is not used and whose user commands run as."""
    return row is not None and row.kind is ClusterKind.LOCAL
