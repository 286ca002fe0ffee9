"""What every answer carries, errors too: a strict content policy, and no trust in what other sites send."""

from __future__ import annotations

import secrets
from urllib.parse import urlsplit

from flask import Flask, Response, abort, g, request
from flask.sessions import SecureCookieSession, SecureCookieSessionInterface
from werkzeug.exceptions import HTTPException

from app.config import Config
from app.installation import service as installation
from app.orgs.access import SAFE_METHODS

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

    @app.before_request
    def _begin() -> None:
        g.request_id = secrets.token_hex(8)
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
        if request.endpoint != "static":
            headers.setdefault("Cache-Control", "no-store")
            headers.add("Vary", "HX-Request")
        return answer


def _refuse_other_sites(config: Config) -> None:
    """The CSRF token is the proof; what browsers say of themselves is a second lock on the same door."""
    if request.headers.get("Sec-Fetch-Site") in ("cross-site", "same-site"):
        abort(403)
    origin = request.headers.get("Origin")
    if origin is not None and urlsplit(origin).netloc != request.host:
        abort(403)


class PortalSessions(SecureCookieSessionInterface):
    """Flask's signed cookie, under a name that other portals on this machine do not use.

    Cookies do not know ports: two portals on 127.0.0.1 with one cookie name would sign each other out.
    """

    def open_session(self, app: Flask, request: object) -> SecureCookieSession | None:
        try:
            path = request.path  # type: ignore[attr-defined]
        except HTTPException:  # a Host header that is not ours
            return None
        if path in ("/healthz", "/readyz") or path.startswith(("/static/", "/api/")):
            return SecureCookieSession()  # nothing to know, nothing to read
        return super().open_session(app, request)  # type: ignore[arg-type]

    def get_cookie_name(self, app: Flask) -> str:
        config: Config = app.config["PORTAL"]
        if config.secure:
            return "__Host-simpletrain"
        return f"simpletrain-{installation.identity()[:8]}"

    def should_set_cookie(self, app: Flask, session: SecureCookieSession) -> bool:  # type: ignore[override]
        return session.modified

    def save_session(self, app: Flask, session: SecureCookieSession, response: Response) -> None:  # type: ignore[override]
        if session.modified:
            super().save_session(app, session, response)
