"""For whatever watches the process: is it alive, and could it serve a page now? No cluster is asked."""

from __future__ import annotations

from flask import Blueprint, Response

from app.accounts.access import public
from app.installation import service as installation

bp = Blueprint("health", __name__)


@bp.get("/healthz")
@public
def alive() -> Response:
    return Response("ok\n", content_type="text/plain")


@bp.get("/readyz")
@public
def ready() -> Response:
    try:
        installation.verify()
    except installation.NotReady:
        return Response("not ready\n", 503, {"Retry-After": "5"}, content_type="text/plain")
    return Response("ready\n", content_type="text/plain")
