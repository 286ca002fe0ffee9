"""What ends at once when somebody is disabled or leaves an org: tokens, sessions, and pages and tails that are open."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextvars import copy_context
from dataclasses import dataclass

import pytest
from sqlalchemy import func, select

from app.accounts.models import ApiToken, SignInLink, User, UserSession
from app.database import db, transaction
from app.jobs import routes
from app.jobs import service as jobs
from app.jobs.models import Job, JobAttempt
from app.logs import service as logs
from tests.conftest import Api, Browser, Portal
from tests.jobs.conftest import World


@dataclass
class Watching:
    """Somebody who has a running job's page open and follows its log with a token."""

    portal: Portal
    browser: Browser
    api: Api
    poll: str  # what the page asks for by itself
    cursor: str

    def polls(self) -> tuple[int, str | None, str | None]:
        """What the open page gets: status, and where htmx is told to go, or to load the page anew."""
        answer = self.browser.client.get(
            self.poll,
            headers={"HX-Request": "true", "HX-Current-URL": "http://127.0.0.1:8000/orgs/lab/jobs/his"},
        )
        return answer.status_code, answer.headers.get("HX-Redirect"), answer.headers.get("HX-Refresh")

    def tails(self) -> int:
        return self.api.get(f"/api/jobs/his/logs?org=lab&since={self.cursor}").status_code


@pytest.fixture
def bob(portal: Portal) -> Watching:
    job = portal.launch("his")
    with portal.app.app_context(), transaction():
        attempt = JobAttempt(job_id=job.id, number=1)
        db.session.add(attempt)
        db.session.get_one(Job, job.id).attempt = 1
        db.session.flush()
        logs.append(logs.stream(attempt.id, 0), b"one\ntwo\n", "c", 0, "", False, 1 << 20)
    browser, api = portal.browser("bob"), portal.api("bob")
    browser.get("/orgs/lab/jobs/his")
    poller = browser.page.find(id="poller")
    assert poller is not None
    read = api.get("/api/jobs/his/logs?org=lab")
    assert read.data == b"one\ntwo\n"
    watching = Watching(portal, browser, api, str(poller["hx-get"]), read.headers["Log-Cursor"])
    assert watching.polls() == (204, None, None)
    assert watching.tails() == 200
    return watching


def proofs(portal: Portal) -> int:
    """How many rows could let bob in."""
    with portal.app.app_context():
        of_bob = (
            select(func.count()).select_from(model).join(User).where(User.email == "bob@example.org")
            for model in (ApiToken, UserSession, SignInLink)
        )
        return sum(db.session.scalar(each) or 0 for each in of_bob)


def test_everything_of_a_disabled_person_ends_at_once(portal: Portal, bob: Watching) -> None:
    alice, alices = portal.browser("alice"), portal.api("alice")
    assert portal.command("users", "disable", "bob@example.org").exit_code == 0
    assert proofs(portal) == 0
    assert bob.polls() == (401, "/sign-in?next=/orgs/lab/jobs/his", None)
    page = bob.browser.get("/orgs/lab/jobs/his")
    assert (page.status_code, page.location) == (302, "/sign-in?next=/orgs/lab/jobs/his")
    assert bob.tails() == 401
    assert bob.api.get("/api/me").status_code == 401
    assert alice.get("/orgs/lab/jobs/his").status_code == 200
    assert alices.get("/api/jobs/his").status_code == 200
    assert portal.job("his").state == "queued"  # it goes on


def test_an_enabled_person_comes_in_by_a_new_link_alone(portal: Portal, bob: Watching) -> None:
    portal.command("users", "disable", "bob@example.org")
    said = portal.command("users", "enable", "bob@example.org")
    assert said.exit_code == 0
    assert "users link bob@example.org" in said.stdout
    assert bob.polls()[0] == bob.tails() == 401
    back = portal.browser("bob")
    assert back.get("/orgs/lab/jobs/his").status_code == 200
    assert portal.api("bob").get("/api/me").status_code == 200


def test_what_a_running_request_made_of_a_disabled_person_does_not_come_back(portal: Portal) -> None:
    portal.command("users", "disable", "bob@example.org")
    api = portal.api("bob")  # as a request that had begun before
    assert api.get("/api/me").status_code == 401
    portal.command("users", "enable", "bob@example.org")
    assert proofs(portal) == 0
    assert api.get("/api/me").status_code == 401


