"""The JSON API: bearer tokens only, problem+json for every error. Features bring their own calls."""

from __future__ import annotations

from collections.abc import Callable

from flask import Blueprint, Flask
from flask import request as incoming
from werkzeug.routing import RequestRedirect

from app.api import describe, openapi
from app.errors import api_problem, is_api
from app.extensions import csrf


def install(app: Flask, *features: Callable[[Blueprint], None]) -> None:
    bp = Blueprint("api", __name__, url_prefix="/api")
    for register in (openapi.register, describe.register, *features):
        register(bp)

    @bp.before_app_request
    def _send_nobody_on() -> None:
        # /api/jobs//logs is a mistake, and not the job that is called logs
        if isinstance(incoming.routing_exception, RequestRedirect) and is_api(incoming.path):
            raise api_problem(404)

    csrf.exempt(bp)  # cookies are not looked at here, so there is nothing to forge
    app.register_blueprint(bp)
