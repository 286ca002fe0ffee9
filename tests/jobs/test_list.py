"""The list of an org's jobs."""

from __future__ import annotations

import pytest
from sqlalchemy import event, func, insert, select

from app.database import db, now, transaction
from app.jobs.models import Job
from app.jobs.states import State
from app.orgs import service as orgs
from tests.conftest import Browser, Portal, on_sqlite
from tests.jobs.conftest import World

LIST = "/orgs/lab/jobs"


@pytest.fixture
def bob(portal: Portal) -> Browser:
    return portal.browser("bob")


def many_jobs(portal: Portal, count: int, state: State = State.SUCCEEDED, like: str = "many", start: int = 0) -> None:
    """Rows as old jobs have them, quickly."""
    model = portal.launch(f"{like}-model")
    with portal.app.app_context(), transaction():
        columns = {each.name: getattr(model, each.name) for each in Job.__table__.columns if each.name != "id"}
        db.session.execute(
            insert(Job),
            [
                {
                    **columns,
                    "uid": f"{like[:2]}{number:06d}",
                    "name": f"{like}-{number}",
                    "state": state,
                    "finished_at": now() if state.final else None,
                    "created_at": now(),
                }
                for number in range(start, start + count)
            ],
        )


def names(browser: Browser) -> list[str]:
    return [link.get_text() for link in browser.page.select("#joblist tbody .c-name a")]


def tabs(browser: Browser) -> dict[str, str]:
    links = browser.page.select("#joblist .tabs a")
    words = [link.get_text(" ").split() for link in links]
    return {name: count for name, count in words}  # noqa: C416 - dict() takes no lists in mypy's eyes


def follow(browser: Browser, label: str) -> None:
    link = next(each for each in browser.page.select(".pager a") if each.get_text(strip=True) == label)
    browser.get(str(link["href"]))


def labels(browser: Browser) -> list[str]:
    return [each.get_text(strip=True) for each in browser.page.select(".pager a")]


def test_jobs_stand_newest_first_with_their_reasons_and_people(portal: Portal, bob: Browser) -> None:
    portal.launch("one")
    portal.launch("two", "alice")
    bob.get(LIST)
    assert names(bob) == ["two", "one"]
    row = bob.page.find(id="job-two")
    assert row is not None
    assert "It was just launched." in row.get_text()
    assert "alice" in row.get_text()
    one = bob.page.find(id="job-one")
    assert one is not None
    assert "you" in one.get_text()


def test_tabs_count_and_filter(portal: Portal, bob: Browser, world: World) -> None:
    for name in ("waits", "runs", "ended", "broke"):
        portal.launch(name)
    world.begin("runs")
    world.finish("ended")
    world.finish("broke", State.FAILED)
    bob.get(LIST)
    assert tabs(bob) == {
        "All": "4",
        "Active": "2",
        "Queued": "1",
        "Running": "1",
        "Succeeded": "1",
        "Failed": "1",
        "Cancelled": "0",
        "Lost": "0",
    }
    for state, there in {"active": ["runs", "waits"], "failed": ["broke"], "starting": [], "lost": []}.items():
        bob.get(f"{LIST}?state={state}")
        assert names(bob) == there
    assert bob.get(f"{LIST}?state=nonsense").status_code == 404


def test_counts_of_final_states_are_capped_and_others_are_exact(portal: Portal, bob: Browser) -> None:
    many_jobs(portal, 1100)
    many_jobs(portal, 1203, State.QUEUED, like="wait")
    bob.get(LIST)
    counted = tabs(bob)
    assert counted["Succeeded"] == "1,000+"
    assert counted["All"] == "1,000+"
    assert counted["Queued"] == counted["Active"] == "1,205"


def test_exactly_1000_is_no_cap(portal: Portal, bob: Browser) -> None:
    many_jobs(portal, 1000)
    bob.get(LIST)
    assert tabs(bob)["Succeeded"] == "1,000"


