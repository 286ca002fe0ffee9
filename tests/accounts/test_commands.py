"""The operator's commands for people and tokens."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest
from sqlalchemy import func, select

from app.accounts.models import ApiToken, SignInLink, User
from app.config import REPOSITORY
from app.database import db
from app.orgs.models import Membership, Org
from tests.accounts.clock import Clock
from tests.conftest import KEY, Portal


def role(portal: Portal, email: str, slug: str = "lab") -> str | None:
    found = portal.read(
        lambda: db.session.scalar(
            select(Membership.role)
            .join(User, User.id == Membership.user_id)
            .join(Org, Org.id == Membership.org_id)
            .where(User.email == email, Org.slug == slug)
        )
    )
    return found.value if found is not None else None


def count(portal: Portal, model: type) -> int:
    return int(portal.read(lambda: db.session.scalar(select(func.count()).select_from(model))))


def test_a_new_person_gets_an_account_and_a_link_that_works(portal: Portal) -> None:
    said = portal.command("users", "create", "Zoe@Example.org", "--org", "lab")
    assert said.exit_code == 0
    assert said.stderr == ""
    (line,) = said.stdout.splitlines()
    zoe = portal.browser()
    assert zoe.get(line.removeprefix("Sign in: http://127.0.0.1:8000")).status_code == 303
    zoe.get("/account")
    assert "zoe@example.org" in zoe.text()
    assert role(portal, "zoe@example.org") == "member"


def test_creating_somebody_again_only_prints_a_fresh_link(portal: Portal) -> None:
    people = count(portal, User)
    links = {portal.command("users", "create", "bob@example.org").stdout for _ in range(2)}
    assert len(links) == 2
    assert count(portal, User) == people
    assert role(portal, "bob@example.org") == "member"


@pytest.mark.parametrize(("person", "stays"), [("alice", "owner"), ("bob", "member")])
def test_adding_somebody_to_their_own_org_does_not_demote_them(portal: Portal, person: str, stays: str) -> None:
    assert portal.command("users", "create", f"{person}@example.org", "--org", "lab").exit_code == 0
    assert role(portal, f"{person}@example.org") == stays


def test_a_member_becomes_an_owner(portal: Portal) -> None:
    assert portal.command("users", "create", "bob@example.org", "--org", "lab", "--owner").exit_code == 0
    assert role(portal, "bob@example.org") == "owner"


def test_somebody_joins_a_second_org(portal: Portal) -> None:
    assert portal.command("users", "create", "bob@example.org", "--org", "rivals").exit_code == 0
    assert role(portal, "bob@example.org", "rivals") == "member"
    assert role(portal, "bob@example.org", "lab") == "member"


def test_an_admin_stays_one(portal: Portal) -> None:
    portal.command("users", "create", "bob@example.org", "--admin")
    portal.command("users", "create", "bob@example.org")
    assert portal.read(lambda: db.session.scalar(select(User.admin).filter_by(email="bob@example.org"))) is True
    assert portal.read(lambda: db.session.scalar(select(User.admin).filter_by(email="alice@example.org"))) is False


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["zoe"], "'zoe' is not an e-mail address."),
        (["zoe@"], "is not an e-mail address."),
        (["a b@example.org"], "is not an e-mail address."),
        ([f"{'x' * 300}@example.org"], "is not an e-mail address."),
        (["zoe\udcff@example.org"], "is not an e-mail address."),
        (["zoe\u202e@example.org"], "is not an e-mail address."),
        (["zoe@example.org", "--org", "nowhere"], "There is no org nowhere."),
        (["zoe@example.org", "--org", "\udcff"], "There is no org"),
        (["zoe@example.org", "--owner"], "--owner needs --org."),
    ],
)
def test_what_cannot_be_made_is_refused_with_a_sentence(portal: Portal, arguments: list[str], says: str) -> None:
    people, links = count(portal, User), count(portal, SignInLink)
    said = portal.command("users", "create", *arguments)
    assert said.exit_code in (1, 2)
    assert says in said.stderr
    assert said.stdout == ""
    assert (count(portal, User), count(portal, SignInLink)) == (people, links)


@pytest.mark.parametrize(
    "command",
    [("users", "link"), ("users", "disable"), ("users", "enable"), ("tokens", "create"), ("tokens", "list")],
)
def test_a_command_for_nobody_says_so(portal: Portal, command: tuple[str, str]) -> None:
    for email in ("zoe@example.org", "\udcff"):
        said = portal.command(*command, email)
        assert said.exit_code == 1
        assert "There is no account" in said.stderr
        assert said.stdout == ""


@pytest.mark.parametrize("command", [("users", "link"), ("users", "create"), ("tokens", "create")])
def test_a_disabled_account_gets_no_way_in(portal: Portal, command: tuple[str, str]) -> None:
    assert portal.command("users", "disable", "bob@example.org").exit_code == 0
    said = portal.command(*command, "bob@example.org")
    assert said.exit_code == 1
    assert "is disabled" in said.stderr
    assert said.stdout == ""
    assert count(portal, SignInLink) == count(portal, ApiToken) == 0


def test_disabling_twice_is_harmless(portal: Portal) -> None:
    first = portal.command("users", "disable", "bob@example.org")
    at = portal.read(lambda: db.session.scalar(select(User.disabled_at).filter_by(email="bob@example.org")))
    again = portal.command("users", "disable", "bob@example.org")
    assert first.exit_code == again.exit_code == 0
    assert portal.read(lambda: db.session.scalar(select(User.disabled_at).filter_by(email="bob@example.org"))) == at


def test_a_token_and_nothing_else_is_printed(portal: Portal) -> None:
    said = portal.command("tokens", "create", "bob@example.org", "--name", "x" * 100)
    assert said.exit_code == 0
    (token,) = said.stdout.splitlines()
    assert said.stdout == f"{token}\n"
    assert portal.app.test_client().get("/api/me", headers={"Authorization": f"Bearer {token}"}).status_code == 200


def test_a_token_with_a_name_that_is_too_long_is_refused(portal: Portal) -> None:
    said = portal.command("tokens", "create", "bob@example.org", "--name", "x" * 101)
    assert said.exit_code == 1
    assert "100 characters" in said.stderr
    assert count(portal, ApiToken) == 0


def ask(portal: Portal, token: str) -> dict[str, Any] | None:
    answer = portal.app.test_client().get("/api/me", headers={"Authorization": f"Bearer {token}"})
    return answer.get_json() if answer.status_code == 200 else None


def test_a_token_is_made_for_what_the_operator_says(portal: Portal, clock: Clock) -> None:
    both = portal.command("tokens", "create", "bob@example.org").stdout.strip()
    each = portal.command("tokens", "create", "bob@example.org", "--scope", "write", "--scope", "read").stdout.strip()
    said = portal.command("tokens", "create", "bob@example.org", "--scope", "read", "--days", "7", "--name", "nightly")
    (reads,) = said.stdout.splitlines()
    assert [ask(portal, token)["scopes"] for token in (both, each, reads)] == [  # type: ignore[index]
        ["read", "write"],
        ["read", "write"],
        ["read"],
    ]
    clock.forward(days=8)
    assert ask(portal, both) is not None
    assert ask(portal, reads) is None


@pytest.mark.parametrize(
    "options", [("--scope", "admin"), ("--days", "0"), ("--days", "-1"), ("--days", "x"), ("--name", "a\nb")]
)
def test_a_token_that_cannot_be_is_not_made_by_the_operator(portal: Portal, options: tuple[str, str]) -> None:
    said = portal.command("tokens", "create", "bob@example.org", *options)
    assert said.exit_code in (1, 2)
    assert said.stdout == ""
    assert count(portal, ApiToken) == 0


def test_the_operator_lists_tokens_and_revokes_one(portal: Portal, clock: Clock) -> None:
    nightly = portal.command("tokens", "create", "bob@example.org", "--name", "nightly", "--days", "7").stdout.strip()
    other = portal.command("tokens", "create", "bob@example.org", "--scope", "read").stdout.strip()
    portal.token("alice")
    ask(portal, other)
    said = portal.command("tokens", "list", "bob@example.org").stdout
    first, second = [line.split("\t") for line in said.splitlines()]
    assert nightly not in said
    assert other not in said
    assert first[:3] == ["_".join(other.split("_")[:2]), "made by the operator", "read"]
    assert first[4].startswith("used 20")
    assert first[5] == "never expires"
    assert second[:3] == ["_".join(nightly.split("_")[:2]), "nightly", "read write"]
    assert second[4] == "never used"
    assert second[5].startswith("expires 20")
    clock.forward(days=8)
    assert "\texpired 20" in portal.command("tokens", "list", "bob@example.org").stdout
    revoked = portal.command("tokens", "revoke", first[0])
    assert revoked.exit_code == 0
    assert revoked.stdout == f"The token {first[0]} of bob@example.org is revoked.\n"
    assert ask(portal, other) is None
    # without the prefix, or as it was found somewhere
    assert portal.command("tokens", "revoke", nightly).exit_code == 0
    assert portal.command("tokens", "list", "bob@example.org").stdout == ""
    alices = portal.command("tokens", "list", "alice@example.org").stdout.split("\t")[0]
    assert portal.command("tokens", "revoke", alices.removeprefix("st_")).exit_code == 0
    assert count(portal, ApiToken) == 0


@pytest.mark.parametrize("written", ["", "st_", "st_000000000000", "zz", "\udcff", "st_00000000000'", "x" * 5000])
def test_a_token_that_is_not_there_is_not_revoked(portal: Portal, written: str) -> None:
    portal.token("bob")
    said = portal.command("tokens", "revoke", "--", written)
    assert said.exit_code == 1
    assert "There is no such token." in said.stderr
    assert count(portal, ApiToken) == 1


def test_a_token_from_a_shell_is_a_token_even_on_a_portal_that_is_new(tmp_path: object) -> None:
    environment = {"PATH": os.environ["PATH"], "DATA_DIR": f"{tmp_path}/var", "SECRET_KEY": KEY, "LOG_LEVEL": "DEBUG"}

    def flask(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "flask", "--app", "wsgi", *arguments],
            cwd=REPOSITORY,
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    made = flask("users", "create", "zoe@example.org")
    assert made.returncode == 0, made.stderr
    assert made.stdout.startswith("Sign in: http://127.0.0.1:8000/sign-in/")
    token = flask("tokens", "create", "zoe@example.org")
    assert token.returncode == 0, token.stderr
    assert token.stdout.startswith("st_")
    assert token.stdout.count("\n") == 1
    nobody = flask("tokens", "create", "nobody@example.org")
    assert (nobody.returncode, nobody.stdout) == (1, "")
    assert "Traceback" not in nobody.stderr


def test_links_are_printed_for_the_address_at_which_the_portal_was_last_served(portal: Portal) -> None:
    from app.installation.models import Installation

    with portal.app.app_context():
        db.session.query(Installation).update({"base_url": "http://127.0.0.1:8123"})
        db.session.commit()
    assert "http://127.0.0.1:8123/sign-in/" in portal.command("users", "link", "bob@example.org").stdout
