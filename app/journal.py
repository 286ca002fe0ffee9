"""What the portal writes down about itself: one line for each request and each thing that the worker does.

Every line of a request carries its id, every line about a job the job: a launch can be followed from the browser to
the cluster. Addresses are written as templates, without what was put into them: a sign-in link is an address too.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, TextIO

from flask import Flask, Response, g, request
from sqlalchemy import inspect

from app.config import Config
from app.metrics import figures

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
# what pages and programs ask for again and again, and what costs nothing: such lines are for LOG_LEVEL=DEBUG
QUIET = frozenset(
    {
        "static",
        "health.alive",
        "health.ready",
        "jobs.poll_fragment",
        "jobs.list_fragment",
        "jobs.lines_fragment",
        "jobs.draft_fragment",
        "api.read_log",
        "api.show",
    }
)
# Below these levels they tell what they carry: SQL with its values, bodies of answers, rows
LOUDEST = {
    "alembic": logging.WARNING,
    "kubernetes": logging.INFO,
    "psycopg": logging.INFO,
    "sqlalchemy": logging.WARNING,
    "urllib3": logging.INFO,
    "werkzeug": logging.INFO,
}

log = logging.getLogger("simpletrain.request")

_about: ContextVar[dict[str, Any] | None] = ContextVar("about", default=None)


def begin(**fields: Any) -> None:
    """From now on lines of this thread are about these, and about nothing that was before."""
    _about.set(dict(fields))


def note(**fields: Any) -> None:
    """Lines of this thread are about these too, from now on."""
    _about.set({**(_about.get() or {}), **fields})


@contextmanager
def about(**fields: Any) -> Iterator[None]:
    """Lines in here are about these too."""
    token = _about.set({**(_about.get() or {}), **fields})
    try:
        yield
    finally:
        _about.reset(token)


# requests


def install(app: Flask) -> None:
    @app.teardown_request
    def _forget(_error: BaseException | None) -> None:
        begin()


def request_begins(request_id: str) -> None:
    g.began = time.perf_counter()
    begin(request_id=request_id)


def request_ends(answer: Response) -> None:
    """Write the request's line and count it. Asks the database nothing: it may be what has failed."""
    route = request.url_rule.rule if request.url_rule is not None else "(none)"
    method = request.method if request.method in METHODS else "(other)"  # anybody can make up a method
    seconds = time.perf_counter() - g.get("began", time.perf_counter())
    figures.REQUEST.observe(seconds, route=route, method=method, status=f"{answer.status_code // 100}xx")
    level = logging.INFO
    if answer.status_code >= 500:
        level = logging.WARNING
    elif request.endpoint in QUIET and answer.status_code < 400:
        level = logging.DEBUG
    if not log.isEnabledFor(level):
        return
    fields: dict[str, Any] = {
        "method": method,
        "route": route,
        "status": answer.status_code,
        "ms": round(seconds * 1000, 1),
        "user": _key(g.get("_login_user"), 0),  # where flask-login keeps who asks
        "org": _key(g.get("membership"), 0),
        "address": request.remote_addr,
    }
    if "/jobs/<name>" in route and answer.status_code < 400:
        fields["job"] = (request.view_args or {}).get("name")
    known = {name: value for name, value in fields.items() if value is not None}
    log.log(level, "%s %s %s", method, route, answer.status_code, extra={"about": known})


def _key(row: Any, part: int) -> Any:
    """A part of a row's key, from memory: reading an attribute might ask the database."""
    state = inspect(row, raiseerr=False) if row is not None else None
    identity = getattr(state, "identity", None)
    return identity[part] if identity else None


# lines


def set_up(config: Config) -> None:
    """Write lines to standard error in the format of the settings. Leaves alone what somebody else set up."""
    root = logging.getLogger()
    ours = next((each for each in root.handlers if isinstance(each, _Handler)), None)
    if ours is None and not root.handlers:
        ours = _Handler()
        root.addHandler(ours)
    if ours is not None:
        ours.setFormatter(JsonLine() if config.log_format == "json" else TextLine())
    level = logging.getLevelNamesMapping()[config.log_level]
    root.setLevel(level)
    for name, loudest in LOUDEST.items():
        logging.getLogger(name).setLevel(max(level, loudest))


class _Handler(logging.StreamHandler[TextIO]):
    """Writes to whatever standard error is at the moment, and counts errors."""

    def __init__(self) -> None:
        super().__init__(sys.stderr)

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stderr
        if record.levelno >= logging.ERROR:
            figures.ERRORS.add(logger=record.name)
        super().emit(record)


def _at(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    return {**(_about.get() or {}), **getattr(record, "about", {})}


def _one_line(text: str) -> str:
    """Whatever a line is about, it stays one line, and no terminal obeys it."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


class TextLine(logging.Formatter):
    """For people: the sentence, then what it is about."""

    SAID = frozenset({"method", "route", "status"})  # in the sentence already

    def format(self, record: logging.LogRecord) -> str:
        said = " ".join(
            f"{name}={_one_line(str(value))}" for name, value in _fields(record).items() if name not in self.SAID
        )
        line = f"{_at(record)} {record.levelname} {record.name}: {_one_line(record.getMessage())}"
        if said:
            line += f" [{said}]"
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return line


class JsonLine(logging.Formatter):
    """For programs: one object a line. Times are RFC 3339 in UTC."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": _at(record),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **_fields(record),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)
