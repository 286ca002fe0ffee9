"""Signing in with a password, and what happens to those who guess."""

from __future__ import annotations

from datetime import timedelta

import pytest
from sqlalchemy import func, select
from werkzeug.test import TestResponse

from app.accounts import secrets
from app.accounts.models import SignInFailure, User, UserSession
from app.database import db, now
from tests.accounts.clock import Clock
from tests.conftest import Browser, Portal

GOOD = "correct horse battery"
WRONG = "The e-mail address and the password do not belong together."


def with_password(portal: Portal, person: str = "alice", password: str = GOOD) -> Browser:
    """Somebody who came in by a link and set a password on the account page."""
    browser = portal.browser(person)
    browser.get("/account")
    answer = browser.post("/account/password", {"password": password, "again": password})
    assert answer.status_code == 303
    return browser


def sign_in(browser: Browser, email: str, password: str, address: str = "192.0.2.1", **more: object) -> TestResponse:
    fields = {"email": email, "password": password, "csrf_token": browser.token()}
    return browser._took(
        browser.client.post("/sign-in", data=fields, environ_overrides={"REMOTE_ADDR": address}, **more)
    )


def count(portal: Portal, model: type) -> int:
    return int(portal.read(lambda: db.session.scalar(select(func.count()).select_from(model))))


def test_a_person_signs_in_with_the_password_that_they_set(portal: Portal) -> None:
    with_password(portal)
    browser = portal.browser()
    answer = sign_in(browser, "alice@example.org", GOOD)
    assert answer.status_code == 303
    assert browser.get("/account").status_code == 200
    assert "alice@example.org" in browser.text()


def test_the_address_may_be_written_in_capitals_and_with_spaces(portal: Portal) -> None:
    with_password(portal)
    assert sign_in(portal.browser(), "  Alice@Example.ORG ", GOOD).status_code == 303


def test_only_a_slow_hash_of_the_password_is_kept(portal: Portal) -> None:
    with_password(portal)
    stored = portal.read(lambda: db.session.scalar(select(User.password_hash).filter_by(email="alice@example.org")))
    assert stored.startswith("$argon2id$")
    assert GOOD not in stored


@pytest.mark.parametrize("password", ["wrong horse battery", GOOD + " ", GOOD.upper(), ""])
def test_a_wrong_password_opens_nothing(portal: Portal, password: str) -> None:
    with_password(portal)
    sessions = count(portal, UserSession)
    browser = portal.browser()
    assert sign_in(browser, "alice@example.org", password).status_code == 422
    assert count(portal, UserSession) == sessions
    assert browser.get("/account").status_code == 302


def test_nobody_learns_whether_an_account_exists(portal: Portal, monkeypatch: pytest.MonkeyPatch) -> None:
    with_password(portal)
    portal.command("users", "disable", "vera@example.org")
    hashed = []
    verify = type(secrets._hasher).verify

    def counted(self: object, stored: str, password: bytes) -> bool:
        hashed.append(stored.split("$")[1:4])
        return verify(self, stored, password)  # type: ignore[arg-type]

    monkeypatch.setattr(type(secrets._hasher), "verify", counted)
    answers = []
    # with a password, without one, disabled, unknown
    for email in ("alice@example.org", "bob@example.org", "vera@example.org", "zoe@example.org"):
        browser = portal.browser()
        answer = sign_in(browser, email, "wrong horse battery")
        text = answer.text.replace(email, "…").replace(browser.form("/sign-in")["csrf_token"], "…")
        head = {name: value for name, value in answer.headers if name not in ("X-Request-Id", "Content-Length")}
        answers.append((answer.status_code, browser.text(), head.keys(), text.count("\n")))
        assert WRONG in browser.text()
    assert len(answers) == 4
    assert all(answer == answers[0] for answer in answers)
    # the same slow hash was computed for each
    assert len(hashed) == 4
    assert all(each == hashed[0] for each in hashed)


def test_what_was_typed_stays_but_for_the_password(portal: Portal) -> None:
    browser = portal.browser()
    answer = sign_in(browser, "alice@example.org", "wrong horse battery")
    assert browser.form("/sign-in")["email"] == "alice@example.org"
    assert "wrong horse battery" not in answer.text


def test_ten_wrong_passwords_close_the_door_for_that_address_alone(portal: Portal, clock: Clock) -> None:
    with_password(portal)
    guesser = portal.browser()
    for _ in range(10):
        assert sign_in(guesser, "alice@example.org", "wrong horse battery").status_code == 422
    refused = sign_in(guesser, "alice@example.org", GOOD)
    assert refused.status_code == 429
    assert 0 < int(refused.headers["Retry-After"]) <= 15 * 60
    assert "Too many wrong passwords" in guesser.text()
    assert guesser.get("/account").status_code == 302
    # a header that anyone can write does not make another address
    assert sign_in(guesser, "alice@example.org", GOOD, headers={"X-Forwarded-For": "198.51.100.9"}).status_code == 429
    # others from there, and the owner from elsewhere, come in
    with_password(portal, "bob")
    assert sign_in(portal.browser(), "bob@example.org", GOOD).status_code == 303
    assert sign_in(portal.browser(), "alice@example.org", GOOD, address="192.0.2.2").status_code == 303


def test_the_door_opens_again_after_the_time_that_was_told(portal: Portal, clock: Clock) -> None:
    with_password(portal)
    guesser = portal.browser()
    for _ in range(10):
        sign_in(guesser, "alice@example.org", "wrong horse battery")
    wait = int(sign_in(guesser, "alice@example.org", GOOD).headers["Retry-After"])
    clock.forward(seconds=wait - 5)
    assert sign_in(guesser, "alice@example.org", GOOD).status_code == 429
    clock.forward(seconds=10)
    assert sign_in(guesser, "alice@example.org", GOOD).status_code == 303


