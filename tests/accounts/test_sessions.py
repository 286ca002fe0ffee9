"""Sessions: a row for each browser, which ends what a copied cookie could do."""

from __future__ import annotations

import pytest
from sqlalchemy import select

from app.accounts.models import ApiToken, SignInLink, User, UserSession
from app.database import db
from app.installation import service as installation
from tests.accounts.clock import Clock
from tests.conftest import Browser, Portal


def cookie(portal: Portal, browser: Browser) -> str:
    found = browser.client.get_cookie(name(portal))
    assert found is not None
    return found.value


def name(portal: Portal) -> str:
    return f"simpletrain-{portal.read(installation.identity)[:8]}"


def with_cookie(portal: Portal, value: str) -> Browser:
    browser = portal.browser()
    browser.client.set_cookie(name(portal), value)
    return browser


def rows(portal: Portal, person: str = "alice") -> list[int]:
    return list(
        portal.read(
            lambda: db.session.scalars(
                select(UserSession.id).join(User).where(User.email == f"{person}@example.org").order_by(UserSession.id)
            ).all()
        )
    )


def test_a_sign_out_ends_the_session_and_a_copied_cookie_opens_nothing(portal: Portal) -> None:
    browser = portal.browser("alice")
    copied = cookie(portal, browser)
    assert with_cookie(portal, copied).get("/account").status_code == 200
    answer = browser.post("/sign-out")
    assert answer.status_code == 303
    assert rows(portal) == []
    assert with_cookie(portal, copied).get("/account").status_code == 302
    assert browser.get("/account").status_code == 302
    browser.get("/sign-in")
    assert "You are signed out." in browser.text()


def test_a_sign_out_works_on_a_page_that_was_left_open(portal: Portal, clock: Clock) -> None:
    browser = portal.browser("alice")
    token = browser.token()
    clock.forward(minutes=30)
    assert browser.client.post("/sign-out", data={"csrf_token": token}).status_code == 303
    assert rows(portal) == []


def test_a_planted_cookie_never_becomes_a_session(portal: Portal) -> None:
    attacker = portal.browser()
    attacker.get("/sign-in")
    planted = cookie(portal, attacker)
    victim = with_cookie(portal, planted)
    with portal.app.app_context():
        secret = portal.command("users", "link", "alice@example.org").stdout.strip().rpartition("/")[2]
    victim.get(f"/sign-in/{secret}")
    assert victim.get("/account").status_code == 200
    assert cookie(portal, victim) != planted
    assert with_cookie(portal, planted).get("/account").status_code == 302


def test_what_a_visitor_held_before_is_void_after_signing_in(portal: Portal) -> None:
    browser = portal.browser()
    before = browser.token()
    secret = portal.command("users", "link", "alice@example.org").stdout.strip().rpartition("/")[2]
    browser.get(f"/sign-in/{secret}")
    answer = browser.client.post("/account/name", data={"name": "Mallory", "csrf_token": before})
    assert answer.status_code == 400


def test_signing_in_again_ends_the_session_before(portal: Portal) -> None:
    browser = portal.browser("alice")
    first = cookie(portal, browser)
    secret = portal.command("users", "link", "bob@example.org").stdout.strip().rpartition("/")[2]
    browser.get(f"/sign-in/{secret}")
    assert rows(portal, "alice") == []
    assert with_cookie(portal, first).get("/account").status_code == 302


def test_the_cookie_cannot_be_made_up(portal: Portal) -> None:
    value = cookie(portal, portal.browser("alice"))
    payload, _, signature = value.partition(".")
    for forged in (payload, f"{payload}.{signature[:-1]}", f"{payload}.{signature}x", value.swapcase(), "", "." * 9):
        assert with_cookie(portal, forged).get("/account").status_code == 302


def test_only_a_hash_of_the_sessions_secret_is_kept(portal: Portal) -> None:
    browser = portal.browser("alice")
    with portal.app.test_request_context(headers={"Cookie": f"{name(portal)}={cookie(portal, browser)}"}):
        from flask import session

        secret = session["sid"]
    assert len(secret) >= 43
    for file in portal.config.data_dir.glob("portal.db*"):
        assert secret.encode() not in file.read_bytes()


