"""Callers of the API, and what they read out of its errors."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import delete
from werkzeug.test import TestResponse

from app.accounts import service as accounts
from app.database import db, transaction
from app.orgs import service as orgs
from tests.conftest import Api, Portal
from tests.jobs.conftest import World

PROBLEM = "https://simpletrain.io/problems/"


@pytest.fixture
def world(portal: Portal) -> World:
    return World(portal)


@pytest.fixture
def bob(portal: Portal) -> Api:
    return portal.api("bob")


def problem(answer: TestResponse, status: int, kind: str) -> dict[str, Any]:
    """The body of an error, which has to be a problem of this kind."""
    assert answer.status_code == status, answer.text
    assert answer.content_type == "application/problem+json"
    said: dict[str, Any] = answer.json  # type: ignore[assignment]  # it is an object
    assert said["type"] == PROBLEM + kind
    assert said["status"] == status
    assert said["title"]
    return said


def wrong(answer: TestResponse) -> dict[str, str]:
    """Which fields are wrong, and why."""
    said = problem(answer, 422, "invalid")
    return {each["field"]: each["detail"] for each in said["errors"]}


def in_two_orgs(portal: Portal) -> None:
    """Bob is a member of rivals too."""
    portal.command("users", "create", "bob@example.org", "--org", "rivals")


def leave(portal: Portal, person: str, org: str) -> None:
    """Somebody is no member any more."""
    with portal.app.app_context(), transaction():
        user = accounts.by_email(f"{person}@example.org")
        assert user is not None
        db.session.execute(
            delete(orgs.Membership).where(
                orgs.Membership.user_id == user.id, orgs.Membership.org_id == orgs.by_slug(org).id
            )
        )
