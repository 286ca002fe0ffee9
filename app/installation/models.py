from __future__ import annotations

from datetime import datetime

from sqlalchemy import CheckConstraint, LargeBinary, String
from sqlalchemy.orm import Mapped, mapped_column

from app.database import Base, Moment, now


class Installation(Base):
    """One row: which installation this database belongs to."""

    __tablename__ = "installation"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False, default=1)
    uuid: Mapped[str] = mapped_column(String(36))
    key_check: Mapped[bytes] = mapped_column(LargeBinary(32))  # proves that the secret key is the one it began with
    seal_public: Mapped[bytes] = mapped_column(LargeBinary(32))  # what the web seals credentials with
    base_url: Mapped[str] = mapped_column(String(500))  # as last served: operator's commands print links with it
    created_at: Mapped[datetime] = mapped_column(Moment, default=now)

    __table_args__ = (CheckConstraint("id = 1", name="one_row"),)


class WorkerEpoch(Base):
    """One row: whose turn it is. A worker that finds a higher epoch than its own has been replaced."""

    __tablename__ = "worker_epoch"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False, default=1)
    epoch: Mapped[int] = mapped_column(default=0)
    host: Mapped[str] = mapped_column(String(253), default="")
    seen_at: Mapped[datetime | None] = mapped_column(Moment)

    __table_args__ = (CheckConstraint("id = 1", name="one_row"),)
