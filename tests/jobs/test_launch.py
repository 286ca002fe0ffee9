"""Launching by the form, without JavaScript."""

from __future__ import annotations

from tests.conftest import Browser, Portal


def filled(browser: Browser, **changes: str) -> dict[str, str]:
    """The form as it opens, with some fields changed."""
    browser.get("/orgs/lab/new-job?preset=plain")
    return {**browser.form("/new-job"), **changes}


def test_a_member_launches_a_job(portal: Portal) -> None:
    bob = portal.browser("bob")
    answer = bob.post("/orgs/lab/new-job", filled(bob, command="echo hello", name="first"))
    assert answer.status_code == 303
    assert answer.location.endswith("/orgs/lab/jobs/first")
    bob.get(answer.location)
    assert "Queued" in bob.text()
    job = portal.job("first")
    assert job.state == "queued"
    assert job.spec["command"] == "echo hello"
