"""The JSON API: bearer tokens only, problem+json for every error. Features bring their own calls."""

from __future__ import annotations

from collections.abc import Callable

from flask import Blueprint, Flask

from app.api import describe
from app.extensions import csrf


def install(app: Flask, *features: Callable[[Blueprint], None]) -> None:
    bp = Blueprint("api", __name__, url_prefix="/api")
    describe.register(bp)
    for register in features:
        register(bp)
    csrf.exempt(bp)  # cookies are not looked at here, so there is nothing to forge
    app.register_blueprint(bp)