def test_an_account_that_nobody_has_is_closed_after_ten_tries_too(portal: Portal) -> None:
    guesser = portal.browser()
    for _ in range(10):
        assert sign_in(guesser, "zoe@example.org", "wrong horse battery").status_code == 422
    assert sign_in(guesser, "zoe@example.org", "wrong horse battery").status_code == 429


def test_a_guess_from_many_addresses_is_stopped_too(portal: Portal, monkeypatch: pytest.MonkeyPatch) -> None:
    with_password(portal)
    monkeypatch.setattr(secrets, "password_matches", lambda *_: False)  # the slow hash is not what is tested
    guesser = portal.browser()
    for number in range(100):
        answer = sign_in(guesser, "alice@example.org", "wrong horse battery", address=f"192.0.2.{number}")
        assert answer.status_code == 422
    assert sign_in(guesser, "alice@example.org", "x", address="192.0.2.200").status_code == 429


def test_a_right_password_forgets_the_wrong_ones(portal: Portal) -> None:
    with_password(portal)
    for _ in range(2):
        browser = portal.browser()
        for _ in range(9):
            assert sign_in(browser, "alice@example.org", "wrong horse battery").status_code == 422
        assert sign_in(browser, "alice@example.org", GOOD).status_code == 303
        assert count(portal, SignInFailure) == 0


def test_old_wrong_passwords_are_not_kept(portal: Portal) -> None:
    browser = portal.browser()
    sign_in(browser, "alice@example.org", "wrong horse battery")
    with portal.app.app_context():
        db.session.query(SignInFailure).update({"at": now() - timedelta(minutes=20)})
        db.session.commit()
    sign_in(browser, "bob@example.org", "wrong horse battery")
    assert count(portal, SignInFailure) == 1


def test_a_disabled_person_does_not_come_in_with_the_right_password(portal: Portal) -> None:
    with_password(portal)
    portal.command("users", "disable", "alice@example.org")
    browser = portal.browser()
    assert sign_in(browser, "alice@example.org", GOOD).status_code == 422
    assert browser.get("/account").status_code == 302


# setting one


def test_a_new_password_ends_every_other_session_and_link(portal: Portal) -> None:
    other = portal.browser("alice")
    link = portal.command("users", "link", "alice@example.org").stdout.rpartition("/")[2].strip()
    here = with_password(portal)
    assert other.get("/account").status_code == 302
    assert here.get("/account").status_code == 200
    assert portal.browser().get(f"/sign-in/{link}").status_code == 410
    rows = portal.read(
        lambda: db.session.scalar(
            select(func.count()).select_from(UserSession).join(User).where(User.email == "alice@example.org")
        )
    )
    assert rows == 1


def test_a_new_password_ends_nobody_elses_session(portal: Portal) -> None:
    bob = portal.browser("bob")
    with_password(portal, "alice")
    assert bob.get("/account").status_code == 200


@pytest.mark.parametrize(
    ("password", "again", "says"),
    [
        ("", "", "Write a password"),
        ("short", "short", "10 to 1024 characters"),
        ("x" * 1025, "x" * 1025, "10 to 1024 characters"),
        (GOOD, GOOD + "x", "not the same"),
    ],
)
def test_a_password_that_cannot_be_is_refused(portal: Portal, password: str, again: str, says: str) -> None:
    browser, other = portal.browser("alice"), portal.browser("alice")
    assert browser.post("/account/password", {"password": password, "again": again}).status_code == 422
    assert says in browser.text()
    assert other.get("/account").status_code == 200
    stored = portal.read(lambda: db.session.scalar(select(User.password_hash).filter_by(email="alice@example.org")))
    assert stored is None


def test_a_hash_of_weaker_parameters_is_renewed_at_a_sign_in(portal: Portal) -> None:
    from argon2 import PasswordHasher

    weak = PasswordHasher(memory_cost=1024, time_cost=1, parallelism=1).hash(GOOD)
    with portal.app.app_context():
        db.session.query(User).filter_by(email="alice@example.org").update({"password_hash": weak})
        db.session.commit()
    assert sign_in(portal.browser(), "alice@example.org", GOOD).status_code == 303
    stored = portal.read(lambda: db.session.scalar(select(User.password_hash).filter_by(email="alice@example.org")))
    assert stored != weak
    assert sign_in(portal.browser(), "alice@example.org", GOOD).status_code == 303


# what no person types

HUGE = "x" * (1 << 20)


@pytest.mark.parametrize("text", [HUGE, "a\0b@example.org", "%ED%A0%80", "\u202e@example.org", "é" * 400])
@pytest.mark.parametrize("where", ["email", "password"])
def test_odd_input_to_the_sign_in_is_refused_without_a_fault(portal: Portal, text: str, where: str) -> None:
    browser = portal.browser()
    fields = {"email": "alice@example.org", "password": "wrong horse battery", where: text}
    answer = sign_in(browser, fields["email"], fields["password"])
    assert answer.status_code == 422


def test_a_lone_surrogate_in_a_form_is_refused_without_a_fault(portal: Portal) -> None:
    browser = portal.browser()
    body = f"email=%ED%A0%80%40x&password=%ED%A0%80%00xxxxxxxxxx&csrf_token={browser.token()}"
    answer = browser.client.post("/sign-in", data=body, content_type="application/x-www-form-urlencoded")
    assert answer.status_code == 422


def test_no_hash_is_computed_for_a_huge_password(portal: Portal, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> bool:
        raise AssertionError("hashed")

    monkeypatch.setattr(type(secrets._hasher), "verify", refuse)
    assert sign_in(portal.browser(), "alice@example.org", HUGE).status_code == 422
    assert not secrets.password_matches(HUGE, None)
