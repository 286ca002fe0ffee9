"""People and their proofs. Routes and commands call it; it knows no forms and no HTML."""

from __future__ import annotations

import re
from datetime import timedelta

import flask_login
from sqlalchemy import delete, func, select, update

from app.accounts import secrets
from app.accounts.models import ApiToken, SignInFailure, SignInLink, User, UserSession
from app.database import db, now

__all__ = ["AccountError", "ApiToken", "TooManyTries", "User", "UserSession"]

LINK_LIFE = timedelta(minutes=15)
TRIES, TRIES_WINDOW = 10, timedelta(minutes=15)  # wrong passwords for one person from one address
TRIES_ANYWHERE = 100  # for one person from everywhere: slows a guess from many addresses
SEEN_EVERY = timedelta(minutes=5)  # how exactly the last use of a session or token is kept

_EMAIL = re.compile(r"[^\s@\0-\x1f\x7f]{1,64}@[^\s@\0-\x1f\x7f]{1,189}")


class AccountError(Exception):
    """What was asked of an account cannot be done. The message is a sentence."""


class TooManyTries(Exception):
    def __init__(self, seconds: int) -> None:
        super().__init__(f"Too many wrong passwords. Try again in {-(-seconds // 60)} min, or use a sign-in link.")
        self.seconds = seconds


def current_user() -> User:
    """The person who asks. Only where signing in is required: there it is never anonymous."""
    user: User = flask_login.current_user
    return user


# people


def any_exists() -> bool:
    return db.session.scalar(select(User.id).limit(1)) is not None


def by_email(email: str) -> User | None:
    email = email.strip().lower()
    if not email.isprintable():
        return None  # NUL and half characters cannot be asked of every database
    return db.session.scalar(select(User).where(User.email == email))


def create(email: str, admin: bool = False) -> tuple[User, bool]:
    """Make an account, or find the one that is there: (user, whether it is new). Call inside a transaction."""
    email = email.strip().lower()
    if not _EMAIL.fullmatch(email) or not email.isprintable():
        raise AccountError(f"{email!r} is not an e-mail address.")
    user = by_email(email)
    if user is not None:
        user.admin = user.admin or admin
        return user, False
    user = User(email=email, name=email.split("@")[0], admin=admin)
    db.session.add(user)
    db.session.flush()
    return user, True


def disable(user: User) -> None:
    """Close an account and end every way in that it has. Call inside a transaction."""
    user.disabled_at = user.disabled_at or now()
    end_all_sessions(user.id)
    db.session.execute(delete(ApiToken).where(ApiToken.user_id == user.id))
    db.session.execute(delete(SignInLink).where(SignInLink.user_id == user.id))


def rename(user: User, name: str) -> None:
    user.name = name


def set_password(user: User, password: str, keep: UserSession | None) -> None:
    """Set a password and end every other session. Call inside a transaction."""
    user.password_hash = secrets.hash_password(password)
    end_all_sessions(user.id, keep)
    db.session.execute(delete(SignInLink).where(SignInLink.user_id == user.id))


# signing in


def check_password(email: str, password: str, address: str) -> User | None:
    """The person behind an address and a password; None for a wrong one. Raises TooManyTries.

    Manages its transactions itself: the slow hash must not hold the database.
    """
    email = email.strip().lower()[:254]
    email_hash = secrets.digest(email)
    _refuse_after_many_tries(email_hash, address)
    user = by_email(email)
    user_id, stored = (user.id, user.password_hash) if user and user.is_active else (None, None)
    db.session.rollback()
    if secrets.password_matches(password, stored) and stored is not None:
        db.session.execute(delete(SignInFailure).where(SignInFailure.email_hash == email_hash))
        found = db.session.get_one(User, user_id)
        if secrets.password_is_old(stored):
            found.password_hash = secrets.hash_password(password)
        db.session.commit()
        return found
    db.session.add(SignInFailure(email_hash=email_hash, address=address[:64]))
    db.session.execute(delete(SignInFailure).where(SignInFailure.at < now() - TRIES_WINDOW))
    db.session.commit()
    return None


def _refuse_after_many_tries(email_hash: bytes, address: str) -> None:
    since = now() - TRIES_WINDOW
    tried = select(func.count(), func.min(SignInFailure.at)).where(
        SignInFailure.email_hash == email_hash, SignInFailure.at > since
    )
    for limit, query in (
        (TRIES, tried.where(SignInFailure.address == address[:64])),
        (TRIES_ANYWHERE, tried),
    ):
        count, first = db.session.execute(query).one()
        if count >= limit:
            raise TooManyTries(max(1, int((first + TRIES_WINDOW - now()).total_seconds())))


