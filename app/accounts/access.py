"""Who is asking, decided in one place. A view is closed to strangers unless it is marked `public`."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any, TypeVar
from urllib.parse import urlsplit

from flask import Flask, Request, Response, current_app, g, redirect, request, session, url_for
from flask_login import LoginManager
from sqlalchemy.exc import OperationalError
from werkzeug.exceptions import Unauthorized

from app.accounts import service
from app.accounts.models import User, UserSession
from app.audit.service import Action
from app.config import Config
from app.database import CommitUnsure, db, now, transaction

View = TypeVar("View", bound=Callable[..., Any])

login = LoginManager()


def public(view: View) -> View:
    """Open a view to people who are not signed in."""
    view.public = True  # type: ignore[attr-defined]
    return view


def is_public(endpoint: str) -> bool:
    return endpoint == "static" or getattr(current_app.view_functions[endpoint], "public", False)


def install(app: Flask) -> None:
    # flask-login would look at its remember-me cookie first, which another program on this host may have set, and
    # then no longer at ours; it also marks sessions in ways that nothing here reads
    app.config["REMEMBER_COOKIE_NAME"] = "simpletrain-has-no-such-cookie"
    app.config["SESSION_PROTECTION"] = None
    # its own context processor asks the database, for the page that says that the database is away too
    login.init_app(app, add_context_processor=False)

    @app.context_processor
    def _who_is_it() -> dict[str, object]:
        if not g.get("portal_failed"):
            _ = service.current_user().is_authenticated  # loads the person, for the frame of pages open to everyone
        return {}

    @app.before_request
    def _close_to_strangers() -> Any:
        if request.endpoint is None or is_public(request.endpoint):
            return None
        if not service.current_user().is_authenticated:
            return login.unauthorized()
        return None


@login.request_loader  # type: ignore[untyped-decorator]
def _who_asks(incoming: Request) -> User | None:
    """A page believes only the cookie, the API only the bearer token: neither opens the other."""
    if incoming.path.startswith("/api/"):
        return _bearer(incoming)
    found = current_session()
    if found is None:
        return None
    user = found.user
    if found.seen_at < now() - service.SEEN_EVERY:
        _note_use(service.touch_session, found.id)
    return user


def _note_use(touch: Callable[[int], None], row_id: int) -> None:
    """Whoever only reads can do so on a full disk too: that they came is not worth refusing them."""
    with contextlib.suppress(OperationalError, CommitUnsure), transaction():
        touch(row_id)


def bearer(incoming: Request) -> str:
    """The API token that a request brings along, whether it is good or not; empty without one."""
    kind, _, token = incoming.headers.get("Authorization", "").partition(" ")
    return token.strip() if kind.lower() == "bearer" else ""


def _bearer(incoming: Request) -> User | None:
    found = service.token_of(bearer(incoming))
    if found is None:
        return None
    user = found.user
    # it may be revoked while this request runs: what it allows was read once, and no missing row is looked for later
    db.session.expunge(found)
    if found.used_at is None or found.used_at < now() - service.SEEN_EVERY:
        _note_use(service.touch_token, found.id)
    g.api_token = found
    return user


@login.unauthorized_handler  # type: ignore[untyped-decorator]
def _ask_to_sign_in() -> Any:
    if request.path.startswith("/api/"):
        raise Unauthorized
    back = url_for("accounts.sign_in", next=request.full_path.rstrip("?") if request.method == "GET" else None)
    if request.headers.get("HX-Request"):
        # a redirect would be followed into the fragment; this header makes htmx load the page instead
        try:
            page = urlsplit(request.headers.get("HX-Current-URL", ""))
            here = page.path + (f"?{page.query}" if page.query else "")
        except ValueError:  # such as http://[
            here = ""
        return Response(status=401, headers={"HX-Redirect": url_for("accounts.sign_in", next=local_path(here))})
    if request.method == "GET":
        return redirect(back)
    raise Unauthorized


def sign_in(user: User, config: Config) -> None:
    """Sign this browser in, with a fresh session: what it held before is void. Call inside a transaction."""
    if (old := current_session()) is not None:
        service.end_session(old.user_id, old.id)
    secret = service.begin_session(
        user, config.session_hours, request.user_agent.string or "", request.remote_addr or ""
    )
    session.clear()
    session.permanent = True
    session["sid"] = secret


def sign_out() -> None:
    """End the session on the server too: a copy of its cookie opens nothing. Call inside a transaction."""
    if (found := current_session()) is not None:
        service.end_session(found.user_id, found.id, Action.SIGNED_OUT)
    session.clear()


def current_session() -> UserSession | None:
    """The live session of this browser. Only reads, so that it may be asked inside a transaction too."""
    if "user_session" not in g:
        g.user_session = session_now()
    known: UserSession | None = g.user_session
    return known


def session_now() -> UserSession | None:
    """The same, asked anew."""
    secret = session.get("sid")
    config: Config = current_app.config["PORTAL"]
    found = service.session_of(secret, config.session_idle_hours) if isinstance(secret, str) else None
    if found is not None:
        db.session.expunge(found)  # as with a token: it may end while this request runs
    return found


def local_path(target: str | None) -> str | None:
    """`target` if it is a path of this portal and of nothing else, for sending people back to where they were."""
    if not target or len(target) > 2000 or not target.startswith("/") or target.startswith(("//", "/\\")):
        return None
    if any(character in target for character in "\\\r\n\t\0") or any(ord(character) < 32 for character in target):
        return None
    parts = urlsplit(target)
    return target if not parts.scheme and not parts.netloc else None
