from __future__ import annotations

from datetime import datetime
from enum import StrEnum

from sqlalchemy import BigInteger, Index, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from app.database import Base, BigId, Moment, now, word


class Actor(StrEnum):
    USER = "user"
    OPERATOR = "operator"  # somebody at the portal's own machine, with its commands
    PORTAL = "portal"  # nobody asked: a first start
    STRANGER = "stranger"  # somebody who has not signed in


class Action(StrEnum):
    """What can be done. The words are stable: programs look for them."""

    SIGNED_IN = "session.began"
    SIGNED_OUT = "session.signed_out"
    SESSION_ENDED = "session.ended"
    LOCKED_OUT = "password.locked_out"
    PASSWORD_SET = "password.set"  # noqa: S105 - a word, no password
    TOKEN_CREATED = "token.created"  # noqa: S105
    TOKEN_REVOKED = "token.revoked"  # noqa: S105
    USER_CREATED = "user.created"
    USER_MADE_ADMIN = "user.made_admin"
    USER_DISABLED = "user.disabled"
    USER_ENABLED = "user.enabled"
    ORG_CREATED = "org.created"
    MEMBER_JOINED = "member.joined"
    MEMBER_LEFT = "member.left"
    MEMBER_ROLE = "member.role"
    PRESET_IMPORTED = "preset.imported"
    CLUSTER_ADDED = "cluster.added"
    CLUSTER_CHANGED = "cluster.changed"
    KEYS_ROTATED = "keys.rotated"
    JOB_LAUNCHED = "job.launched"
    JOB_STOPPED = "job.stopped"


class AuditEvent(Base):
    """One thing that was done. It holds ids and no foreign keys: it outlives what it tells of."""

    __tablename__ = "audit_events"

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    at: Mapped[datetime] = mapped_column(Moment, default=now)
    actor: Mapped[Actor] = mapped_column(word(Actor))
    user_id: Mapped[int | None] = mapped_column(BigInteger)  # who; None unless a person who had signed in
    org_id: Mapped[int | None] = mapped_column(BigInteger)  # where; None: it is about the whole installation
    action: Mapped[str] = mapped_column(String(40))  # an Action of this version or of another
    target: Mapped[str] = mapped_column(String(300), default="")
    detail: Mapped[str] = mapped_column(Text, default="")
    address: Mapped[str] = mapped_column(String(64), default="")
    request_id: Mapped[str] = mapped_column(String(64), default="")

    __table_args__ = (
        Index("ix_audit_events_org_id_id", "org_id", "id"),
        Index("ix_audit_events_at", "at"),
    )