def test_mine_are_those_that_i_launched(portal: Portal, bob: Browser) -> None:
    portal.launch("my-own")
    portal.launch("hers", "alice")
    bob.get(f"{LIST}?mine=1")
    assert names(bob) == ["my-own"]
    portal.browser("alice").get(f"{LIST}?mine=1")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("lr", ["resnet-lr1", "lr-sweep"]),
        ("LR-", ["lr-sweep"]),
        ("%", []),
        ("_", []),
        ("\\", []),
        ("r%s", []),
        ("'; --", []),
        ("  sweep ", ["lr-sweep"]),
        ("é", []),
        ("sw\0eep", ["lr-sweep"]),
        ("x" * 500, []),
    ],
)
def test_a_search_finds_parts_of_names_and_nothing_is_a_wildcard(
    portal: Portal, bob: Browser, text: str, found: list[str]
) -> None:
    for name in ("lr-sweep", "resnet-lr1", "other"):
        portal.launch(name)
    assert bob.get(LIST, query_string={"q": text}).status_code == 200
    assert names(bob) == found


def test_filters_go_together_and_stay_in_the_links(portal: Portal, bob: Browser, world: World) -> None:
    portal.launch("a-1")
    portal.launch("a-2", "alice")
    portal.launch("a-3")
    world.finish("a-3")
    bob.get(f"{LIST}?q=a-&mine=1&state=active")
    assert names(bob) == ["a-1"]
    tab = next(each for each in bob.page.select(".tabs a") if "Failed" in each.get_text())
    assert "q=a-" in str(tab["href"])
    assert "mine=1" in str(tab["href"])


def test_pages_hold_50_and_stay_stable_while_new_jobs_arrive(portal: Portal, bob: Browser) -> None:
    many_jobs(portal, 119)
    bob.get(LIST)
    first = names(bob)
    assert len(first) == 50
    assert labels(bob) == ["Older"]
    follow(bob, "Older")
    second = names(bob)
    assert labels(bob) == ["Newer", "Older"]
    portal.launch("newcomer")
    follow(bob, "Older")
    third = names(bob)
    assert len(third) == 20
    assert labels(bob) == ["Newer"]
    assert len({*first, *second, *third}) == 120
    follow(bob, "Newer")
    assert names(bob) == second
    follow(bob, "Newer")
    assert names(bob) == first
    follow(bob, "Newer")
    assert names(bob) == ["newcomer"]


def test_pages_keep_the_filter(portal: Portal, bob: Browser) -> None:
    many_jobs(portal, 60, State.FAILED)
    many_jobs(portal, 10, State.SUCCEEDED, like="good")
    bob.get(f"{LIST}?state=failed&q=many")
    follow(bob, "Older")
    assert names(bob) == [f"many-{number}" for number in range(9, -1, -1)]


@pytest.mark.parametrize("place", ["before=x", "before=-1", "after=" + "9" * 40, "before=1%00", "before="])
def test_a_place_that_is_no_place_is_the_first_page(portal: Portal, bob: Browser, place: str) -> None:
    portal.launch("one")
    assert bob.get(f"{LIST}?{place}").status_code == 200
    assert names(bob) == ["one"]


def test_an_org_without_jobs_offers_the_first(portal: Portal, bob: Browser) -> None:
    bob.get(LIST)
    assert "No job yet in lab" in bob.text()
    answer = bob.post("/orgs/lab/new-job", {**bob.form("/new-job"), "gpus": "0"})
    assert answer.status_code == 303
    assert portal.job("digits").spec["command"] == "python train.py"


def test_a_viewer_of_an_org_without_jobs_is_told_what_to_expect(portal: Portal) -> None:
    vera = portal.browser("vera")
    vera.get(LIST)
    assert "You can look on here" in vera.text()
    assert not [form for form in vera.page.find_all("form") if "new-job" in str(form.get("action"))]


def test_a_filter_without_jobs_says_so_and_leads_back(portal: Portal, bob: Browser) -> None:
    portal.launch("one", "alice")
    bob.get(f"{LIST}?state=failed")
    assert "No job is failed" in bob.text()
    bob.get(f"{LIST}?q=zzz")
    assert "No job here has “zzz” in its name" in bob.text()
    bob.get(f"{LIST}?mine=1")
    assert "No job of yours" in bob.text()
    assert bob.page.find("a", href=LIST, string="Show all jobs")


# the fragment


