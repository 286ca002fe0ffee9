from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, ForeignKey, String, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column, relationship

from app.database import Base, BigId, Moment, now


class Preset(Base):
    __tablename__ = "presets"

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    org_id: Mapped[int] = mapped_column(ForeignKey("orgs.id", ondelete="CASCADE"))
    name: Mapped[str] = mapped_column(String(63))
    number: Mapped[int]  # of its newest version
    created_at: Mapped[datetime] = mapped_column(Moment, default=now)
    retired_at: Mapped[datetime | None] = mapped_column(Moment)

    __table_args__ = (UniqueConstraint("org_id", "name"),)


class PresetVersion(Base):
    """What a preset said at one time. Never changed: jobs point at the exact version that they used."""

    __tablename__ = "preset_versions"

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    preset_id: Mapped[int] = mapped_column(ForeignKey("presets.id", ondelete="CASCADE"))
    number: Mapped[int]
    content: Mapped[dict[str, Any]] = mapped_column(JSON)  # a PresetContent, as JSON
    created_at: Mapped[datetime] = mapped_column(Moment, default=now)

    preset: Mapped[Preset] = relationship()

    __table_args__ = (UniqueConstraint("preset_id", "number"),)
