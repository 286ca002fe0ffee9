"""People and their proofs. Routes and commands call it; it knows no forms and no HTML."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import timedelta

import flask_login
from sqlalchemy import ColumnElement, bindparam, delete, func, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import joinedload

from app.accounts import secrets
from app.accounts.models import ApiToken, SignInFailure, SignInLink, User, UserSession
from app.audit import service as audit
from app.audit.service import Action
from app.database import db, now

__all__ = ["AccountError", "ApiToken", "ShownBefore", "TooManyTries", "User", "UserSession"]

LINK_LIFE = timedelta(minutes=15)
TRIES, TRIES_WINDOW = 10, timedelta(minutes=15)  # wrong passwords for one person from one address
TRIES_ANYWHERE = 100  # for one person from everywhere: slows a guess from many addresses
SEEN_EVERY = timedelta(minutes=5)  # how exactly the last use of a session or token is kept

SCOPES = ("read", "write")  # what an API token may be made for
BIGGEST_ID = 2**63 - 1  # a database may refuse to be asked for more
TOKENS_MAX = 50  # live ones of one person, as far as they make them themselves
TOKENS_KEPT = timedelta(days=30)  # for so long an expired one stays in the list

_TOKEN = re.compile(r"st_([0-9a-f]{12})_[-\w]{43}", re.ASCII)
_EMAIL = re.compile(r"[^\s@\0-\x1f\x7f]{1,64}@[^\s@\0-\x1f\x7f]{1,189}")


class AccountError(Exception):
    """What was asked of an account cannot be done. The message is a sentence."""


class ShownBefore(Exception):
    """This wish for a token was granted once, and its token is shown to nobody again."""


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
        if admin and not user.admin:
            user.admin = True
            audit.record(Action.USER_MADE_ADMIN, user.email)
        return user, False
    user = User(email=email, name=email.split("@")[0], admin=admin)
    db.session.add(user)
    db.session.flush()
    audit.record(Action.USER_CREATED, user.email, "administrator" if admin else "")
    return user, True


def disable(user: User) -> None:
    """Close an account and end every way in that it has. Call inside a transaction."""
    if user.is_active:
        user.disabled_at = now()
        audit.record(Action.USER_DISABLED, user.email)
    _end_every_way_in(user.id)


def enable(user: User) -> None:
    """Open a closed account again. What ended with it stays ended. Call inside a transaction."""
    if not user.is_active:
        _end_every_way_in(user.id)  # also what a request that ran while the account was closed may have made
        audit.record(Action.USER_ENABLED, user.email)
    user.disabled_at = None


def _end_every_way_in(user_id: int) -> None:
    end_all_sessions(user_id)
    revoke_all_tokens(user_id)
    db.session.execute(delete(SignInLink).where(SignInLink.user_id == user_id))


def rename(user: User, name: str) -> None:
    user.name = name


def set_password(user: User, password: str, keep: UserSession | None) -> None:
    """Set a password and end every other session. Call inside a transaction."""
    user.password_hash = secrets.hash_password(password)
    audit.record(Action.PASSWORD_SET, user.email, user_id=user.id)
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
    if user_id is not None and _tries(email_hash, address) == TRIES:
        audit.record(Action.LOCKED_OUT, email, f"{TRIES} wrong passwords")  # of people we know: others may be secrets
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


def _tries(email_hash: bytes, address: str) -> int:
    """How many wrong passwords count against one person from one address."""
    counted = select(func.count()).where(
        SignInFailure.email_hash == email_hash,
        SignInFailure.at > now() - TRIES_WINDOW,
        SignInFailure.address == address[:64],
    )
    return db.session.scalar(counted) or 0


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
    audit.record(Action.SIGNED_IN, user.email, browser[:200], user_id=user.id)
    return secret


# asked with each request of a page, so it is built once
_SESSION = (
    select(UserSession)
    .options(joinedload(UserSession.user, innerjoin=True))
    .where(UserSession.secret_hash == bindparam("digest"))
)


def session_of(secret: str, idle_hours: int) -> UserSession | None:
    """The live session that a cookie belongs to."""
    found = db.session.scalar(_SESSION, {"digest": secrets.digest(secret)})
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


def end_session(user_id: int, session_id: int, how: Action = Action.SESSION_ENDED) -> bool:
    """Whether there was such a session of this person. Call inside a transaction."""
    if session_id > BIGGEST_ID:
        return False
    ended = db.session.execute(
        delete(UserSession)
        .where(UserSession.id == session_id, UserSession.user_id == user_id)
        .returning(UserSession.id)
    )
    if ended.first() is None:
        return False
    audit.record(how, f"session {session_id} of user {user_id}", user_id=user_id)
    return True


def end_all_sessions(user_id: int, keep: UserSession | None = None) -> None:
    """Call inside a transaction."""
    statement = delete(UserSession).where(UserSession.user_id == user_id)
    statement = statement.where(UserSession.id != keep.id) if keep else statement
    for (session_id,) in db.session.execute(statement.returning(UserSession.id)).all():
        audit.record(Action.SESSION_ENDED, f"session {session_id} of user {user_id}", user_id=user_id)


def end_everybody() -> None:
    """End every session and every sign-in link. API tokens stay. Call inside a transaction."""
    db.session.execute(delete(UserSession))
    db.session.execute(delete(SignInLink))


def forget_expired(most: int) -> int:
    """Remove what signs nobody in any more: so many at most of each kind; how many. Call inside a transaction."""
    gone = 0
    for kind, time, before in (
        (UserSession, UserSession.expires_at, now()),
        (SignInLink, SignInLink.expires_at, now()),
        (SignInFailure, SignInFailure.at, now() - TRIES_WINDOW),
    ):
        oldest = db.session.scalars(select(kind.id).where(time < before).order_by(time).limit(most)).all()
        if oldest:
            db.session.execute(delete(kind).where(kind.id.in_(oldest)))
        gone += len(oldest)
    return gone


def expired() -> int:
    """How many of them there are."""
    counts = (
        select(func.count()).select_from(UserSession).where(UserSession.expires_at < now()),
        select(func.count()).select_from(SignInLink).where(SignInLink.expires_at < now()),
        select(func.count()).select_from(SignInFailure).where(SignInFailure.at < now() - TRIES_WINDOW),
    )
    return sum(db.session.scalar(count) or 0 for count in counts)


# API tokens


def make_token(
    user: User, name: str = "", scopes: Iterable[str] = SCOPES, days: int | None = None, once: str = ""
) -> str:
    """A new token. It is shown once and cannot be read again. Call inside a transaction. Raises ShownBefore.

    Valid for so many days; None: until it is revoked. A wish that says `once` is granted once: the page with the token
    may be loaded again, and must neither make a second one nor show the first.
    """
    public_id = secrets.public_id(f"{user.id} {once}" if once else "")
    token = f"st_{public_id}_{secrets.random_secret()}"
    row = ApiToken(
        public_id=public_id,
        secret_hash=secrets.digest(token),
        user_id=user.id,
        name=name,
        scopes=" ".join(scope for scope in SCOPES if scope in scopes),
        expires_at=now() + timedelta(days=days) if days is not None else None,
    )
    try:
        with db.session.begin_nested():
            db.session.add(row)
    except IntegrityError as error:
        raise ShownBefore from error
    life = f"{days} days" if days is not None else "without end"
    audit.record(
        Action.TOKEN_CREATED, f"st_{public_id} of {user.email}", f"{name}: {row.scopes}, {life}", user_id=user.id
    )
    db.session.execute(delete(ApiToken).where(ApiToken.user_id == user.id, ApiToken.expires_at < now() - TOKENS_KEPT))
    return token


def make_own_token(user: User, name: str, scopes: Iterable[str], days: int | None, once: str) -> str:
    """As a person makes one for themselves: not without end. Raises AccountError too."""
    live = sum(not has_expired(each) for each in tokens(user.id))
    if live >= TOKENS_MAX:
        raise AccountError(f"You have {live} tokens, and may have {TOKENS_MAX}. Revoke one that nothing uses any more.")
    return make_token(user, name, scopes, days, once)


def token_of(token: str) -> ApiToken | None:
    """The live row of a token, None for one that is wrong, revoked or expired."""
    parts = _TOKEN.fullmatch(token)
    if parts is None:
        return None
    row = db.session.scalar(select(ApiToken).where(ApiToken.public_id == parts[1]))
    if row is None or not secrets.same(row.secret_hash, secrets.digest(token)):
        return None
    return row if not has_expired(row) and row.user.is_active else None


def has_expired(token: ApiToken) -> bool:
    return token.expires_at is not None and token.expires_at < now()


def touch_token(token_id: int) -> None:
    """Note that a token is in use. Call inside a transaction."""
    db.session.execute(update(ApiToken).where(ApiToken.id == token_id).values(used_at=now()))


def tokens(user_id: int) -> list[ApiToken]:
    """Newest first, with those that expired lately."""
    return list(db.session.scalars(select(ApiToken).where(ApiToken.user_id == user_id).order_by(ApiToken.id.desc())))


def token_of_user(user_id: int, token_id: int) -> ApiToken | None:
    if token_id > BIGGEST_ID:
        return None
    return db.session.scalar(select(ApiToken).where(ApiToken.id == token_id, ApiToken.user_id == user_id))


def token_by_public_id(written: str) -> ApiToken | None:
    """By its id as lists show it, with or without `st_`; a whole token will do too, such as one that was found."""
    found = re.fullmatch(r"(?:st_)?([0-9a-f]{12})(?:_.*)?", written.strip(), re.ASCII)
    return db.session.scalar(select(ApiToken).where(ApiToken.public_id == found[1])) if found else None


def revoke_token(user_id: int, token_id: int) -> bool:
    """Whether there was such a token of this person. Call inside a transaction."""
    return token_id <= BIGGEST_ID and _revoke(user_id, ApiToken.id == token_id) > 0


def revoke_all_tokens(user_id: int) -> None:
    """Call inside a transaction."""
    _revoke(user_id)


def _revoke(user_id: int, *which: ColumnElement[bool]) -> int:
    statement = delete(ApiToken).where(ApiToken.user_id == user_id, *which).returning(ApiToken.public_id)
    gone = db.session.scalars(statement).all()
    for public_id in gone:
        audit.record(Action.TOKEN_REVOKED, f"st_{public_id} of user {user_id}", user_id=user_id)
    return len(gone)
