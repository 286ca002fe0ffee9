"""Cursors that callers hand back: signed, and bound to what they were made for, so that none can be made up."""

from __future__ import annotations

from flask import current_app
from itsdangerous import BadData, URLSafeSerializer

from app.api.request import invalid


def _serializer(purpose: str) -> URLSafeSerializer:
    return URLSafeSerializer(current_app.config["SECRET_KEY"], salt=f"cursor {purpose}")


def make(purpose: str, *position: int) -> str:
    written: str = _serializer(purpose).dumps(list(position))
    return written


def read(purpose: str, name: str, cursor: str, length: int) -> list[int]:
    """Raises Problem for a cursor that was not made here for this purpose."""
    try:
        position = _serializer(purpose).loads(cursor)
    except BadData:
        position = None
    if not isinstance(position, list) or len(position) != length:
        raise invalid({name: "This cursor was not made for this call."})
    return position
