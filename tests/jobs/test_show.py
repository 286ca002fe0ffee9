"""One job's page, and the poll that keeps it fresh."""

from __future__ import annotations

import json
import re
import shlex
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit

import pytest
from bs4 import BeautifulSoup
from sqlalchemy import event

from app.database import db, now, transaction
from app.jobs import pulse, service
from app.jobs.models import JobRank
from app.jobs.states import State
from tests.conftest import Browser, Portal
from tests.jobs.conftest import World

PAGE = "/orgs/lab/jobs/job"


@pytest.fixture
def bob(portal: Portal) -> Browser:
    return portal.browser("bob")


def at(browser: Browser, id_: str) -> str:
    found = browser.page.find(id=id_)
    assert found is not None, f"no {id_}"
    return re.sub(r"\s+", " ", found.get_text(" ")).strip()


def poller(page: BeautifulSoup) -> dict[str, Any]:
    found = page.find(id="poller")
    assert found is not None
    return dict(found.attrs)


def log_lines(page: BeautifulSoup) -> list[tuple[str, str]]:
    return [(str(line["id"]), line.get_text()) for line in page.select("li[id^=L]")]


# what it says


def test_a_job_that_was_just_launched(portal: Portal, bob: Browser) -> None:
    portal.launch("job", command="echo hi", nodes=2, env={"LR": "1e-3"}, max_runtime="7m")
    assert bob.get(PAGE).status_code == 200
    head = at(bob, "job-head")
    for said in ("job", "Queued", "It was just launched.", "this-machine", "plain, version 1", "Launched by you"):
        assert said in head, said
    text = bob.text()
    for said in ("echo hi", "LR=1e-3", "7 min", "registry.example/plain:1", "Nothing yet"):
        assert said in text.replace("\N{NO-BREAK SPACE}", " "), said
    assert "Launched by you for this-machine" in at(bob, "job-timeline")


def test_the_timeline_says_who(portal: Portal, bob: Browser) -> None:
    portal.launch("job")
    alice = portal.browser("alice")
    alice.post(f"{PAGE}/stop")
    bob.get(PAGE)
    timeline = at(bob, "job-timeline")
    assert "Cancelled by alice" in timeline
    assert "Launched by you" in timeline
    assert timeline.index("Cancelled") < timeline.index("Launched")  # newest first
    assert "before it began" in timeline


def test_why_it_waits_and_why_it_failed_stand_in_sentences_with_the_raw_text_beside(
    portal: Portal, bob: Browser, world: World
) -> None:
    portal.launch("job")

    def waits(job: service.Job) -> None:
        job.reason_code, job.reason_text, job.reason_raw = "no_free_gpu", "All 8 GPUs are in use.", "0/3 nodes <fit>"

    world.change("job", waits)
    bob.get(PAGE)
    assert "All 8 GPUs are in use." in at(bob, "job-reason")
    assert "0/3 nodes <fit>" in at(bob, "raw")
    world.finish("job", State.FAILED, "It ended with exit code 3.", exit_code=3)
    bob.get(PAGE)
    assert "It ended with exit code 3." in at(bob, "job-reason")
    assert "Exit code 3" in at(bob, "job-head")
    assert "What would help" in at(bob, "job-reason")


def test_what_people_typed_is_never_markup(portal: Portal, bob: Browser, world: World) -> None:
    evil = "<img src=x onerror=alert(1)>"
    portal.launch("job", command=evil, env={"E": evil})
    attempt = world.begin("job")
    world.print(attempt, f"{evil}\n\x1b[31m{evil}".encode())
    world.change("job", lambda job: setattr(job, "reason_raw", evil))
    answer = bob.get(PAGE)
    assert "<img" not in answer.text
    assert log_lines(bob.page) == [("L1", evil), ("L2", evil)]


def test_the_api_call_of_the_page_launches_an_equal_job(portal: Portal, bob: Browser) -> None:
    portal.launch(
        "job", command=("printf", "%s\n", 'it\'s "quoted" $HOME é'), nodes=2, env={"A": "1 'x'"}, max_runtime="7m"
    )
    bob.get(PAGE)
    call = bob.page.find("pre", {"aria-label": "API call"})
    assert call is not None
    words = shlex.split(call.get_text().replace("\\\n", " "))
    assert words[:3] == ["curl", "-X", "POST"]
    url, body = words[3], words[words.index("--json") + 1]
    answer = portal.api("bob").post(urlsplit(url).path, data=body, content_type="application/json")
    assert answer.status_code == 201, answer.text
    made, old = portal.job(answer.json["name"]), portal.job("job")  # type: ignore[index]
    assert made.spec == old.spec
    assert (made.cluster_id, made.preset_version_id) == (old.cluster_id, old.preset_version_id)
    assert json.loads(body)["org"] == "lab"


