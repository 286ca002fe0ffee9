"""What every answer carries, errors too: a strict content policy, and no trust in what other sites send."""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable, Sequence
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from flask import Flask, Response, abort, g, request
from flask.sessions import SecureCookieSession, SecureCookieSessionInterface
from sqlalchemy.exc import SQLAlchemyError
from werkzeug.exceptions import HTTPException
from werkzeug.middleware.proxy_fix import ProxyFix

from app import journal
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

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{7,63}", re.ASCII)


def install(app: Flask, config: Config) -> None:
    app.session_interface = PortalSessions()
    app.wsgi_app = BehindProxies(app.wsgi_app, config.proxies)  # type: ignore[method-assign]

    @app.before_request
    def _begin() -> None:
        g.request_id = request.headers.get("X-Request-Id") or secrets.token_hex(8)
        journal.request_begins(g.request_id)
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
        journal.request_ends(answer)
        return answer


class BehindProxies:
    """Takes the caller's address, the scheme and the request's id from headers, where a trusted proxy sent them.

    The caller is the last address of X-Forwarded-For that is not itself a trusted proxy: what stands before it is the
    caller's own word.
    """

    def __init__(self, wsgi: WSGIApplication, proxies: Sequence[IPv4Network | IPv6Network]) -> None:
        self._wsgi = wsgi
        self._proxies = proxies

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        trusted = self._trusts(environ.get("REMOTE_ADDR", ""))
        if not trusted or not _ID.fullmatch(environ.get("HTTP_X_REQUEST_ID", "")):
            environ.pop("HTTP_X_REQUEST_ID", None)
        if not trusted:
            return self._wsgi(environ, start_response)
        hops = [hop.strip() for hop in environ.get("HTTP_X_FORWARDED_FOR", "").split(",")]
        depth = next((depth for depth, hop in enumerate(reversed(hops), 1) if not self._trusts(hop)), len(hops))
        return ProxyFix(self._wsgi, x_for=depth, x_proto=1)(environ, start_response)

    def _trusts(self, address: str) -> bool:
        try:
            found = ip_address(address)
        except ValueError:
            return False
        if isinstance(found, IPv6Address) and found.ipv4_mapped is not None:
            found = found.ipv4_mapped  # how a socket for both kinds names a caller by IPv4
        return any(found in network for network in self._proxies)


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
