"""Which org a request is about, and as what."""

from __future__ import annotations

import pytest

from app.database import db
from app.orgs.access import required_role
from app.orgs.models import Membership, Role
from tests.conftest import Portal


def test_roles_include_the_weaker_ones() -> None:
    order = [Role.VIEWER, Role.MEMBER, Role.OWNER]
    for strength, role in enumerate(order):
        assert [role.includes(other) for other in order] == [place <= strength for place in range(3)]


def test_a_view_that_changes_something_must_name_a_role() -> None:
    def view() -> None: ...

    assert required_role(view, {"GET"}) is Role.VIEWER
    with pytest.raises(RuntimeError, match="names no role"):
        required_role(view, {"POST"})


def test_every_view_below_an_org_that_changes_something_names_a_role(portal: Portal) -> None:
    found = []
    for rule in portal.app.url_map.iter_rules():
        if "org" in rule.arguments:
            found.append(required_role(portal.app.view_functions[rule.endpoint], set(rule.methods or ()) - {"OPTIONS"}))
    assert {Role.VIEWER, Role.MEMBER} <= set(found)


def test_a_person_who_is_taken_out_of_an_org_is_out_at_once(portal: Portal) -> None:
    bob = portal.browser("bob")
    api = portal.api("bob")
    assert bob.get("/orgs/lab/jobs").status_code == 200
    with portal.app.app_context():
        db.session.query(Membership).filter(Membership.role == Role.MEMBER).delete()
        db.session.commit()
    assert bob.get("/orgs/lab/jobs").status_code == 404
    assert api.get("/api/jobs?org=lab").status_code == 404


def test_a_person_of_two_orgs_must_say_which_to_the_api(portal: Portal) -> None:
    portal.command("users", "create", "bob@example.org", "--org", "rivals")
    api = portal.api("bob")
    refused = api.get("/api/jobs")
    assert refused.status_code == 422
    assert refused.get_json()["errors"] == [{"field": "org", "detail": "Say which org: lab, rivals."}]
    assert api.get("/api/jobs?org=rivals").status_code == 200
    bob = portal.browser("bob")
    bob.get("/orgs/lab/jobs")
    assert {str(a["href"]) for a in bob.page.select(".menu-panel a")} >= {"/orgs/lab/jobs", "/orgs/rivals/jobs"}