def test_several_ranks_have_a_log_each_and_the_first_to_fail_is_named(
    portal: Portal, bob: Browser, world: World
) -> None:
    portal.launch("job", nodes=3)
    attempt = world.begin("job")
    moment = now()
    with portal.app.app_context(), transaction() as session:
        for rank, after in ((0, 5), (1, 9), (2, 1)):
            session.add(
                JobRank(
                    attempt_id=attempt,
                    rank=rank,
                    node=f"node-{rank}",
                    started_at=moment,
                    finished_at=moment + timedelta(seconds=after),
                    exit_code=1,
                )
            )
    world.print(attempt, b"zero\n", rank=0)
    world.print(attempt, b"two\n", rank=2)
    world.finish("job", State.FAILED, "Rank 2 ended with exit code 1.", exit_code=1)
    bob.get(PAGE)
    assert "2, first" in at(bob, "job-ranks")
    assert log_lines(bob.page) == [("L1", "zero")]
    bob.get(f"{PAGE}?rank=2")
    assert log_lines(bob.page) == [("L1", "two")]
    assert bob.get(f"{PAGE}?rank=1").status_code == 200
    assert bob.get(f"{PAGE}?rank=3").status_code == 404


def test_a_name_that_is_not_there_gets_near_ones(portal: Portal, bob: Browser) -> None:
    for name in ("resnet-1", "resnet-2", "other"):
        portal.launch(name)
    portal.launch("resnet-secret", "mallory")
    assert bob.get("/orgs/lab/jobs/resnet-3").status_code == 404
    text = bob.text()
    assert "There is no job called resnet-3 in lab" in text
    assert [link.get_text() for link in bob.page.select("main ul a")] == ["resnet-1", "resnet-2"]


@pytest.mark.parametrize("name", ["%F4%8F%BF%BF%F4%8F%BF%BF", "%ED%9F%BF%ED%9F%BF", "%00%00", "..", "<b>x", "x" * 3000])
def test_strange_names_are_simply_not_there(bob: Browser, name: str) -> None:
    answer = bob.get(f"/orgs/lab/jobs/{name}")
    assert answer.status_code == 404
    assert "<b>x" not in answer.text


def test_a_job_of_another_org_looks_like_none(portal: Portal, bob: Browser) -> None:
    portal.launch("theirs", "mallory")
    bob.get("/orgs/lab/jobs/theirs")
    theirs = bob.text()
    bob.get("/orgs/lab/jobs/nobody")
    assert theirs == bob.text().replace("nobody", "theirs")
    for path in ("stop", "poll", "log", "lines?above=3"):
        assert bob.get(f"/orgs/lab/jobs/theirs/{path}").status_code == 404


def test_a_viewer_reads_everything_and_is_offered_nothing(portal: Portal, world: World) -> None:
    portal.launch("job")
    world.begin("job")
    vera = portal.browser("vera")
    vera.get(PAGE)
    assert "Running" in at(vera, "job-head")
    actions = [str(form.get("action")) for form in vera.page.select("main form, dialog form")]
    assert not [action for action in actions if action.endswith(("/stop", "/again"))]
    assert not vera.page.select("a[href*='new-job']")


# the poll


def follow(browser: Browser, page: BeautifulSoup) -> tuple[int, BeautifulSoup]:
    """One poll of a page, and the page as it is then: a new poller."""
    answer = browser.client.get(poller(page)["hx-get"])
    return answer.status_code, BeautifulSoup(answer.text, "html.parser")


def test_a_poll_gets_nothing_while_nothing_is_new(portal: Portal, bob: Browser, world: World) -> None:
    portal.launch("job")
    attempt = world.begin("job")
    world.print(attempt, b"hello\n")
    bob.get(PAGE)
    assert follow(bob, bob.page)[0] == 204


def test_polls_bring_new_lines_and_new_states(portal: Portal, bob: Browser, world: World) -> None:
    portal.launch("job")
    bob.get(PAGE)
    attempt = world.begin("job")
    status, news = follow(bob, bob.page)
    assert status == 200
    assert "Running" in str(news.find("hx-partial", {"hx-target": "#job-head"}))
    assert follow(bob, news)[0] == 204
    world.print(attempt, b"one\ntwo\nhal")
    _, news = follow(bob, news)
    assert news.find("hx-partial", {"hx-target": "#job-head"}) is None
    assert log_lines(news) == [("L1", "one"), ("L2", "two"), ("L3", "hal")]
    world.print(attempt, b"f\nfour\n")
    _, news = follow(bob, news)
    assert log_lines(news) == [("L3", "half"), ("L4", "four")]
    assert follow(bob, news)[0] == 204


