"""Removes what is left of attempts that no unsettled job knows, from a complete listing only."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from datetime import timedelta

from sqlalchemy import select

from app.cluster.protocol import AttemptKey, Cluster, ClusterError, Phase
from app.database import db, now
from app.jobs.models import Job

GRACE = timedelta(hours=1)

log = logging.getLogger("simpletrain.worker")


@dataclass(slots=True)
class Swept:
    removed: list[AttemptKey] = field(default_factory=list)
    again_soon: bool = False  # something was asked to end, or resisted


def sweep(cluster: Cluster, cluster_id: int) -> Swept:
    """Remove leftovers. An object of a job that is not settled is never a leftover."""
    done = Swept()
    try:
        owned = cluster.owned()
    except ClusterError as error:
        log.warning("the sweep of cluster %s found no complete listing: %s", cluster_id, error.text)
        return done
    if not owned:
        return done
    rows = db.session.execute(
        select(Job.uid, Job.attempt, Job.settled, Job.finished_at).where(Job.uid.in_({key.job for key in owned}))
    ).all()
    db.session.rollback()
    needed = {(row.uid, row.attempt) for row in rows if not row.settled}
    settled = {row.uid for row in rows if row.settled}
    for key in sorted(owned):
        if (key.job, key.number) in needed:
            continue
        try:
            cluster.stop(key)
            seen = cluster.observe(key)
            if seen is not None and seen.phase is not Phase.ENDED:
                done.again_soon = True
            elif key.job in settled or seen is None or (seen.finished_at or now() - GRACE) <= now() - GRACE:
                cluster.remove(key)
                done.removed.append(key)
        except ClusterError as error:
            log.warning("cluster %s: %s, which no job of the portal belongs to, resists: %s", cluster_id, key, error)
            done.again_soon = True
    return done
