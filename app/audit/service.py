"""Writing the audit trail, in the transaction of what it tells, and reading it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import datetime

from flask import g, has_request_context, request
from sqlalchemy import delete, func, select

from app.audit.models import Action, Actor, AuditEvent
from app.database import db

__all__ = ["Action", "Actor", "AuditEvent"]

_outside: ContextVar[Actor] = ContextVar("outside", default=Actor.OPERATOR)


def record(
    action: Action, target: str = "", detail: str = "", *, user_id: int | None = None, org_id: int | None = None
) -> None:
    """Write down that something was done. Call inside its transaction: both are kept, or neither.

    `user_id` is whoever the thing belongs to. In a request that is who asked; outside of one it is the operator's
    doing, or the portal's own, and the target has to say whom it is about. Nothing secret may be passed.
    """
    inside = has_request_context()
    actor = _outside.get() if not inside else Actor.USER if user_id is not None else Actor.STRANGER
    db.session.add(
        AuditEvent(
            actor=actor,
            user_id=user_id if inside else None,
            org_id=org_id,
            action=action.value,
            target=_clean(target)[:300],
            detail=_clean(detail)[:1000],
            address=(request.remote_addr or "")[:64] if inside else "",
            request_id=str(g.get("request_id", ""))[:64] if inside else "",
        )
    )


@contextmanager
def by_portal() -> Iterator[None]:
    """What is recorded in here nobody asked for."""
    token = _outside.set(Actor.PORTAL)
    try:
        yield
    finally:
        _outside.reset(token)


def page(
    org_id: int | None = None, since: datetime | None = None, before: int | None = None, limit: int = 100
) -> list[AuditEvent]:
    """Newest first, of one org or of everything; `before` is the id of the last one of the page above."""
    query = select(AuditEvent).order_by(AuditEvent.id.desc()).limit(limit)
    if org_id is not None:
        query = query.where(AuditEvent.org_id == org_id)
    if since is not None:
        query = query.where(AuditEvent.at >= since)
    if before is not None:
        query = query.where(AuditEvent.id < before)
    return list(db.session.scalars(query))


def forget(before: datetime, most: int) -> int:
    """Remove what is older, the oldest first and so many at most; how many. Call inside a transaction."""
    oldest = select(AuditEvent.id).where(AuditEvent.at < before).order_by(AuditEvent.at).limit(most)
    return len(db.session.execute(delete(AuditEvent).where(AuditEvent.id.in_(oldest)).returning(AuditEvent.id)).all())


def older(before: datetime) -> int:
    """How many entries are older."""
    return db.session.scalar(select(func.count()).where(AuditEvent.at < before)) or 0


def _clean(text: str) -> str:
    """On one line, and without what a database cannot keep."""
    return "".join(character if character.isprintable() else " " for character in text)
