from __future__ import annotations

from dataclasses import asdict
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import delete, select, update

from app import wake
from app.audit import service as audit
from app.audit.service import Action
from app.cluster.protocol import Capacity, GpuPool
from app.clusters.models import ClusterKind, ClusterOrg, ClusterRow
from app.database import db, now
from app.installation import service as installation

__all__ = ["Capacity", "ClusterKind", "ClusterRow", "GpuPool"]

SILENT = timedelta(seconds=90)
THIS_MACHINE = "this-machine"


def of_org(org_id: int) -> list[ClusterRow]:
    """The clusters that an org may use, in the order in which they were added."""
    allowed = select(ClusterOrg.cluster_id).where(ClusterOrg.org_id == org_id)
    return list(
        db.session.scalars(
            select(ClusterRow)
            .where(ClusterRow.for_every_org.is_(True) | ClusterRow.id.in_(allowed))
            .order_by(ClusterRow.id)
        )
    )


def by_id(cluster_id: int) -> ClusterRow:
    return db.session.get_one(ClusterRow, cluster_id)


def by_name(name: str) -> ClusterRow | None:
    return db.session.scalar(select(ClusterRow).where(ClusterRow.name == name))


def add_kubernetes(name: str, settings: dict[str, Any], credential: str | None, org_ids: list[int]) -> ClusterRow:
    """Register a cluster, or give a registered one new settings. Call inside a transaction.

    `credential` is sealed here, and nothing of it is kept in the clear; None is the cluster that the portal runs in.
    """
    row = by_name(name)
    audit.record(Action.CLUSTER_ADDED if row is None else Action.CLUSTER_CHANGED, name)
    if row is None:
        row = ClusterRow(name=name, kind=ClusterKind.KUBERNETES, changes=0)
        db.session.add(row)
    row.settings = settings
    row.credential = installation.seal(credential.encode()) if credential is not None else None
    row.for_every_org = not org_ids
    row.refused = ""
    row.changes += 1
    db.session.flush()
    db.session.execute(delete(ClusterOrg).where(ClusterOrg.cluster_id == row.id))
    db.session.add_all(ClusterOrg(cluster_id=row.id, org_id=org_id) for org_id in org_ids)
    wake.after_commit()
    return row


def sealed_with_older_keys() -> int:
    """How many stored credentials the newest key alone does not open. Raises NotReady where none of the keys does."""
    sealed = [row.credential for row in everything() if row.credential is not None]
    return sum(not installation.is_sealed_with_newest_key(each) for each in sealed)


def reseal() -> int:
    """Seal every stored credential with the newest key; how many. Call inside a transaction. Repeatable."""
    rows = [row for row in everything() if row.credential is not None]
    for row in rows:
        row.credential = installation.seal(installation.unseal(row.credential or b""))
    return len(rows)


def names(cluster_ids: set[int]) -> dict[int, str]:
    rows = db.session.execute(select(ClusterRow.id, ClusterRow.name).where(ClusterRow.id.in_(cluster_ids)))
    return {row.id: row.name for row in rows}


def everything() -> list[ClusterRow]:
    return list(db.session.scalars(select(ClusterRow).order_by(ClusterRow.id)))


def capacity(row: ClusterRow) -> Capacity | None:
    """What the worker last saw; None before it looked for the first time."""
    if not row.capacity:
        return None
    stored = dict(row.capacity)
    return Capacity(**{**stored, "gpus": tuple(GpuPool(**pool) for pool in stored["gpus"])})


def capacity_json(seen: Capacity) -> dict[str, Any]:
    return {**asdict(seen), "gpus": [asdict(pool) for pool in seen.gpus]}


def silent_since(row: ClusterRow) -> datetime | None:
    """Since when a cluster has not answered, once that is worth telling. This machine cannot be silent."""
    if row.kind is ClusterKind.LOCAL or row.answered_at is None or row.answered_at > now() - SILENT:
        return None
    return row.answered_at


def ensure_this_machine(refused: str) -> None:
    """Register this machine as a cluster, or say why it takes no jobs any more. Call inside a transaction."""
    row = db.session.scalar(select(ClusterRow).where(ClusterRow.name == THIS_MACHINE))
    if row is None:
        db.session.add(ClusterRow(name=THIS_MACHINE, kind=ClusterKind.LOCAL, refused=refused))
    elif row.refused != refused:
        row.refused = refused


def record(cluster_id: int, answered_at: datetime | None, error: str, seen: Capacity | None) -> None:
    """Keep what the worker saw. Call inside a transaction of the worker."""
    values: dict[str, Any] = {"answered_at": answered_at, "error": error}
    if seen is not None:
        values["capacity"] = capacity_json(seen)
    db.session.execute(update(ClusterRow).where(ClusterRow.id == cluster_id).values(**values))