def test_enabling_somebody_who_is_not_disabled_ends_nothing(portal: Portal, bob: Watching) -> None:
    assert portal.command("users", "enable", "bob@example.org").exit_code == 0
    assert bob.polls()[0] == 204
    assert bob.tails() == 200


def test_an_org_that_somebody_left_is_for_them_as_if_it_never_was(portal: Portal, bob: Watching) -> None:
    portal.command("users", "create", "bob@example.org", "--org", "rivals")
    said = portal.command("users", "leave", "bob@example.org", "--org", "lab")
    assert said.exit_code == 0
    assert "bob@example.org is not in lab any more" in said.stdout
    # the page that is open loads anew, and then has no poll
    assert bob.polls() == (404, None, "true")
    gone = bob.browser.get("/orgs/lab/jobs/his")
    assert gone.status_code == 404
    assert bob.browser.page.select("[hx-trigger]") == []
    never = bob.browser.get("/orgs/neverr/jobs/his").text
    assert plain(gone.text, "lab") == plain(never, "neverr")
    assert bob.tails() == 404
    for path in ("/api/jobs?org=lab", "/api/presets?org=lab", "/api/jobs/his?org=lab"):
        assert bob.api.get(path).status_code == 404
    assert bob.api.delete("/api/jobs/his?org=lab").status_code == 404
    # they are themselves still, and in their other org
    assert [each["org"] for each in bob.api.get("/api/me").get_json()["orgs"]] == ["rivals"]
    assert bob.api.get("/api/jobs").status_code == 200
    assert bob.browser.get("/orgs/rivals/jobs").status_code == 200
    assert portal.job("his").state == "queued"


def plain(text: str, slug: str) -> str:
    """A page without what only this request brought along: the org that was asked for, and the CSRF tokens."""
    return re.sub(rf"/orgs/{slug}\b", "/orgs/…", re.sub(r'(csrf[-_]token" (?:content|value)=")[^"]*', r"\1", text))


def test_what_another_org_has_is_told_to_a_fragment_no_more_than_to_a_page(portal: Portal) -> None:
    alice = portal.browser("alice")
    answers = [
        alice.client.get(f"/orgs/{slug}/jobs-list", headers={"HX-Request": "true"}) for slug in ("rivals", "neverr")
    ]
    assert [each.status_code for each in answers] == [404, 404]
    assert [each.headers["HX-Refresh"] for each in answers] == ["true", "true"]


def test_the_last_owner_of_an_org_does_not_leave_it(portal: Portal) -> None:
    said = portal.command("users", "leave", "alice@example.org", "--org", "lab")
    assert said.exit_code == 1
    assert "alice@example.org is the last owner of lab" in said.stderr
    assert portal.browser("alice").get("/orgs/lab/jobs").status_code == 200
    portal.command("users", "create", "bob@example.org", "--org", "lab", "--owner")
    # somebody who cannot sign in is no owner to count on
    portal.command("users", "disable", "bob@example.org")
    assert portal.command("users", "leave", "alice@example.org", "--org", "lab").exit_code == 1
    portal.command("users", "enable", "bob@example.org")
    assert portal.command("users", "leave", "alice@example.org", "--org", "lab").exit_code == 0
    assert portal.browser("alice").get("/orgs/lab/jobs").status_code == 404
    assert portal.browser("bob").get("/orgs/lab/jobs").status_code == 200


@pytest.mark.parametrize(
    ("email", "org", "says"),
    [
        ("mallory@example.org", "lab", "mallory@example.org is not in lab."),
        ("zoe@example.org", "lab", "There is no account zoe@example.org."),
        ("bob@example.org", "nowhere", "There is no org nowhere."),
    ],
)
def test_who_cannot_leave_is_told_why(portal: Portal, email: str, org: str, says: str) -> None:
    said = portal.command("users", "leave", email, "--org", org)
    assert said.exit_code == 1
    assert says in said.stderr
    assert said.stdout == ""


# a download that is on its way when they go


