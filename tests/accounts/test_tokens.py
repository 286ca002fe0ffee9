"""API tokens: shown once, hashed, revocable."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from bs4 import Tag
from sqlalchemy import func, select

from app.accounts import service
from app.accounts.models import ApiToken, User, UserSession
from app.database import db, now, transaction
from tests.accounts.clock import Clock
from tests.conftest import Api, Browser, Portal


def row_of(browser: Browser, token: str) -> Tag:
    return next(row for row in browser.page.find_all("tr") if f"st_{token.split('_')[1]}_" in row.get_text())


def make_token(browser: Browser, **fields: Any) -> str:
    """Fill the form of the account page in and send it; the token that the answer shows."""
    browser.get("/account")
    ticked = [str(each["value"]) for each in browser.page.select("input[name=scopes][checked]")]
    sent = {**browser.form("/account/tokens#tokens"), "name": "nightly", "scopes": ticked, **fields}
    answer = browser.post("/account/tokens", sent)
    assert answer.status_code == 200, browser.text()
    shown = browser.page.find("pre", {"aria-label": "Token"})
    assert shown is not None
    return shown.get_text()


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
    link = row_of(bob, api.token).find("a")
    assert link is not None
    assert api.token not in str(bob.page)
    bob.get(str(link["href"]))  # the question, where the browser has no dialogs
    assert f"st_{api.token.split('_')[1]}_… is refused from then on" in bob.text()
    assert api.get("/api/me").status_code == 200
    (form,) = [each for each in bob.page.find_all("form") if str(each["action"]).endswith("/revoke")]
    assert bob.post(str(form["action"])).status_code == 303
    assert api.get("/api/me").status_code == 401
    assert other.get("/api/me").status_code == 200
    left = portal.read(lambda: db.session.scalars(select(ApiToken.public_id)).all())
    assert left == [other.token.split("_")[1]]


def test_the_dialog_of_the_account_page_asks_and_revokes_the_same_token(portal: Portal) -> None:
    portal.api("bob"), portal.api("bob")
    bob = portal.browser("bob")
    bob.get("/account")
    for link in bob.page.select("#tokens a[data-dialog]"):
        dialog = bob.page.find("dialog", id=str(link["data-dialog"]))
        assert dialog is not None
        form = dialog.find("form")
        assert form is not None
        assert str(form["action"]) == str(link["href"])


def test_nobody_revokes_somebody_elses_token(portal: Portal) -> None:
    api = portal.api("bob")
    (token_id,) = portal.read(lambda: db.session.scalars(select(ApiToken.id)).all())
    assert portal.browser("alice").post(f"/account/tokens/{token_id}/revoke").status_code == 404
    assert portal.browser("alice").get(f"/account/tokens/{token_id}/revoke").status_code == 404
    assert portal.browser("mallory").post(f"/account/tokens/{token_id}/revoke").status_code == 404
    assert api.get("/api/me").status_code == 200


@pytest.mark.parametrize("number", [0, 2**31, 2**63, 10**40])
def test_a_number_that_no_row_has_is_not_found(portal: Portal, number: int) -> None:
    bob = portal.browser("bob")
    assert bob.get(f"/account/tokens/{number}/revoke").status_code == 404
    assert bob.post(f"/account/tokens/{number}/revoke").status_code == 404
    assert bob.post(f"/account/sessions/{number}/end").status_code == 404


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


# made by the person, on the account page


def test_a_token_is_made_for_reading_and_writing_and_ninety_days_unless_said_otherwise(
    portal: Portal, clock: Clock
) -> None:
    bob = portal.browser("bob")
    token = make_token(bob)
    api = Api(portal.app.test_client(), token)
    assert api.get("/api/me").get_json()["scopes"] == ["read", "write"]
    clock.forward(days=89, hours=23)
    assert api.get("/api/me").status_code == 200
    clock.forward(hours=2)
    assert api.get("/api/me").status_code == 401


@pytest.mark.parametrize(("choice", "days"), [("30", 30), ("365", 365), ("", None)])
def test_the_person_chooses_when_a_token_expires(portal: Portal, clock: Clock, choice: str, days: int | None) -> None:
    api = Api(portal.app.test_client(), make_token(portal.browser("bob"), days=choice))
    clock.forward(days=(days or 10_000) - 1)
    assert api.get("/api/me").status_code == 200
    clock.forward(days=2)
    assert api.get("/api/me").status_code == (200 if days is None else 401)


@pytest.mark.parametrize("scope", ["read", "write"])
def test_the_person_chooses_what_a_token_may_do(portal: Portal, scope: str) -> None:
    api = Api(portal.app.test_client(), make_token(portal.browser("bob"), scopes=scope))
    assert api.get("/api/me").get_json()["scopes"] == [scope]
    assert api.get("/api/jobs").status_code == (200 if scope == "read" else 403)
    launched = api.post("/api/jobs", json={"preset": "plain", "command": "true"})
    assert launched.status_code == (201 if scope == "write" else 403)


def test_a_token_is_shown_in_one_answer_alone(portal: Portal) -> None:
    bob = portal.browser("bob")
    bob.get("/account")
    fields = {**bob.form("/account/tokens#tokens"), "name": "nightly"}
    answer = bob.post("/account/tokens", fields)
    token = str(bob.page.select_one("pre").get_text())  # type: ignore[union-attr]
    assert answer.headers["Cache-Control"] == "no-store"
    assert "Location" not in answer.headers
    assert token not in str(answer.headers)
    assert "Set-Cookie" not in answer.headers
    assert token not in str(bob.client._cookies)
    # whoever loads the answer again, or goes back and sends the form again, sees none and makes none
    again = bob.post("/account/tokens", fields)
    assert again.status_code == 303
    assert token not in again.text
    bob.get("/account")
    assert token not in str(bob.page)
    assert "shown once already" in bob.text()
    assert portal.read(lambda: db.session.scalar(select(func.count()).select_from(ApiToken))) == 1
    # and a fresh form makes another one
    assert make_token(bob) != token


def test_the_wish_of_one_person_is_not_the_wish_of_another(portal: Portal) -> None:
    tokens = {make_token(portal.browser(person), once="the same") for person in ("alice", "bob")}
    assert len({token.split("_")[1] for token in tokens}) == 2


def test_the_address_of_a_new_token_leads_back_to_the_list(portal: Portal) -> None:
    assert portal.browser("bob").get("/account/tokens").location == "/account#tokens"


def test_the_account_page_lists_what_is_known_of_each_token(portal: Portal, clock: Clock) -> None:
    bob = portal.browser("bob")
    used, old = make_token(bob, name="notebook", scopes="read"), make_token(bob, name="old <b>one</b>", days="30")
    Api(portal.app.test_client(), used).get("/api/me")
    bob.get("/account")
    said = row_of(bob, used).get_text(" ", strip=True)
    assert "notebook" in said
    assert "read, write" not in said
    assert said.count("just now") == 2  # made, and used
    assert "in 90" in said
    said = row_of(bob, old).get_text(" ", strip=True)
    assert "old <b>one</b>" in said
    assert "read, write" in said
    assert "never" in said
    with portal.app.app_context():
        db.session.query(ApiToken).filter_by(public_id=old.split("_")[1]).update({"expires_at": now()})
        db.session.commit()
    bob.get("/account")
    assert "expired" in row_of(bob, old).get_text()
    assert used.rpartition("_")[2] not in str(bob.page)


def test_an_expired_token_leaves_the_list_a_month_later(portal: Portal, clock: Clock) -> None:
    bob = portal.browser("bob")
    make_token(bob, days="30")
    clock.forward(days=59)
    portal.token("bob")
    assert portal.read(lambda: db.session.scalar(select(func.count()).select_from(ApiToken))) == 2
    clock.forward(days=2)
    portal.token("bob")
    assert portal.read(lambda: db.session.scalar(select(func.count()).select_from(ApiToken))) == 2


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"name": ""}, "Write what it is for"),
        ({"name": "  "}, "Write what it is for"),
        ({"name": "x" * 101}, "100 characters at most"),
        ({"name": "a\0b"}, "one line of text"),
        ({"scopes": []}, "Tick at least one"),
        ({"scopes": "admin"}, "Tick at least one"),
        ({"days": "31"}, "Choose one of these"),
        ({"days": "never"}, "Choose one of these"),
    ],
)
def test_a_token_that_cannot_be_is_refused_beside_its_field_and_nothing_is_lost(
    portal: Portal, wrong: dict[str, Any], says: str
) -> None:
    bob = portal.browser("bob")
    bob.get("/account")
    once = bob.form("/account/tokens#tokens")["once"]
    sent = {"name": "nightly", "scopes": ["write"], "days": "365", "once": once, **wrong}
    assert bob.post("/account/tokens", sent).status_code == 422
    assert [each.get_text(strip=True) for each in bob.page.select(".error")] != []
    assert says in bob.page.select(".error")[0].get_text()
    kept = bob.form("/account/tokens#tokens")
    assert kept["once"] == once
    if "name" not in wrong:
        assert kept["name"] == "nightly"
    if "scopes" not in wrong:
        assert kept["scopes"] == "write"
    if "days" not in wrong:
        assert kept["days"] == "365"
    assert portal.read(lambda: db.session.scalar(select(func.count()).select_from(ApiToken))) == 0


def test_nobody_makes_tokens_without_end(portal: Portal, clock: Clock) -> None:
    bob = portal.browser("bob")
    first = make_token(bob, days="30")
    with portal.app.app_context(), transaction():
        user = service.by_email("bob@example.org")
        assert user is not None
        for _ in range(service.TOKENS_MAX - 1):
            service.make_token(user)
    bob.get("/account")
    refused = bob.post("/account/tokens", {**bob.form("/account/tokens#tokens"), "name": "one more"})
    assert refused.status_code == 422
    assert "You have 50 tokens, and may have 50" in bob.text()
    assert bob.form("/account/tokens#tokens")["name"] == "one more"
    make_token(portal.browser("alice"))
    # one that has expired does not count
    with portal.app.app_context():
        db.session.query(ApiToken).filter_by(public_id=first.split("_")[1]).update({"expires_at": now()})
        db.session.commit()
    make_token(bob)


# a changed password


def test_a_new_password_leaves_the_tokens_alone_unless_it_is_asked_for(portal: Portal) -> None:
    api, alices = portal.api("bob"), portal.api("alice")
    bob = portal.browser("bob")
    bob.get("/account")
    password = {"password": "correct horse battery", "again": "correct horse battery"}
    assert bob.post("/account/password", {**bob.form("/account/password"), **password}).status_code == 303
    assert api.get("/api/me").status_code == 200
    assert bob.post("/account/password", {**password, "revoke": "y"}).status_code == 303
    assert api.get("/api/me").status_code == 401
    assert alices.get("/api/me").status_code == 200
    bob.get("/account")
    assert "every API token of yours has ended" in bob.text()


def test_nobody_without_a_token_is_asked_what_to_do_with_them(portal: Portal) -> None:
    bob = portal.browser("bob")
    bob.get("/account")
    assert bob.page.find("input", {"name": "revoke"}) is None


# while a request runs


def test_a_token_that_is_revoked_while_its_request_runs_is_no_fault(
    portal: Portal, monkeypatch: pytest.MonkeyPatch
) -> None:
    api = portal.api("bob")

    def revoked(_token_id: int) -> None:
        db.session.query(ApiToken).delete()

    monkeypatch.setattr(service, "touch_token", revoked)
    assert api.get("/api/jobs").status_code == 200
    assert api.get("/api/jobs").status_code == 401


def test_a_session_that_ends_while_its_request_runs_is_no_fault(
    portal: Portal, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    bob = portal.browser("bob")

    def ended(_session_id: int) -> None:
        db.session.query(UserSession).delete()

    monkeypatch.setattr(service, "touch_session", ended)
    clock.forward(minutes=6)
    assert bob.get("/account").status_code == 200
    assert bob.get("/account").status_code == 302