def make_link(user: User) -> str:
    """The secret of a fresh sign-in link. Call inside a transaction."""
    secret = secrets.random_secret()
    db.session.add(SignInLink(secret_hash=secrets.digest(secret), user_id=user.id, expires_at=now() + LINK_LIFE))
    return secret


def use_link(secret: str) -> User | None:
    """Whom a link signs in; from now on it signs nobody in. Call inside a transaction."""
    used = db.session.execute(
        update(SignInLink)
        .where(
            SignInLink.secret_hash == secrets.digest(secret),
            SignInLink.used_at.is_(None),
            SignInLink.expires_at > now(),
        )
        .values(used_at=now())
        .returning(SignInLink.user_id)
    ).first()
    if used is None:
        return None
    user = db.session.get_one(User, used.user_id)
    return user if user.is_active else None


# sessions


def begin_session(user: User, hours: int, browser: str, address: str) -> str:
    """Sign a browser in: the secret for its cookie. Call inside a transaction."""
    secret = secrets.random_secret()
    db.session.add(
        UserSession(
            secret_hash=secrets.digest(secret),
            user_id=user.id,
            expires_at=now() + timedelta(hours=hours),
            browser=browser[:200],
            address=address[:64],
        )
    )
    db.session.execute(delete(UserSession).where(UserSession.user_id == user.id, UserSession.expires_at < now()))
    return secret


def session_of(secret: str, idle_hours: int) -> UserSession | None:
    """The live session that a cookie belongs to."""
    found = db.session.scalar(select(UserSession).where(UserSession.secret_hash == secrets.digest(secret)))
    if found is None or found.expires_at < now() or found.seen_at < now() - timedelta(hours=idle_hours):
        return None
    return found if found.user.is_active else None


def touch_session(session_id: int) -> None:
    """Note that a session is in use. Call inside a transaction."""
    db.session.execute(update(UserSession).where(UserSession.id == session_id).values(seen_at=now()))


def sessions(user_id: int, idle_hours: int) -> list[UserSession]:
    """The live ones, newest first."""
    return list(
        db.session.scalars(
            select(UserSession)
            .where(
                UserSession.user_id == user_id,
                UserSession.expires_at > now(),
                UserSession.seen_at > now() - timedelta(hours=idle_hours),
            )
            .order_by(UserSession.id.desc())
        )
    )


def end_session(user_id: int, session_id: int) -> bool:
    """Whether there was such a session of this person. Call inside a transaction."""
    ended = db.session.execute(
        delete(UserSession)
        .where(UserSession.id == session_id, UserSession.user_id == user_id)
        .returning(UserSession.id)
    )
    return ended.first() is not None


def end_all_sessions(user_id: int, keep: UserSession | None = None) -> None:
    """Call inside a transaction."""
    statement = delete(UserSession).where(UserSession.user_id == user_id)
    db.session.execute(statement.where(UserSession.id != keep.id) if keep else statement)


# API tokens


def make_token(user: User, name: str = "") -> str:
    """A new token. It is shown once and cannot be read again. Call inside a transaction."""
    public_id = secrets.public_id()
    token = f"st_{public_id}_{secrets.random_secret()}"
    db.session.add(ApiToken(public_id=public_id, secret_hash=secrets.digest(token), user_id=user.id, name=name))
    return token


def token_of(token: str) -> ApiToken | None:
    """The live row of a token, None for one that is wrong, revoked or expired."""
    parts = token.split("_", 2)
    if len(parts) != 3 or parts[0] != "st":
        return None
    row = db.session.scalar(select(ApiToken).where(ApiToken.public_id == parts[1][:12]))
    if row is None or not secrets.same(row.secret_hash, secrets.digest(token)):
        return None
    if (row.expires_at is not None and row.expires_at < now()) or not row.user.is_active:
        return None
    return row


def touch_token(token_id: int) -> None:
    """Note that a token is in use. Call inside a transaction."""
    db.session.execute(update(ApiToken).where(ApiToken.id == token_id).values(used_at=now()))


def tokens(user_id: int) -> list[ApiToken]:
    return list(db.session.scalars(select(ApiToken).where(ApiToken.user_id == user_id).order_by(ApiToken.id.desc())))


def revoke_token(user_id: int, token_id: int) -> bool:
    """Whether there was such a token of this person. Call inside a transaction."""
    gone = db.session.execute(
        delete(ApiToken).where(ApiToken.id == token_id, ApiToken.user_id == user_id).returning(ApiToken.id)
    )
    return gone.first() is not None
