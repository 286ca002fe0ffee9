"""The account page: the name that others read."""

from __future__ import annotations

import pytest
from sqlalchemy import select

from app.accounts.models import User
from app.database import db
from tests.conftest import Portal

HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "' onmouseover='alert(1)",
    '" hx-post="/sign-out" hx-trigger="load',
    "{{ 7 * 7 }}",
    "</title><svg onload=alert(1)>",
]


def name_of(portal: Portal, person: str = "bob") -> str:
    return str(portal.read(lambda: db.session.scalar(select(User.name).filter_by(email=f"{person}@example.org"))))


def test_a_person_changes_their_name_and_others_read_it(portal: Portal) -> None:
    bob = portal.browser("bob")
    bob.get("/account")
    fields = {**bob.form("/account/name"), "name": "  Roberta Müller  "}
    assert fields["csrf_token"]
    assert bob.post("/account/name", fields).status_code == 303
    assert name_of(portal) == "Roberta Müller"
    portal.launch("hers", "bob")
    alice = portal.browser("alice")
    alice.get("/orgs/lab/jobs")
    assert "Roberta Müller" in alice.text()


@pytest.mark.parametrize("name", HOSTILE)
def test_markup_in_a_name_is_text_on_every_page(portal: Portal, name: str) -> None:
    bob = portal.browser("bob")
    bob.post("/account/name", {"name": name})
    portal.launch("his", "bob")
    for person in ("bob", "alice"):
        browser = portal.browser(person)
        for path in ("/account", "/orgs/lab/jobs", "/orgs/lab/jobs/his", "/orgs/lab/jobs-list", "/no/such/page"):
            browser.get(path)
            assert not browser.page.find_all("img")
            assert not [each for each in browser.page.find_all("script") if not each.get("src")]
            assert not browser.page.select('[hx-post="/sign-out"]')
            for element in browser.page.find_all(True):
                assert not [attribute for attribute in element.attrs if attribute.startswith("on")]
    bob.get("/account")
    heading = bob.page.find("h1")
    assert heading is not None
    assert heading.get_text() == name


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("", "Write the name"),
        ("   ", "Write the name"),
        ("x" * 101, "100 characters"),
        ("x" * (1 << 20), "100 characters"),
        ("a\0b", "one line"),
        ("a\nb", "one line"),
        ("a\x1b[31mb", "one line"),
    ],
)
def test_a_name_that_cannot_be_is_refused_and_stays_in_the_form(portal: Portal, name: str, says: str) -> None:
    bob = portal.browser("bob")
    answer = bob.post("/account/name", {"name": name})
    assert answer.status_code == 422
    assert says in bob.text()
    assert name_of(portal) == "bob"
    if "\0" not in name and "\n" not in name:
        assert bob.form("/account/name")["name"] == name.strip()


def test_the_password_form_keeps_the_name_and_shows_no_password(portal: Portal) -> None:
    bob = portal.browser("bob")
    answer = bob.post("/account/password", {"password": "correct horse battery", "again": "another one"})
    assert answer.status_code == 422
    assert bob.form("/account/name")["name"] == "bob"
    assert "correct horse battery" not in answer.text
    assert "another one" not in answer.text


def test_nothing_else_of_an_account_can_be_sent_along(portal: Portal) -> None:
    bob = portal.browser("bob")
    sent = {"name": "Bob", "admin": "1", "email": "root@example.org", "id": "1", "password_hash": "x", "role": "owner"}
    assert bob.post("/account/name", sent).status_code == 303
    user = portal.read(lambda: db.session.scalars(select(User).filter_by(email="bob@example.org")).one())
    assert (user.name, user.admin, user.password_hash) == ("Bob", False, None)


def test_a_body_of_more_than_4_mib_is_refused_and_changes_nothing(portal: Portal) -> None:
    bob = portal.browser("bob")
    assert bob.post("/account/name", {"name": "x" * (5 << 20)}).status_code == 413
    assert name_of(portal) == "bob"
    assert bob.get("/account").status_code == 200


def test_a_name_of_half_characters_is_taken_as_its_replacement(portal: Portal) -> None:
    bob = portal.browser("bob")
    body = f"name=a%ED%A0%80b&csrf_token={bob.token()}"
    answer = bob.client.post("/account/name", data=body, content_type="application/x-www-form-urlencoded")
    assert answer.status_code == 303
    assert bob.get("/account").status_code == 200
    name_of(portal).encode()


def test_somebody_without_an_org_is_told_what_to_do(portal: Portal) -> None:
    portal.command("users", "create", "zoe@example.org")
    zoe = portal.browser("zoe")
    assert zoe.get("/").status_code == 200
    assert "users create zoe@example.org --org SLUG" in zoe.text()
    assert zoe.get("/orgs/lab/jobs").status_code == 404
