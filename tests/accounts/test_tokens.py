"""API tokens: shown once, hashed, revocable."""

from __future__ import annotations

from datetime import timedelta

import pytest
from sqlalchemy import select

from app.accounts.models import ApiToken, User
from app.database import db, now
from tests.accounts.clock import Clock
from tests.conftest import Api, Portal


def status(portal: Portal, authorization: str | None) -> int:
    headers = {"Authorization": authorization} if authorization is not None else {}
    return portal.app.test_client().get("/api/me", headers=headers).status_code


def test_a_token_opens_the_api_for_its_person(portal: Portal) -> None:
    answer = portal.api("bob").get("/api/me")
    assert answer.status_code == 200
    assert answer.get_json()["email"] == "bob@example.org"


def test_only_a_hash_of_a_token_is_kept(portal: Portal) -> None:
    token = portal.token("bob")
    prefix, public_id, secret = token.split("_", 2)
    assert prefix == "st"
    assert len(secret) >= 43
    assert portal.read(lambda: db.session.scalars(select(ApiToken.public_id)).one()) == public_id
    for file in portal.config.data_dir.glob("portal.db*"):
        assert secret.encode() not in file.read_bytes()


def test_a_wrong_token_is_refused_and_told_how_to_ask(portal: Portal) -> None:
    token = portal.token("bob")
    _, public_id, secret = token.split("_", 2)
    other = portal.token("alice")
    for wrong in (
        None,
        "",
        "Bearer",
        "Bearer ",
        f"Bearer {token}x",
        f"Bearer {token[:-1]}",
        f"Bearer {token.upper()}",
        f"Bearer st_{public_id}_",
        f"Bearer st_{public_id}x_{secret}",
        f"Bearer st_{other.split('_')[1]}_{secret}",
        f"Bearer {secret}",
        f"Bearer {token} {token}",
        f"Basic {token}",
        token,
        "Bearer \u00e9",
        "Bearer st__",
        "Bearer " + "x" * 60_000,
    ):
        assert status(portal, wrong) == 401, wrong
    assert status(portal, f"bearer {token}") == 200
    answer = portal.app.test_client().get("/api/me")
    assert answer.headers["WWW-Authenticate"] == 'Bearer realm="simpletrain"'
    assert answer.mimetype == "application/problem+json"


def test_a_token_in_the_address_opens_nothing(portal: Portal) -> None:
    token = portal.token("bob")
    client = portal.app.test_client()
    assert client.get("/api/me", query_string={"access_token": token}).status_code == 401
    assert client.get("/api/me", query_string={"token": token}).status_code == 401


def test_an_expired_token_is_refused(portal: Portal, clock: Clock) -> None:
    api = portal.api("bob")
    with portal.app.app_context():
        db.session.query(ApiToken).update({"expires_at": now() + timedelta(hours=1)})
        db.session.commit()
    assert api.get("/api/me").status_code == 200
    clock.forward(minutes=61)
    assert api.get("/api/me").status_code == 401


def test_a_person_revokes_a_token_on_the_account_page(portal: Portal) -> None:
    api, other = portal.api("bob"), portal.api("bob")
    bob = portal.browser("bob")
    bob.get("/account")
    public_id = api.token.split("_")[1]
    row = next(row for row in bob.page.find_all("tr") if f"st_{public_id}_" in row.get_text())
    form = row.find("form")
    assert form is not None
    assert api.token not in str(bob.page)
    assert bob.post(str(form["action"])).status_code == 303
    assert api.get("/api/me").status_code == 401
    assert other.get("/api/me").status_code == 200
    left = portal.read(lambda: db.session.scalars(select(ApiToken.public_id)).all())
    assert left == [other.token.split("_")[1]]


def test_nobody_revokes_somebody_elses_token(portal: Portal) -> None:
    api = portal.api("bob")
    (token_id,) = portal.read(lambda: db.session.scalars(select(ApiToken.id)).all())
    assert portal.browser("alice").post(f"/account/tokens/{token_id}/revoke").status_code == 404
    assert portal.browser("mallory").post(f"/account/tokens/{token_id}/revoke").status_code == 404
    assert api.get("/api/me").status_code == 200


def test_a_token_does_what_its_person_may_do_now(portal: Portal) -> None:
    from app.orgs.models import Membership, Role

    api = portal.api("alice")
    portal.launch("his", "bob")
    assert api.delete("/api/jobs/his").status_code == 202
    portal.launch("his-2", "bob")
    with portal.app.app_context():
        alice = db.session.scalars(select(User).filter_by(email="alice@example.org")).one()
        db.session.query(Membership).filter_by(user_id=alice.id).update({"role": Role.VIEWER})
        db.session.commit()
    assert api.delete("/api/jobs/his-2").status_code == 403
    assert portal.job("his-2").state == "queued"


@pytest.mark.parametrize(
    ("scopes", "reads", "writes"), [("read", 200, 403), ("write", 403, 201), ("", 403, 403), ("read write", 200, 201)]
)
def test_a_token_does_only_what_it_was_made_for(portal: Portal, scopes: str, reads: int, writes: int) -> None:
    api: Api = portal.api("bob")
    with portal.app.app_context():
        db.session.query(ApiToken).update({"scopes": scopes})
        db.session.commit()
    for path in ("/api/jobs", "/api/presets", "/api/clusters"):
        assert api.get(path).status_code == reads, path
    assert api.post("/api/jobs", json={"preset": "plain", "command": "true"}).status_code == writes
    assert api.get("/api/me").get_json()["scopes"] == scopes.split()


@pytest.mark.parametrize("org", ["\ud800", "a\0b", "LAB", "lab ", "lab\n", "é", "x" * 5000, ""])
def test_an_org_that_cannot_be_is_an_org_that_is_not(portal: Portal, org: str) -> None:
    answer = portal.api("alice").post("/api/jobs", json={"preset": "plain", "command": "true", "org": org})
    assert answer.status_code == 404