def test_an_idle_session_ends(portal: Portal, clock: Clock) -> None:
    browser = portal.browser("alice")
    idle = portal.config.session_idle_hours
    clock.forward(hours=idle - 1)
    assert browser.get("/account").status_code == 200  # which counts as use
    clock.forward(hours=idle - 1)
    assert browser.get("/account").status_code == 200
    clock.forward(hours=idle + 1)
    assert browser.get("/account").status_code == 302


def test_a_session_ends_however_much_it_is_used(portal: Portal, clock: Clock) -> None:
    browser = portal.browser("alice")
    for _ in range(portal.config.session_hours // 24 - 1):
        clock.forward(hours=24)
        assert browser.get("/account").status_code == 200
    clock.forward(hours=25)
    assert browser.get("/account").status_code == 302


def test_a_session_that_has_ended_by_time_is_removed_at_the_next_sign_in(portal: Portal, clock: Clock) -> None:
    portal.browser("alice")
    (old,) = rows(portal)
    clock.forward(hours=portal.config.session_hours + 1)
    portal.browser("alice")
    assert old not in rows(portal)
    assert len(rows(portal)) == 1


def test_disabling_a_person_ends_every_way_in_at_once(portal: Portal) -> None:
    browser, api = portal.browser("bob"), portal.api("bob")
    secret = portal.command("users", "link", "bob@example.org").stdout.strip().rpartition("/")[2]
    assert api.get("/api/me").status_code == 200
    assert portal.command("users", "disable", "bob@example.org").exit_code == 0
    assert browser.get("/orgs/lab/jobs").status_code == 302
    assert api.get("/api/me").status_code == 401
    assert portal.browser().get(f"/sign-in/{secret}").status_code == 410
    with portal.app.app_context():
        for model in (UserSession, ApiToken, SignInLink):
            assert db.session.query(model).join(User).filter(User.email == "bob@example.org").count() == 0, model


# the list on the account page


def test_a_person_sees_their_sessions_and_ends_another_one(portal: Portal) -> None:
    other, here = portal.browser("alice"), portal.browser("alice")
    first, second = rows(portal)
    here.get("/account")
    ends = [str(form["action"]) for form in here.page.find_all("form") if str(form["action"]).endswith("/end")]
    assert ends == [f"/account/sessions/{first}/end"]  # not the one that is used here
    assert here.post(ends[0]).status_code == 303
    assert rows(portal) == [second]
    assert other.get("/account").status_code == 302
    assert here.get("/account").status_code == 200


def test_nobody_ends_somebody_elses_session(portal: Portal) -> None:
    alice, mallory = portal.browser("alice"), portal.browser("mallory")
    (session_id,) = rows(portal)
    assert mallory.post(f"/account/sessions/{session_id}/end").status_code == 404
    assert rows(portal) == [session_id]
    assert alice.get("/account").status_code == 200


def test_a_person_ends_all_their_other_sessions(portal: Portal) -> None:
    others, here, bob = [portal.browser("alice") for _ in range(3)], portal.browser("alice"), portal.browser("bob")
    assert here.post("/account/sessions/end-others").status_code == 303
    assert len(rows(portal)) == 1
    assert all(each.get("/account").status_code == 302 for each in others)
    assert here.get("/account").status_code == 200
    assert bob.get("/account").status_code == 200


def test_the_last_use_is_noted_but_not_at_every_request(portal: Portal, clock: Clock) -> None:
    browser = portal.browser("alice")

    def seen() -> object:
        return portal.read(lambda: db.session.scalars(select(UserSession.seen_at)).one())

    first = seen()
    browser.get("/account")
    assert seen() == first
    clock.forward(minutes=6)
    browser.get("/account")
    assert seen() != first


# cookies that are not ours


@pytest.mark.parametrize(
    "planted", ["remember_token", "session", "simpletrain-00000000", "__Host-simpletrain", "theme"]
)
def test_a_cookie_of_another_program_on_this_host_signs_nobody_out(portal: Portal, planted: str) -> None:
    browser = portal.browser("alice")
    browser.client.set_cookie(planted, "1|0123456789abcdef")
    assert browser.get("/account").status_code == 200


@pytest.mark.parametrize("path", ["/static/no-such.css", "/healthz", "/api/jobs", "/api/no-such", "/readyz"])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_an_error_of_an_address_without_a_session_signs_nobody_out(portal: Portal, path: str, method: str) -> None:
    browser = portal.browser("alice")
    answer = browser.client.open(path, method=method)
    assert "Set-Cookie" not in answer.headers
    assert browser.get("/account").status_code == 200
