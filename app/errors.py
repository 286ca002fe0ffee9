"""What people and programs see when something fails: a page with a sentence, or problem+json. Never a traceback."""

from __future__ import annotations

import errno
import json
from typing import Any

from flask import Flask, Response, current_app, g, render_template, request
from flask_wtf.csrf import CSRFError
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from werkzeug.exceptions import HTTPException, SecurityError

from app.database import CommitUnsure, db

PROBLEMS = "https://simpletrain.io/problems/"

SENTENCES = {
    400: ("This request cannot be understood", "Go back, load the page anew, and try again."),
    401: (
        "You are not signed in any more",
        "Sign in again in another tab, then go back: your browser keeps what you typed, and it can be sent again.",
    ),
    403: ("Your role does not allow this", "An owner of the org can do it, or give you another role."),
    404: ("There is nothing here", "It may have another name, or belong to an org that you are not in."),
    405: ("This address does not take that kind of request", "Go back and use the buttons of the page."),
    410: ("This is gone", "It was there once, and cannot be used again."),
    413: ("That is too much at once", "A form may send 4 MiB at most. Nothing was changed."),
    429: ("Too many requests", "Wait a moment, then try again."),
    500: (
        "Something went wrong in the portal",
        "It was written to the portal's log. Nothing was changed by halves. Try again; if it happens again, tell the "
        "operator the number below.",
    ),
    503: (
        "The portal cannot reach its database",
        "Nothing was changed. It comes back by itself once the database does; try again in a moment.",
    ),
}


class Problem(Exception):
    """An error of the API, as RFC 9457 has it."""

    def __init__(
        self, status: int, kind: str, title: str, detail: str = "", headers: dict[str, str] | None = None, **more: Any
    ) -> None:
        super().__init__(detail or title)
        self.status = status
        self.headers = headers or {}
        self.body = {"type": PROBLEMS + kind, "title": title, "status": status}
        if detail:
            self.body["detail"] = detail
        self.body.update(more)

    def response(self) -> Response:
        return Response(
            json.dumps(self.body) + "\n", self.status, {**self.headers, "Content-Type": "application/problem+json"}
        )


def install(app: Flask) -> None:
    app.register_error_handler(Problem, lambda problem: problem.response())
    app.register_error_handler(HTTPException, _http)
    app.register_error_handler(CSRFError, _csrf)
    for kind in (OperationalError, InterfaceError, PoolTimeout):
        app.register_error_handler(kind, _database)
    app.register_error_handler(CommitUnsure, _unsure)
    app.register_error_handler(Exception, _unexpected)


def page(status: int, title: str = "", text: str = "", headers: dict[str, str] | None = None) -> Response:
    """An error as the caller can read it: a page in the browser, problem+json in the API."""
    known, remedy = SENTENCES.get(status, SENTENCES[500 if status >= 500 else 400])
    title, text = title or known, text or remedy
    if is_api(request.path):
        return api_problem(status, headers).response()
    if status >= 500:
        g.portal_failed = True  # then nothing may be asked of the database again
    template = "error_bare.html" if g.get("portal_failed") else "error.html"
    body = render_template(template, status=status, title=title, text=text, request_id=g.get("request_id", ""))
    return Response(body, status, headers, content_type="text/html; charset=utf-8")


# what the API calls its errors, by status; each first one has the words below
KINDS = {
    400: ("bad-request", "bad-json"),
    401: ("unauthorized",),
    403: ("forbidden", "scope"),
    404: ("not-found",),
    405: ("method-not-allowed",),
    409: ("key-reused",),
    413: ("too-large",),
    415: ("unsupported-media-type",),
    422: ("invalid",),
    429: ("too-many-requests",),
    500: ("internal",),
    503: ("unavailable", "unsure"),
}
_TITLES = {
    400: "The request cannot be understood",
    401: "A valid bearer token is required",
    403: "The role of the token's person does not allow this",
    404: "There is nothing here",
    405: "This address does not take that method",
    413: "The request body is too large",
    415: "The body must be application/json",
    429: "Too many requests",
    500: "Something went wrong in the portal",
    503: "The portal cannot reach its database",
}


def api_problem(status: int, headers: dict[str, str] | None = None) -> Problem:
    known = status if status in _TITLES else 500 if status >= 500 else 400
    if status == 401:
        headers = {"WWW-Authenticate": 'Bearer realm="simpletrain"', **(headers or {})}
    return Problem(status, KINDS[known][0], _TITLES[known], "Nothing was changed." if status == 503 else "", headers)


def is_api(path: str) -> bool:
    return path == "/api" or path.startswith("/api/")


def _http(error: HTTPException) -> Response | HTTPException:
    if error.code is None or error.code < 400:
        return error  # a redirect raised by routing
    if isinstance(error, SecurityError):
        g.portal_failed = True  # for a Host that is not ours no address can be written, so the page has none
        address = current_app.config["PORTAL"].url
        return page(
            400,
            "The portal does not answer at this address",
            f"It is at {address}. If that is not where it should be, its operator sets BASE_URL.",
        )
    kept = {name: value for name, value in error.get_headers() if name in ("Allow", "Retry-After")}
    return page(error.code, headers=kept)


def _csrf(_error: CSRFError) -> Response:
    return page(
        400,
        "This form is from another session",
        "You have signed in or out since it was opened. Go back, load the page anew, and send it again; your browser "
        "keeps what you typed. Nothing was changed.",
    )


def _database(error: Exception) -> Response:
    db.session.rollback()
    _log(error)
    if _disk_is_full(error):
        return _full()
    return page(503, headers={"Retry-After": "5"})


def _disk_is_full(error: Exception) -> bool:
    """SQLite says it in words, PostgreSQL in a code, the kernel in a number."""
    raw = error.orig if isinstance(error, DBAPIError) else error
    if isinstance(raw, OSError):
        return raw.errno in (errno.ENOSPC, errno.EDQUOT)
    return "disk is full" in str(raw) or getattr(raw, "sqlstate", None) == "53100"


def _full() -> Response:
    title, headers = "The portal's disk is full", {"Retry-After": "60"}
    text = "Nothing was changed. It goes on by itself once the operator has made room; what is there can be read."
    if is_api(request.path):
        return Problem(503, KINDS[503][0], title, text, headers).response()
    return page(503, title, text, headers)


def _unsure(error: CommitUnsure) -> Response:
    db.session.rollback()
    _log(error)
    title, headers = "The portal lost its database while it saved", {"Retry-After": "5"}
    if is_api(request.path):
        text = "Whether it was saved is not known. With the same Idempotency-Key it can be sent again safely."
        return Problem(503, "unsure", title, text, headers).response()
    return page(503, title, "Whether it was saved is not known. Look before you send it again.", headers)


def _unexpected(error: Exception) -> Response:
    db.session.rollback()
    if _disk_is_full(error) or (isinstance(error, DBAPIError) and error.connection_invalidated):
        return _database(error)  # the same to the person who waits
    _log(error)
    return page(500)


def _log(error: Exception) -> None:
    current_app.logger.error("request %s failed", g.get("request_id", "-"), exc_info=error)
