"""The one place where a request is bound to an org: every page below /orgs/ORG/ passes here first."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from flask import Flask, Response, abort, current_app, g, request
from werkzeug.local import LocalProxy

from app.accounts.access import session_now
from app.accounts.service import current_user
from app.database import db
from app.errors import page
from app.orgs import service
from app.orgs.models import Membership, Org, Role

View = TypeVar("View", bound=Callable[..., Any])

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})

current_org: Org = LocalProxy(lambda: g.membership.org)  # type: ignore[assignment]  # a proxy stands in for it


def requires(role: Role) -> Callable[[View], View]:
    """Mark a view with the weakest role that may use it."""

    def mark(view: View) -> View:
        view.required_role = role  # type: ignore[attr-defined]
        return view

    return mark


def required_role(view: Callable[..., Any], methods: set[str]) -> Role:
    """What a view below /orgs/ORG/ asks for. One that changes something must say so itself."""
    role: Role | None = getattr(view, "required_role", None)
    if role is None and not methods <= SAFE_METHODS:
        raise RuntimeError(f"{view.__module__}.{view.__name__} changes something and names no role: add @requires")
    return role or Role.VIEWER


def install(app: Flask) -> None:
    @app.url_value_preprocessor
    def _take_org(_endpoint: str | None, values: dict[str, Any] | None) -> None:
        g.org_slug = values.pop("org", None) if values is not None else None

    @app.url_defaults
    def _keep_org(endpoint: str, values: dict[str, Any]) -> None:
        if "org" not in values and "membership" in g and app.url_map.is_endpoint_expecting(endpoint, "org"):
            values["org"] = g.membership.org.slug

    @app.before_request
    def _bind_org() -> Response | None:
        if g.org_slug is None or request.endpoint is None or request.blueprint == "api":
            return None
        found = service.membership(current_user().id, g.org_slug)
        if found is None:
            # a page that was open when its reader left the org loads anew, which ends its poll
            return page(404, headers={"HX-Refresh": "true"} if request.headers.get("HX-Request") else None)
        g.membership = found
        view = current_app.view_functions[request.endpoint]
        if not found.role.includes(required_role(view, {request.method})):
            abort(403)
        return None


def role() -> Role:
    """The role of the person who asks, in the org that the request is about."""
    found: Membership = g.membership
    return found.role


def still_let_in() -> bool:
    """Whether who asks is still signed in and in the org, asked anew: an answer may take long to send."""
    db.session.rollback()  # what was read before is what was true before
    found = session_now()
    return found is not None and service.membership(found.user_id, g.org_slug) is not None
