"""What is written down: a line for each request and step, found by its request or job, without what is secret."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from typing import Any

import pytest

from app import journal
from tests.conftest import Portal


class Lines(logging.Handler):
    """The lines as they would be written, in both formats."""

    def __init__(self) -> None:
        super().__init__()
        self.json: list[dict[str, Any]] = []
        self.text: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.json.append(json.loads(journal.JsonLine().format(record)))
        self.text.append(journal.TextLine().format(record))

    @property
    def requests(self) -> list[dict[str, Any]]:
        return [line for line in self.json if line["logger"] == "simpletrain.request"]


@pytest.fixture
def lines(portal: Portal) -> Any:
    found = Lines()
    root = logging.getLogger()
    root.addHandler(found)
    yield found
    root.removeHandler(found)


def test_a_request_is_one_line_with_its_person_and_job(portal: Portal, lines: Lines) -> None:
    answer = portal.api("bob").post("/api/jobs", json={"preset": "plain", "command": "true", "name": "mine"})
    line = lines.requests[-1]
    assert line["request_id"] == answer.headers["X-Request-Id"]
    assert (line["method"], line["route"], line["status"], line["level"]) == ("POST", "/api/jobs", 201, "INFO")
    assert line["job"] == "mine"
    assert line["uid"] == portal.job("mine").uid
    assert line["user"] == portal.job("mine").user_id
    assert line["org"] == portal.job("mine").org_id
    assert line["ms"] > 0
    assert line["time"].endswith("Z")
    portal.browser("bob").get("/orgs/lab/jobs/mine?q=canary")
    line = lines.requests[-1]
    assert (line["route"], line["job"], line["user"]) == ("/orgs/<org>/jobs/<name>", "mine", portal.job("mine").user_id)


def test_a_line_never_shows_what_was_put_into_an_address(portal: Portal, lines: Lines) -> None:
    portal.browser("alice")  # by a link
    client = portal.app.test_client()
    client.get("/sign-in/canary-of-a-link?next=/canary")
    client.get("/canary/nothing")
    client.open("/healthz", method="CANARY")
    assert [line["route"] for line in lines.requests[-3:]] == ["/sign-in/<secret>", "(none)", "(none)"]
    assert lines.requests[-1]["method"] == "(other)"
    assert "canary" not in json.dumps(lines.json).lower()


def test_what_only_looks_again_is_for_debugging(portal: Portal, lines: Lines) -> None:
    portal.launch("mine")
    browser, api = portal.browser("bob"), portal.api("bob")
    lines.json.clear()
    for path in ("/healthz", "/readyz", "/static/app.css", "/orgs/lab/jobs/mine/poll", "/orgs/lab/jobs-list"):
        browser.client.get(path).close()
    api.get("/api/jobs/mine/logs")
    assert lines.requests == []
    portal.app.test_client().get("/api/jobs/mine/logs")
    assert [line["status"] for line in lines.requests] == [401]  # what is refused is news


def test_the_endpoints_that_are_quiet_exist(portal: Portal) -> None:
    assert set(portal.app.view_functions) >= journal.QUIET


@pytest.mark.parametrize(
    ("proxies", "sent", "taken"),
    [
        ("127.0.0.0/8", "a-proxys-id.0123", True),
        ("127.0.0.0/8", "short", False),
        ("127.0.0.0/8", "x" * 65, False),
        ("127.0.0.0/8", "two words and more", False),
        ("127.0.0.0/8", "<script>alert(1)", False),
        ("10.0.0.0/8", "a-proxys-id.0123", False),
        ("", "a-proxys-id.0123", False),
    ],
)
def test_a_requests_id_is_a_trusted_proxys_where_it_is_one(
    make: Callable[..., Portal], proxies: str, sent: str, taken: bool
) -> None:
    client = make(trusted_proxies=proxies).app.test_client()
    given = client.get("/healthz", headers={"X-Request-Id": sent}).headers["X-Request-Id"]
    assert (given == sent) is taken
    assert client.get("/healthz").headers["X-Request-Id"] != given


def test_lines_after_a_request_are_not_about_it(portal: Portal, lines: Lines) -> None:
    portal.app.test_client().get("/sign-in")
    logging.getLogger("elsewhere").warning("something")
    assert "request_id" not in lines.json[-1]


def test_every_line_in_a_block_is_about_its_job(lines: Lines) -> None:
    journal.begin(cluster="berlin", epoch=3)
    with journal.about(job="mine", uid="abcd1234"):
        logging.getLogger("a.library").warning("it happened")
    logging.getLogger("a.library").warning("later")
    journal.begin()
    assert lines.json[-2] | {"time": ""} == {
        "time": "",
        "level": "WARNING",
        "logger": "a.library",
        "message": "it happened",
        "cluster": "berlin",
        "epoch": 3,
        "job": "mine",
        "uid": "abcd1234",
    }
    assert "job" not in lines.json[-1]
    assert lines.text[-2].endswith("a.library: it happened [cluster=berlin epoch=3 job=mine uid=abcd1234]")


def test_nothing_that_is_written_down_can_end_a_line_or_steer_a_terminal(lines: Lines) -> None:
    with journal.about(job="one\ntwo"):
        logging.getLogger("x").warning("%s", "first\n2026 ERROR forged \x1b[2J")
    assert "\n" not in lines.text[-1]
    assert "\x1b" not in lines.text[-1]
    assert lines.json[-1]["message"] == "first\n2026 ERROR forged \x1b[2J"


def test_an_error_brings_its_traceback(lines: Lines) -> None:
    try:
        raise ValueError("a reason")
    except ValueError:
        logging.getLogger("x").exception("it failed")
    assert "ValueError: a reason" in lines.json[-1]["exception"]
    assert "ValueError: a reason" in lines.text[-1]


def test_libraries_that_write_what_they_carry_stay_silent(portal: Portal) -> None:
    for name, loudest in journal.LOUDEST.items():
        assert logging.getLogger(name).getEffectiveLevel() >= loudest > logging.DEBUG
    with portal.app.app_context():
        from app.database import db

        assert db.engine.hide_parameters
