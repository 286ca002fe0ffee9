from __future__ import annotations

from datetime import datetime
from enum import StrEnum

from sqlalchemy import ForeignKey, Index, String
from sqlalchemy.orm import Mapped, mapped_column, relationship

from app.database import Base, BigId, Moment, now, word


class Role(StrEnum):
    """From weak to strong: a viewer reads, a member launches, an owner manages."""

    VIEWER = "viewer"
    MEMBER = "member"
    OWNER = "owner"

    def includes(self, other: Role) -> bool:
        order = list(Role)
        return order.index(self) >= order.index(other)


class Org(Base):
    __tablename__ = "orgs"

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    slug: Mapped[str] = mapped_column(String(63), unique=True)
    name: Mapped[str] = mapped_column(String(100))
    created_at: Mapped[datetime] = mapped_column(Moment, default=now)


class Membership(Base):
    __tablename__ = "memberships"

    org_id: Mapped[int] = mapped_column(ForeignKey("orgs.id", ondelete="CASCADE"), primary_key=True)
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"), primary_key=True)
    role: Mapped[Role] = mapped_column(word(Role))
    created_at: Mapped[datetime] = mapped_column(Moment, default=now)

    org: Mapped[Org] = relationship()

    __table_args__ = (Index("ix_memberships_user_id", "user_id", "org_id"),)
