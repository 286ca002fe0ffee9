"""Removes what is left of attempts that no unsettled job knows, from a complete listing only."""

from __future__ import annotations

import logging
from datetime import timedelta

from sqlalchemy import select

from app.cluster.protocol import AttemptKey, Cluster, ClusterError
from app.database import db, now
from app.jobs.models import Job

GRACE = timedelta(hours=1)

log = logging.getLogger("simpletrain.worker")


def sweep(cluster: Cluster, cluster_id: int) -> list[AttemptKey]:
    """Remove leftovers; which ones. An object of a job that is not settled is never a leftover."""
    try:
        owned = cluster.owned()
    except ClusterError as error:
        log.warning("the sweep of cluster %s found no complete listing: %s", cluster_id, error.text)
        return []
    if not owned:
        return []
    rows = db.session.execute(
        select(Job.uid, Job.attempt, Job.settled, Job.finished_at).where(Job.uid.in_({key.job for key in owned}))
    ).all()
    db.session.rollback()
    needed = {(row.uid, row.attempt) for row in rows if not row.settled}
    removed = []
    for key in sorted(owned):
        if (key.job, key.number) not in needed:
            cluster.stop(key)
            seen = cluster.observe(key)
            if seen is None or seen.finished_at is None or seen.finished_at < now() - GRACE or _settled(rows, key):
                cluster.remove(key)
                removed.append(key)
    return removed


def _settled(rows: object, key: AttemptKey) -> bool:
    return any(row.uid == key.job and row.settled for row in rows)  # type: ignore[attr-defined]
