"""What every answer carries, errors too: a strict content policy, and no trust in what other sites send."""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from flask import Flask, Response, abort, g, request
from flask.sessions import SecureCookieSession, SecureCookieSessionInterface
from sqlalchemy.exc import SQLAlchemyError
from werkzeug.exceptions import HTTPException
from werkzeug.middleware.proxy_fix import ProxyFix

from app.config import Config
from app.installation import service as installation
from app.orgs.access import SAFE_METHODS

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "form-action 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
    )
)


def install(app: Flask, config: Config) -> None:
    app.session_interface = PortalSessions()
    if config.trusted_proxies:
        app.wsgi_app = BehindProxies(app.wsgi_app, config.trusted_proxies)  # type: ignore[method-assign]

    @app.before_request
    def _begin() -> None:
        g.request_id = secrets.token_hex(8)
        if "session_failed" in g:
            raise g.session_failed
        if request.method not in SAFE_METHODS and not request.path.startswith("/api/"):
            _refuse_other_sites(config)

    @app.after_request
    def _finish(answer: Response) -> Response:
        headers = answer.headers
        headers["Content-Security-Policy"] = POLICY
        headers["X-Content-Type-Options"] = "nosniff"
        headers["X-Frame-Options"] = "DENY"
        headers["Referrer-Policy"] = "same-origin"
        headers["Cross-Origin-Opener-Policy"] = "same-origin"
        headers["Cross-Origin-Resource-Policy"] = "same-origin"
        headers["Permissions-Policy"] = "camera=(), geolocation=(), microphone=(), payment=(), usb=()"
        headers["X-Request-Id"] = g.get("request_id", "-")
        if config.secure:
            headers["Strict-Transport-Security"] = "max-age=31536000; includeSubDomains"
        if request.endpoint != "static" or answer.status_code >= 400:
            headers.setdefault("Cache-Control", "no-store")
            headers.add("Vary", "HX-Request")
        return answer


class BehindProxies:
    """Takes the caller's address and scheme from X-Forwarded-For and -Proto, where a trusted proxy sent them."""

    def __init__(self, wsgi: WSGIApplication, proxies: str) -> None:
        self._wsgi = wsgi
        self._believing = ProxyFix(wsgi, x_for=1, x_proto=1)
        self._proxies = frozenset(address.strip() for address in proxies.split(",") if address.strip())

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        trusted = environ.get("REMOTE_ADDR") in self._proxies
        return (self._believing if trusted else self._wsgi)(environ, start_response)


def _refuse_other_sites(config: Config) -> None:
    """The CSRF token is the proof; what browsers say of themselves is a second lock on the same door."""
    if request.headers.get("Sec-Fetch-Site") in ("cross-site", "same-site"):
        abort(403)
    origin = request.headers.get("Origin")
    if origin is not None and _netloc(origin) != request.host:
        abort(403)


def _netloc(origin: str) -> str:
    try:
        return urlsplit(origin).netloc
    except ValueError:  # such as http://[
        return ""


def _has_session(path: str) -> bool:
    return path not in ("/healthz", "/readyz") and not path.startswith(("/static/", "/api/"))


class PortalSessions(SecureCookieSessionInterface):
    """Flask's signed cookie, under a name that other portals on this machine do not use.

    Cookies do not know ports: two portals on 127.0.0.1 with one cookie name would sign each other out.
    """

    def open_session(self, app: Flask, request: object) -> SecureCookieSession | None:
        try:
            path = request.path  # type: ignore[attr-defined]
        except HTTPException:  # a Host header that is not ours
            return None
        if not _has_session(path):
            return SecureCookieSession()  # nothing to know, nothing to read
        try:
            return super().open_session(app, request)  # type: ignore[arg-type]
        except SQLAlchemyError as error:  # its name stands in the database
            g.session_failed = error  # raised where errors become pages
            return SecureCookieSession()

    def get_cookie_name(self, app: Flask) -> str:
        config: Config = app.config["PORTAL"]
        if config.secure:
            return "__Host-simpletrain"
        return f"simpletrain-{installation.identity()[:8]}"

    def should_set_cookie(self, app: Flask, session: SecureCookieSession) -> bool:  # type: ignore[override]
        return session.modified

    def save_session(self, app: Flask, session: SecureCookieSession, response: Response) -> None:  # type: ignore[override]
        # an error page of an address without a session must not replace the session that the browser has
        if session.modified and _has_session(request.path):
            super().save_session(app, session, response)
