from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import JSON, ForeignKey, Index, LargeBinary, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from app.database import Base, BigId, Moment, now, word


class ClusterKind(StrEnum):
    LOCAL = "local"
    KUBERNETES = "kubernetes"


class ClusterRow(Base):
    __tablename__ = "clusters"

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    name: Mapped[str] = mapped_column(String(63), unique=True)
    kind: Mapped[ClusterKind] = mapped_column(word(ClusterKind))
    settings: Mapped[dict[str, Any]] = mapped_column(JSON, default=dict)
    credential: Mapped[bytes | None] = mapped_column(LargeBinary)  # sealed; write-only for the web
    changes: Mapped[int] = mapped_column(default=0)  # how often its settings were changed: the worker notices
    for_every_org: Mapped[bool] = mapped_column(default=True)
    refused: Mapped[str] = mapped_column(Text, default="")  # why it takes no jobs; empty: it does
    created_at: Mapped[datetime] = mapped_column(Moment, default=now)

    # written by the worker
    answered_at: Mapped[datetime | None] = mapped_column(Moment)
    error: Mapped[str] = mapped_column(Text, default="")
    capacity: Mapped[dict[str, Any]] = mapped_column(JSON, default=dict)  # a Capacity, as JSON


class ClusterOrg(Base):
    """An org that may use a cluster which is not for every org."""

    __tablename__ = "cluster_orgs"

    cluster_id: Mapped[int] = mapped_column(ForeignKey("clusters.id", ondelete="CASCADE"), primary_key=True)
    org_id: Mapped[int] = mapped_column(ForeignKey("orgs.id", ondelete="CASCADE"), primary_key=True)

    __table_args__ = (Index("ix_cluster_orgs_org_id", "org_id", "cluster_id"),)
