"""People and every way in which a request can prove to come from one. Only hashes of secrets are kept."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import ForeignKey, Index, LargeBinary, String
from sqlalchemy.orm import Mapped, mapped_column, relationship

from app.database import Base, BigId, Moment, now


class User(Base):
    __tablename__ = "users"

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    email: Mapped[str] = mapped_column(String(254), unique=True)  # lower case
    name: Mapped[str] = mapped_column(String(100))
    password_hash: Mapped[str | None] = mapped_column(String(200))
    admin: Mapped[bool] = mapped_column(default=False)  # of the whole installation
    created_at: Mapped[datetime] = mapped_column(Moment, default=now)
    disabled_at: Mapped[datetime | None] = mapped_column(Moment)

    # what flask-login asks of a user
    is_authenticated = True
    is_anonymous = False

    @property
    def is_active(self) -> bool:
        return self.disabled_at is None

    def get_id(self) -> str:
        return str(self.id)

    @property
    def initials(self) -> str:
        words = self.name.replace(".", " ").split() or ["?"]
        return (words[0][0] + (words[-1][0] if len(words) > 1 else "")).upper()


class UserSession(Base):
    """One browser that is signed in. Its cookie holds a random secret; the row can be revoked."""

    __tablename__ = "user_sessions"

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    secret_hash: Mapped[bytes] = mapped_column(LargeBinary(32), unique=True)
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"))
    created_at: Mapped[datetime] = mapped_column(Moment, default=now)
    seen_at: Mapped[datetime] = mapped_column(Moment, default=now)
    expires_at: Mapped[datetime] = mapped_column(Moment)
    browser: Mapped[str] = mapped_column(String(200), default="")
    address: Mapped[str] = mapped_column(String(64), default="")

    user: Mapped[User] = relationship()

    __table_args__ = (
        Index("ix_user_sessions_user_id", "user_id", "id"),
        Index("ix_user_sessions_expires_at", "expires_at"),
    )


class SignInLink(Base):
    """A link that signs one person in, once."""

    __tablename__ = "sign_in_links"

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    secret_hash: Mapped[bytes] = mapped_column(LargeBinary(32), unique=True)
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"), index=True)
    created_at: Mapped[datetime] = mapped_column(Moment, default=now)
    expires_at: Mapped[datetime] = mapped_column(Moment, index=True)
    used_at: Mapped[datetime | None] = mapped_column(Moment)


class ApiToken(Base):
    """`st_<id>_<secret>`: the id finds the row, the hash of the whole proves it."""

    __tablename__ = "api_tokens"

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    public_id: Mapped[str] = mapped_column(String(12), unique=True)
    secret_hash: Mapped[bytes] = mapped_column(LargeBinary(32))
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"))
    name: Mapped[str] = mapped_column(String(100), default="")
    scopes: Mapped[str] = mapped_column(String(200), default="read write")  # by space
    created_at: Mapped[datetime] = mapped_column(Moment, default=now)
    used_at: Mapped[datetime | None] = mapped_column(Moment)
    expires_at: Mapped[datetime | None] = mapped_column(Moment)

    user: Mapped[User] = relationship()

    __table_args__ = (Index("ix_api_tokens_user_id", "user_id", "id"),)


class SignInFailure(Base):
    """A wrong password, kept for as long as it counts against further tries."""

    __tablename__ = "sign_in_failures"

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    email_hash: Mapped[bytes] = mapped_column(LargeBinary(32))  # also of addresses that nobody here has
    address: Mapped[str] = mapped_column(String(64))
    at: Mapped[datetime] = mapped_column(Moment, default=now)

    __table_args__ = (
        Index("ix_sign_in_failures_email_hash_at", "email_hash", "at"),
        Index("ix_sign_in_failures_at", "at"),
    )