def test_a_poll_with_nothing_new_asks_three_things_of_the_database(portal: Portal, bob: Browser, world: World) -> None:
    """Who asks, whether they are in the org, and how far the job is: two hundred people ask this each second."""
    portal.launch("job")
    world.print(world.begin("job"), b"hello\n")
    bob.get(PAGE)
    asked: list[str] = []

    def note(_conn: object, _cursor: object, statement: str, *_: object) -> None:
        asked.append(statement)

    with portal.app.app_context():
        event.listen(db.engine, "before_cursor_execute", note)
    assert follow(bob, bob.page)[0] == 204
    assert len([statement for statement in asked if statement.startswith("SELECT")]) == 3


def test_a_state_that_changes_while_a_poll_looks_is_told(
    portal: Portal, bob: Browser, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On PostgreSQL each statement sees what is newest: the first may know less than those after it."""
    portal.launch("job")
    attempt = world.begin("job")
    bob.get(PAGE)
    page = bob.page
    world.print(attempt, b"one\n")
    before = portal.read(lambda: pulse.read(portal.job("job").org_id, "job", 0, None))
    assert before is not None
    world.finish("job", State.SUCCEEDED)
    with monkeypatch.context() as patched:
        patched.setattr("app.jobs.pulse.read", lambda *_: before)
        for browser, may_launch in ((bob, True), (portal.browser("vera"), False)):
            _, news = follow(browser, page)
            head = str(news.find("hx-partial", {"hx-target": "#job-head"}))
            assert "Succeeded" in head
            assert (f"{PAGE}/again" in head) is may_launch, "what is told to one is not told to another"
            assert log_lines(news) == [("L1", "one")]


def test_what_polls_bring_put_together_is_the_page(portal: Portal, bob: Browser, world: World) -> None:
    portal.launch("job")
    attempt = world.begin("job")
    bob.get(PAGE)
    page = bob.page
    seen: dict[str, str] = {}
    for number in range(0, 600, 50):
        world.print(attempt, b"".join(b"\x1b[3%dmline %d\n" % (n % 8, n) for n in range(number, number + 50)))
        _, page = follow(bob, page)
        for line in page.select("li[id^=L]"):
            assert line["id"] not in seen
            seen[str(line["id"])] = str(line)
    bob.get(PAGE)
    assert {str(line["id"]): str(line) for line in bob.page.select("li[id^=L]")} == seen
    assert len(seen) == 600


def test_a_poller_ends_with_the_job_and_its_log(portal: Portal, bob: Browser, world: World) -> None:
    portal.launch("job")
    attempt = world.begin("job")
    world.print(attempt, b"last words\n")
    bob.get(PAGE)
    assert bob.page.find("meta", {"http-equiv": "refresh"})
    world.finish("job")
    _, page = follow(bob, bob.page)
    assert "hx-trigger" in poller(page)  # the rest of the log may still come
    world.print(attempt, b"really last\n", complete=True)
    _, page = follow(bob, page)
    assert log_lines(page) == [("L2", "really last")]
    assert "Complete" in page.get_text()
    assert "hx-trigger" not in poller(page)
    assert "hx-get" not in poller(page)
    bob.get(PAGE)
    assert "hx-trigger" not in poller(bob.page)
    assert not bob.page.find("meta", {"http-equiv": "refresh"})


def test_a_page_waits_for_the_first_of_the_log_of_a_job_that_ended_at_once(
    portal: Portal, bob: Browser, world: World
) -> None:
    portal.launch("job")
    attempt = world.begin("job")
    world.finish("job")
    bob.get(PAGE)
    assert "hx-trigger" in poller(bob.page)
    world.print(attempt, b"all of it\n", complete=True)
    _, page = follow(bob, bob.page)
    assert log_lines(page) == [("L1", "all of it")]
    assert "hx-trigger" not in poller(page)


def test_a_job_that_never_began_is_not_polled(portal: Portal, bob: Browser) -> None:
    portal.launch("job")
    bob.post(f"{PAGE}/stop")
    bob.get(PAGE)
    assert "hx-trigger" not in poller(bob.page)
    assert "Nothing was printed" in at(bob, "log-foot")


def test_polls_are_slower_while_nothing_moves(
    portal: Portal, bob: Browser, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    portal.launch("job")
    attempt = world.begin("job")
    bob.get(PAGE)
    assert poller(bob.page)["hx-trigger"] == "every 1s"
    later = now() + timedelta(minutes=5)
    monkeypatch.setattr("app.jobs.pulse.now", lambda: later)
    status, page = follow(bob, bob.page)
    assert status == 200
    assert poller(page)["hx-trigger"] == "every 5s"
    assert follow(bob, page)[0] == 204
    monkeypatch.setattr("app.logs.service.now", lambda: later)
    world.print(attempt, b"it moves\n")
    _, page = follow(bob, page)
    assert poller(page)["hx-trigger"] == "every 1s"


def bare(html: str) -> str:
    """Without what is fresh in each answer."""
    return re.sub(r'name="(csrf_token|once)" value="[^"]*"', r'name="\1"', html)


def test_the_page_contains_exactly_the_fragments_of_the_poll(
    portal: Portal, bob: Browser, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    portal.launch("job", nodes=2)
    attempt = world.begin("job")
    world.print(attempt, b"one\nopen")
    moment = now()
    for place in ("app.components.now", "app.jobs.view.now"):
        monkeypatch.setattr(place, lambda: moment)
    page = bare(bob.get(PAGE).text)
    fragment = bob.client.get(f"{PAGE}/poll?version=0")
    parts = BeautifulSoup(fragment.text, "html.parser").find_all("hx-partial")
    assert [part["hx-target"] for part in parts] == [
        "#job-head",
        "#job-reason",
        "#job-ranks",
        "#job-timeline",
        "#log-lines",
        "#log-open",
        "#log-foot",
    ]
    raw = re.findall(r"<hx-partial[^>]*>(.*?)</hx-partial>", fragment.text, re.DOTALL)
    for part in raw:
        assert bare(part).strip() in page


@pytest.mark.parametrize(
    "query",
    [
        "since=5000&size=0",
        "since=1&size=0",
        "since=-1&size=x&version=&every=&style=",
        'style="><script>alert(1)</script>',
        "since=" + "9" * 18,
        "rank=0&attempt=99",
        "attempt=0&size=0",
        "attempt=999999999999999999",
    ],
)
def test_a_forged_poll_does_no_harm(portal: Portal, bob: Browser, world: World, query: str) -> None:
    portal.launch("job")
    world.print(world.begin("job"), b"one\ntwo\n")
    answer = bob.client.get(f"{PAGE}/poll?{query}")
    assert answer.status_code == 200
    assert "<script" not in answer.text


def test_numbers_that_no_database_can_hold_are_simply_not_there(portal: Portal, bob: Browser) -> None:
    portal.launch("job")
    huge = "9" * 18
    for path in (f"{PAGE}/poll?rank={huge}", f"{PAGE}?rank={huge}"):
        assert bob.client.get(path).status_code == 404
    assert bob.client.get(f"{PAGE}?attempt={huge}").status_code == 200


# the log of the page


def test_a_long_log_shows_its_end_and_leads_up(portal: Portal, bob: Browser, world: World) -> None:
    portal.launch("job")
    world.print(world.begin("job"), b"".join(b"line %d\n" % number for number in range(1, 3001)))
    bob.get(PAGE)
    assert log_lines(bob.page)[0] == ("L1001", "line 1001")
    assert log_lines(bob.page)[-1] == ("L3000", "line 3000")
    more = bob.page.find(id="more-above")
    assert more is not None
    link = more.find("a")
    assert link is not None
    answer = BeautifulSoup(bob.client.get(str(link["hx-get"])).text, "html.parser")
    assert [line[1] for line in log_lines(answer)] == [f"line {number}" for number in range(1, 1001)]
    assert answer.find(id="more-above") is None
    bob.get(str(link["href"]))  # without JavaScript
    assert ("L1000", "line 1000") in log_lines(bob.page)


@pytest.mark.parametrize("query", ["", "above=0", "below=0", "above=x"])
def test_more_lines_of_nowhere_are_not_there(portal: Portal, bob: Browser, world: World, query: str) -> None:
    portal.launch("job")
    world.print(world.begin("job"), b"one\n")
    assert bob.get(f"{PAGE}/lines?{query}").status_code == 404
    assert bob.get(f"{PAGE}/lines?below={'9' * 18}").status_code == 200


def test_finding_goes_from_match_to_match(portal: Portal, bob: Browser, world: World) -> None:
    portal.launch("job")
    world.print(
        world.begin("job"), b"".join(b"step %d %s\n" % (n, b"loss" if n % 10 == 0 else b"") for n in range(100))
    )
    bob.get(f"{PAGE}?find=LOSS")
    assert "1 of 10" in bob.text()
    assert [line["id"] for line in bob.page.select("li.is-hit")] == ["L1"]
    assert len(bob.page.find_all("mark")) == 10
    link = bob.page.find("a", {"aria-label": "Next match"})
    assert link is not None
    bob.get(str(link["href"]))
    assert "2 of 10" in bob.text()
    assert [line["id"] for line in bob.page.select("li.is-hit")] == ["L11"]
    bob.get(f"{PAGE}?find=nothing")
    assert "not found" in bob.text()


def test_a_gap_is_shown_in_the_page_and_in_the_download(portal: Portal, bob: Browser, world: World) -> None:
    portal.launch("job")
    attempt = world.begin("job")
    world.print(attempt, b"before\n")
    world.print(attempt, b"after\n", skipped=1500)
    world.print(attempt, b"", skipped=None)
    bob.get(PAGE)
    gaps = [gap.get_text().replace("\N{NO-BREAK SPACE}", " ") for gap in bob.page.select("li.log-gap")]
    assert gaps == [
        "1.5 KB are missing here. The disk was full.",
        "Some output is missing here. The disk was full.",
    ]
    download = bob.client.get(f"{PAGE}/log")
    assert download.data == (b"before\n\n[1,500 bytes are missing here]\nafter\n\n[some bytes are missing here]\n")


def test_the_download_is_the_bytes_as_printed(portal: Portal, bob: Browser, world: World) -> None:
    portal.launch("job")
    attempt = world.begin("job")
    printed = bytes(range(256)) * 4000 + b"\x1b[31m<b>\r\n"
    world.print(attempt, printed)
    answer = bob.client.get(f"{PAGE}/log")
    assert answer.data == printed
    assert answer.content_type == "text/plain; charset=utf-8"
    assert answer.headers["Content-Disposition"] == 'attachment; filename="job-rank0.log"'
    assert answer.headers["X-Content-Type-Options"] == "nosniff"


def test_the_download_of_a_job_that_printed_nothing_is_empty(portal: Portal, bob: Browser) -> None:
    portal.launch("job")
    assert bob.client.get(f"{PAGE}/log").data == b""


def test_a_log_with_hostile_codes_leaves_the_page_standing(portal: Portal, bob: Browser, world: World) -> None:
    portal.launch("job")
    world.print(world.begin("job"), b"\x1b[" + b"9" * 6000 + b"mboo\n\xff\xfe\x00\n")
    assert bob.get(PAGE).status_code == 200
    assert log_lines(bob.page)[0] == ("L1", "boo")


def test_a_page_that_shows_one_place_of_the_log_still_follows_the_state(portal: Portal) -> None:
    job = portal.launch("one")
    bob = portal.browser("bob")
    bob.get("/orgs/lab/jobs/one?line=1")
    poller = bob.page.find(id="poller")
    assert poller is not None and "still=1" in str(poller["hx-get"])
    bob.post("/orgs/lab/jobs/one/stop")
    answer = bob.get(str(poller["hx-get"]))
    assert answer.status_code == 200
    assert "Cancelled" in answer.text
    assert 'id="lines-' not in answer.text
    assert portal.job("one").version > job.version


def test_people_who_watch_the_same_lines_share_them_and_nothing_else(portal: Portal, world: World) -> None:
    portal.launch("job")
    attempt = world.begin("job")
    world.print(attempt, b"first\n")
    bob, vera, mallory = portal.browser("bob"), portal.browser("vera"), portal.browser("mallory")
    pages = {who: BeautifulSoup(who.client.get(PAGE).text, "html.parser") for who in (bob, vera)}
    world.print(attempt, b"second\n")
    answers = [who.client.get(poller(page)["hx-get"]).text for who, page in pages.items()]
    assert answers[0] == answers[1]
    assert "second" in answers[0]
    path = poller(pages[bob])["hx-get"]
    assert mallory.client.get(path).status_code == 404, "what is kept is nobody's way in"
    world.print(attempt, b"third\n")
    assert "third" in bob.client.get(path).text, "what is kept is never old news"
    world.change("job", lambda job: setattr(job, "reason_text", "It goes on."))
    heads = [BeautifulSoup(who.client.get(path).text, "html.parser") for who in (bob, vera)]
    assert [f"{PAGE}/stop" in str(head) for head in heads] == [True, False]
