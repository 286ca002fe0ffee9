"""Sign-in links: single use, a quarter of an hour, and only a hash is kept."""

from __future__ import annotations

import pytest
from sqlalchemy import func, select

from app.accounts.models import SignInLink, UserSession
from app.database import db
from tests.accounts.clock import Clock
from tests.conftest import Portal


def link(portal: Portal, person: str = "alice") -> str:
    """The path of a link that the operator's command prints."""
    said = portal.command("users", "link", f"{person}@example.org")
    assert said.exit_code == 0, said.output
    assert said.stdout.startswith("Sign in: http://127.0.0.1:8000/sign-in/")
    return said.stdout.strip().removeprefix("Sign in: http://127.0.0.1:8000")


def test_a_link_signs_one_person_in_once(portal: Portal) -> None:
    path = link(portal)
    first, second = portal.browser(), portal.browser()
    assert first.get(path).status_code == 303
    assert first.get("/account").status_code == 200
    assert "alice@example.org" in first.text()
    assert second.get(path).status_code == 410
    assert "does not work any more" in second.text()
    assert second.get("/account").status_code == 302


def test_the_browser_that_used_a_link_may_load_it_again(portal: Portal) -> None:
    path = link(portal)
    browser = portal.browser()
    browser.get(path)
    again = browser.get(path)
    assert again.status_code == 303
    assert again.location == "/"
    sessions = portal.read(lambda: db.session.scalar(select(func.count()).select_from(UserSession)))
    assert sessions == 1


def test_a_link_expires_after_a_quarter_of_an_hour(portal: Portal, clock: Clock) -> None:
    late, in_time = link(portal), link(portal)
    clock.forward(minutes=14, seconds=50)
    assert portal.browser().get(in_time).status_code == 303
    clock.forward(seconds=20)
    assert portal.browser().get(late).status_code == 410


def test_looking_at_a_link_with_head_does_not_use_it_up(portal: Portal) -> None:
    path = link(portal)
    scanner = portal.browser()
    assert scanner.client.head(path).status_code == 200
    assert scanner.get("/account").status_code == 302
    assert portal.read(lambda: db.session.scalars(select(SignInLink.used_at)).one()) is None
    assert portal.browser().get(path).status_code == 303


def test_options_do_not_use_a_link_up_either(portal: Portal) -> None:
    path = link(portal)
    portal.browser().client.options(path)
    assert portal.browser().get(path).status_code == 303


def test_only_a_hash_of_a_link_is_kept(portal: Portal) -> None:
    secret = link(portal).rpartition("/")[2]
    stored = portal.read(lambda: db.session.scalars(select(SignInLink.secret_hash)).one())
    assert len(stored) == 32
    assert secret.encode() not in stored
    assert len(secret) >= 43
    folder = portal.config.data_dir
    for file in folder.glob("portal.db*"):
        assert secret.encode() not in file.read_bytes()


@pytest.mark.parametrize("secret", ["x", "x" * 43, "x" * 5000, "%00", "%ED%A0%80", "é", "..%2f", "<script>"])
def test_a_link_that_was_never_made_says_only_that_it_does_not_work(portal: Portal, secret: str) -> None:
    answer = portal.browser().get(f"/sign-in/{secret}")
    assert answer.status_code in (404, 410)
    assert "<script>" not in answer.text.replace("<script src", "")


def test_a_fresh_link_leaves_the_earlier_one_as_it_is(portal: Portal) -> None:
    first, second = link(portal), link(portal)
    assert first != second
    assert portal.browser().get(first).status_code == 303
    assert portal.browser().get(second).status_code == 303


def test_a_link_signs_in_somebody_who_was_away_for_long(portal: Portal, clock: Clock) -> None:
    browser = portal.browser("alice")
    old = browser.client.get_cookie(cookie_name(portal))
    clock.forward(minutes=30)
    path = link(portal, "bob")
    assert browser.get(path).status_code == 303
    browser.get("/account")
    assert "bob@example.org" in browser.text()
    assert old is not None
    replay = portal.browser()
    replay.client.set_cookie(cookie_name(portal), old.value)
    assert replay.get("/account").status_code == 302


def cookie_name(portal: Portal) -> str:
    from app.installation import service as installation

    return f"simpletrain-{portal.read(installation.identity)[:8]}"
