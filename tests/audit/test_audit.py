"""The audit trail: who did what, when and from where, and nothing that is secret."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from datetime import timedelta

from app.accounts import service as accounts
from app.audit import service as audit
from app.audit.service import Action, AuditEvent
from app.database import db, now, transaction
from tests.conftest import Browser, Portal


def trail(portal: Portal, *more: str) -> list[dict[str, str]]:
    """As the operator reads it, newest first."""
    said = portal.command("audit", "--json", *more)
    assert said.exit_code == 0, said.output
    return [json.loads(line) for line in said.stdout.splitlines()]


def newest(portal: Portal) -> dict[str, str]:
    return trail(portal, "--limit", "1")[0]


def test_a_launch_and_its_stop_are_told_with_person_org_and_request(portal: Portal) -> None:
    answer = portal.api("bob").post("/api/jobs", json={"preset": "plain", "command": "true", "name": "mine"})
    told = newest(portal)
    assert (told["who"], told["action"], told["org"], told["target"]) == (
        "bob@example.org",
        "job.launched",
        "lab",
        "mine",
    )
    assert portal.job("mine").uid in told["detail"]
    assert told["request"] == answer.headers["X-Request-Id"]
    assert told["address"] == "127.0.0.1"
    portal.api("alice").delete("/api/jobs/mine")
    told = newest(portal)
    assert (told["who"], told["action"], told["target"]) == ("alice@example.org", "job.stopped", "mine")
    before = len(trail(portal))
    portal.api("alice").delete("/api/jobs/mine")  # repeating it does nothing
    assert [each["action"] for each in trail(portal)[: len(trail(portal)) - before]] == ["token.created"]


def test_signing_in_and_out_is_told(portal: Portal) -> None:
    browser = portal.browser("alice")
    assert newest(portal)["action"] == "session.began"
    assert newest(portal)["who"] == "alice@example.org"
    browser.post("/sign-out")
    assert newest(portal)["action"] == "session.signed_out"


def test_what_a_person_does_to_their_account_is_told_without_the_secret(portal: Portal) -> None:
    other, browser = portal.browser("bob"), portal.browser("bob")
    token = portal.token("bob")
    browser.post("/account/password", {"password": "correct horse battery", "again": "correct horse battery"})
    actions = [each["action"] for each in trail(portal, "--limit", "2")]
    assert actions == ["session.ended", "password.set"]
    assert other.get("/account").status_code == 302
    rows = json.dumps(trail(portal))
    assert "correct horse" not in rows
    assert token not in rows
    assert token.split("_")[1] in rows  # which token it is


def test_the_guess_that_closes_an_account_to_an_address_is_told_once(portal: Portal) -> None:
    for _ in range(accounts.TRIES + 3):
        Browser(portal.app.test_client()).post("/sign-in", {"email": "bob@example.org", "password": "a wrong guess"})
    told = [each for each in trail(portal) if each["action"] == "password.locked_out"]
    assert [(each["who"], each["target"], each["address"]) for each in told] == [
        ("stranger", "bob@example.org", "127.0.0.1")
    ]


def test_a_password_typed_as_an_address_is_not_told(portal: Portal) -> None:
    for _ in range(accounts.TRIES + 1):
        Browser(portal.app.test_client()).post("/sign-in", {"email": "my secret", "password": "a wrong guess"})
    assert "my secret" not in json.dumps(trail(portal))


def test_commands_are_the_operators_doing(portal: Portal) -> None:
    portal.command("orgs", "create", "new-org")
    portal.command("users", "create", "carol@example.org", "--org", "new-org", "--owner")
    portal.command("tokens", "create", "carol@example.org")
    portal.command("users", "disable", "carol@example.org")
    portal.command("keys", "rotate")
    told = trail(portal, "--since", "1h")
    assert {each["who"] for each in told[:7]} == {"operator"}
    assert {each["address"] for each in told[:7]} == {""}
    assert [each["action"] for each in reversed(told[:7])] == [
        "org.created",
        "user.created",
        "member.joined",
        "token.created",
        "user.disabled",
        "token.revoked",
        "keys.rotated",
    ]


def test_a_first_start_is_the_portals_own_doing(portal: Portal) -> None:
    with portal.app.app_context(), audit.by_portal(), transaction():
        accounts.create("first@example.org")
    assert newest(portal)["who"] == "portal"


def test_what_is_undone_leaves_no_entry(portal: Portal) -> None:
    before = trail(portal)
    with portal.app.app_context(), contextlib.suppress(ZeroDivisionError), transaction():
        accounts.create("nobody@example.org")
        _ = 1 / 0
    assert portal.api("vera").post("/api/jobs", json={"preset": "plain", "command": "true"}).status_code == 403
    assert [each["action"] for each in trail(portal)[: len(trail(portal)) - len(before)]] == ["token.created"]


def test_an_orgs_part_is_told_alone_and_in_pages(portal: Portal) -> None:
    for number in range(5):
        portal.launch(f"lab-{number}", "bob")
        portal.launch(f"rivals-{number}", "mallory")
    all_of_lab = trail(portal, "--org", "lab")
    assert {each["org"] for each in all_of_lab} == {"lab"}
    first = trail(portal, "--org", "lab", "--limit", "3")
    said = portal.command("audit", "--org", "lab", "--limit", "3")
    assert f"--before {first[-1]['id']}" in said.stderr
    second = trail(portal, "--org", "lab", "--limit", "1000", "--before", str(first[-1]["id"]))
    assert first + second == all_of_lab
    assert portal.command("audit", "--org", "nothing").exit_code == 1
    assert "Write a number with its unit" in portal.command("audit", "--since", "yesterday").stderr


def test_old_entries_go_the_oldest_first(portal: Portal) -> None:
    with portal.app.app_context():
        with transaction():
            db.session.query(AuditEvent).delete()
            for days in (5, 4, 3):
                audit.record(Action.ORG_CREATED, f"{days} days ago")
                db.session.flush()
                db.session.query(AuditEvent).filter_by(target=f"{days} days ago").one().at = now() - timedelta(days)
        with transaction():
            assert audit.forget(now() - timedelta(days=3.5), most=1) == 1
        assert [each.target for each in audit.page()] == ["3 days ago", "4 days ago"]


def test_what_a_database_cannot_keep_is_left_out(portal: Portal) -> None:
    with portal.app.app_context(), transaction():
        audit.record(Action.ORG_CREATED, "a\0b\nc" + "x" * 1000, "d\0e")
    told = newest(portal)
    assert told["target"].startswith("a b cxxx")
    assert told["detail"] == "d e"


def test_a_person_who_is_gone_is_told_by_number(make: Callable[..., Portal]) -> None:
    portal = make()
    with portal.app.test_request_context(), transaction():
        audit.record(Action.SIGNED_IN, user_id=4711, org_id=4712)
    assert (newest(portal)["who"], newest(portal)["org"]) == ("user 4711", "org 4712")