def poll(browser: Browser) -> str:
    place = browser.page.find(id="joblist")
    assert place is not None
    return str(place["hx-get"])


def test_the_page_contains_exactly_the_fragment(portal: Portal, bob: Browser, monkeypatch: pytest.MonkeyPatch) -> None:
    portal.launch("one")
    moment = now()
    for place in ("app.components.now", "app.jobs.view.now"):
        monkeypatch.setattr(place, lambda: moment)
    page = bob.get(f"{LIST}?mine=1")
    fragment = bob.client.get("/orgs/lab/jobs-list?mine=1")
    assert fragment.text.strip() in page.text


def test_a_poll_gets_nothing_while_nothing_changed(portal: Portal, bob: Browser, world: World) -> None:
    portal.launch("one")
    bob.get(LIST)
    assert bob.client.get(poll(bob)).status_code == 204
    world.begin("one")
    answer = bob.get(poll(bob))
    assert answer.status_code == 200
    assert "Running" in bob.text()
    assert bob.client.get(poll(bob)).status_code == 204
    portal.launch("two")
    assert bob.get(poll(bob)).status_code == 200
    assert names(bob) == ["two", "one"]
    world.machine(gpus=3)
    assert bob.get(poll(bob)).status_code == 200
    assert "3 of 3 H100 free" in bob.text()
    assert bob.client.get(poll(bob)).status_code == 204


def test_a_poll_keeps_filter_and_place(portal: Portal, bob: Browser) -> None:
    many_jobs(portal, 60)
    bob.get(f"{LIST}?q=many&state=succeeded")
    follow(bob, "Older")
    second = names(bob)
    portal.launch("many-new")
    assert bob.get(poll(bob)).status_code == 200
    assert names(bob) == second


def test_polls_are_slower_when_nothing_is_active(portal: Portal, bob: Browser, world: World) -> None:
    portal.launch("one")
    bob.get(LIST)
    assert bob.page.select("#joblist")[0]["hx-trigger"] == "every 2s"
    world.finish("one")
    bob.get(LIST)
    assert bob.page.select("#joblist")[0]["hx-trigger"] == "every 10s"


# borders


def test_jobs_of_another_org_never_appear(portal: Portal, bob: Browser) -> None:
    portal.launch("theirs", "mallory")
    portal.launch("ours")
    for path in (LIST, f"{LIST}?q=theirs", "/orgs/lab/jobs-list", f"{LIST}?state=queued"):
        bob.get(path)
        assert names(bob) in (["ours"], [])
        assert "theirs" not in "".join(names(bob))
    bob.get(LIST)
    assert tabs(bob)["All"] == "1"
    for path in ("/orgs/rivals/jobs", "/orgs/rivals/jobs-list", "/orgs/rivals/jobs/theirs", "/orgs/nowhere/jobs"):
        assert bob.get(path).status_code == 404


def test_the_list_reads_no_more_rows_for_more_jobs(portal: Portal, bob: Browser) -> None:
    many_jobs(portal, 200)
    asked: list[str] = []

    def note(_conn: object, _cursor: object, statement: str, *_: object) -> None:
        asked.append(statement)

    with portal.app.app_context():
        event.listen(db.engine, "before_cursor_execute", note)
    bob.get(LIST)
    few = len(asked)
    many_jobs(portal, 200, like="more")
    asked.clear()
    bob.get(LIST)
    assert len(asked) == few < 25


@on_sqlite
def test_a_search_is_answered_from_the_orgs_part_of_an_index(portal: Portal) -> None:
    def plan() -> str:
        org = orgs.by_slug("lab")
        query = (
            select(Job.id).where(Job.org_id == org.id, Job.name.contains("x", autoescape=True)).order_by(Job.id.desc())
        )
        compiled = str(query.compile(db.engine, compile_kwargs={"literal_binds": True}))
        rows = db.session.connection().exec_driver_sql(f"EXPLAIN QUERY PLAN {compiled}").all()
        return " ".join(str(row[3]) for row in rows)

    found = portal.read(plan)
    assert "ix_jobs_org_id_id" in found
    assert "SCAN" not in found
    assert portal.read(lambda: db.session.scalar(select(func.count()).select_from(Job))) == 0