class Downloading:
    """Somebody in the middle of downloading the log of a job of the org."""

    def __init__(self, portal: Portal, path: str, printed: bytes) -> None:
        self.portal = portal
        self.browser = portal.browser("bob")
        self.printed = printed
        self._context = copy_context()  # an answer under way is a request under way, and others are not part of it
        self._answer = self._context.run(self.browser.client.get, path, buffered=False)
        assert self._answer.status_code == 200
        self._parts = self._answer.iter_encoded()
        self.came = self._context.run(next, self._parts)

    def goes_on(self) -> bytes:
        """All that came in the end."""
        while part := self._context.run(next, self._parts, b""):
            self.came += part
        return self.came

    def is_cut_off(self) -> bool:
        """The server breaks the connection off, before all came."""
        with pytest.raises(ConnectionResetError):
            self.goes_on()
        return self.came == self.printed[: len(self.came)] and len(self.came) < len(self.printed)

    def close(self) -> None:
        self._context.run(self._answer.close)


@pytest.fixture
def downloading(portal: Portal, monkeypatch: pytest.MonkeyPatch) -> Iterator[Downloading]:
    monkeypatch.setattr(routes, "LOOK_AGAIN", 0.0)  # the test is faster than a second
    portal.launch("long", person="alice")
    world = World(portal)
    printed = os.urandom(4 * logs.CHUNK)
    world.print(world.begin("long"), printed, complete=True)
    world.finish("long", settled=True)
    under_way = Downloading(portal, "/orgs/lab/jobs/long/log", printed)
    yield under_way
    under_way.close()


def signs_out(of: Downloading) -> None:
    assert of.browser.post("/sign-out").status_code == 303


def is_signed_out_elsewhere(of: Downloading) -> None:
    assert of.portal.browser("bob").post("/account/sessions/end-others").status_code == 303


def sets_a_password_elsewhere(of: Downloading) -> None:
    fields = {"password": "a long enough password", "again": "a long enough password"}
    assert of.portal.browser("bob").post("/account/password", fields).status_code == 303


def is_disabled(of: Downloading) -> None:
    assert of.portal.command("users", "disable", "bob@example.org").exit_code == 0


def leaves_the_org(of: Downloading) -> None:
    assert of.portal.command("users", "leave", "bob@example.org", "--org", "lab").exit_code == 0


@pytest.mark.parametrize(
    "goes", [is_disabled, leaves_the_org, signs_out, is_signed_out_elsewhere, sets_a_password_elsewhere]
)
def test_a_download_is_cut_off_when_its_reader_is_not_let_in_any_more(
    downloading: Downloading, goes: Callable[[Downloading], None]
) -> None:
    goes(downloading)
    assert downloading.is_cut_off()


def test_a_download_goes_on_when_it_is_others_who_go(portal: Portal, downloading: Downloading) -> None:
    portal.command("users", "disable", "vera@example.org")
    portal.command("users", "leave", "vera@example.org", "--org", "lab")
    portal.browser("bob").post("/sign-out")
    assert downloading.goes_on() == downloading.printed


def test_a_download_looks_only_now_and_then(
    portal: Portal, downloading: Downloading, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To ask before each piece would cost a download of a gigabyte thousands of questions."""
    monkeypatch.setattr(routes, "LOOK_AGAIN", 3600.0)
    is_disabled(downloading)
    assert downloading.goes_on() == downloading.printed


def test_a_download_is_no_whole_file_when_the_job_is_removed_meanwhile(
    portal: Portal, downloading: Downloading
) -> None:
    with portal.app.app_context(), transaction():
        job = db.session.scalars(select(Job).where(Job.name == "long")).one()
        jobs.remove_log(job.id, "The job is being removed.", 1000)
        jobs.remove(job.id)
    assert downloading.is_cut_off()


def test_a_download_says_what_is_missing_when_the_log_is_removed_meanwhile(
    portal: Portal, downloading: Downloading
) -> None:
    with portal.app.app_context(), transaction():
        jobs.remove_log(portal.job("long").id, "The log was removed.", 1000)
    before = downloading.came
    left = len(downloading.printed) - len(before)
    assert downloading.goes_on() == before + f"\n[{left:,} bytes are missing here]\n".encode()
