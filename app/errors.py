"""What people and programs see when something fails: a page with a sentence, or problem+json. Never a traceback."""

from __future__ import annotations

import json
from typing import Any

from flask import Flask, Response, current_app, g, render_template, request
from flask_wtf.csrf import CSRFError
from sqlalchemy.exc import DBAPIError, OperationalError
from werkzeug.exceptions import HTTPException, SecurityError

from app.database import db

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
    app.register_error_handler(OperationalError, _database)
    app.register_error_handler(Exception, _unexpected)


def page(status: int, title: str = "", text: str = "", headers: dict[str, str] | None = None) -> Response:
    """An error as the caller can read it: a page in the browser, problem+json in the API."""
    known, remedy = SENTENCES.get(status, SENTENCES[500 if status >= 500 else 400])
    title, text = title or known, text or remedy
    if request.path.startswith("/api/"):
        return api_problem(status, headers).response()
    if status >= 500:
        g.portal_failed = True  # then nothing may be asked of the database again
    template = "error_bare.html" if g.get("portal_failed") else "error.html"
    body = render_template(template, status=status, title=title, text=text, request_id=g.get("request_id", ""))
    return Response(body, status, headers, content_type="text/html; charset=utf-8")


def api_problem(status: int, headers: dict[str, str] | None = None) -> Problem:
    kinds = {
        400: ("bad-request", "The request cannot be understood", ""),
        401: ("unauthorized", "A valid bearer token is required", ""),
        403: ("forbidden", "The role of the token's person does not allow this", ""),
        404: ("not-found", "There is nothing here", ""),
        405: ("method-not-allowed", "This address does not take that method", ""),
        413: ("too-large", "The request body is too large", ""),
        415: ("unsupported-media-type", "The body must be application/json", ""),
        429: ("too-many-requests", "Too many requests", ""),
        503: ("unavailable", "The portal cannot reach its database", "Nothing was changed."),
    }
    kind, title, detail = kinds.get(status, ("internal", "Something went wrong in the portal", ""))
    if status == 401:
        headers = {"WWW-Authenticate": 'Bearer realm="simpletrain"', **(headers or {})}
    return Problem(status, kind, title, detail, headers)


def _http(error: HTTPException) -> Response | HTTPException:
    if error.code is None or error.code < 400:
        return error  # a redirect raised by routing
    if isinstance(error, SecurityError):
        g.portal_failed = True  # for a Host that is not ours no address can be written, so the page has none
    kept = {name: value for name, value in error.get_headers() if name in ("Allow", "Retry-After")}
    return page(error.code, headers=kept)


def _csrf(_error: CSRFError) -> Response:
    return page(
        400,
        "This form is from another session",
        "You have signed in or out since it was opened. Go back, load the page anew, and send it again; your browser "
        "keeps what you typed. Nothing was changed.",
    )


def _database(error: OperationalError) -> Response:
    db.session.rollback()
    _log(error)
    return page(503, headers={"Retry-After": "5"})


def _unexpected(error: Exception) -> Response:
    db.session.rollback()
    if isinstance(error, DBAPIError) and error.connection_invalidated:
        return _database(error)  # type: ignore[arg-type]  # the same to the person who waits
    _log(error)
    return page(500)


def _log(error: Exception) -> None:
    current_app.logger.error("request %s failed", g.get("request_id", "-"), exc_info=error)
