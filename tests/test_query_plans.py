"""Lists stay fast in an org of 100,000 jobs: each query reads one range of one index, already in order.

The statements are caught while the real services run, so that this cannot drift from them, and SQLite is asked how it
would answer each.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy import event

from app.accounts import service as accounts
from app.clusters import service as clusters
from app.database import db, now, transaction
from app.jobs import preview
from app.jobs import service as jobs
from app.jobs.models import Job, JobAttempt
from app.jobs.service import Filter
from app.jobs.states import State
from app.logs import service as logs
from app.orgs import service as orgs
from app.presets import service as presets
from app.worker.loop import ClusterLoop
from app.worker.turn import Turn
from tests.conftest import Portal


class Plans:
    """What SQLite says of the statements that were run."""

    def __init__(self) -> None:
        self.statements: list[str] = []
        self.lines: list[str] = []

    def __str__(self) -> str:
        return "\n".join(["", *self.statements, *self.lines])

    def explain(self, cursor: Any, statement: str, parameters: Any) -> None:
        cursor.execute(f"EXPLAIN QUERY PLAN {statement}", parameters)
        self.lines += [row[-1] for row in cursor.fetchall()]

    @property
    def detours(self) -> list[str]:
        """Tables read whole, and sorting. A subquery or one row is no table."""
        return [
            line
            for line in self.lines
            if line.startswith("USE TEMP B-TREE")
            or (line.startswith("SCAN") and not line.startswith(("SCAN anon_", "SCAN CONSTANT ROW")))
        ]

    @property
    def indexes(self) -> set[str]:
        """Of every search: the index, or `primary key`, with the columns that narrow it."""
        found = set()
        for line in self.lines:
            if line.startswith("SEARCH"):
                how = re.search(r"USING (?:COVERING )?(?:INDEX (\S+)|(INTEGER PRIMARY KEY|PRIMARY KEY)) \((.*)\)", line)
                assert how is not None, line
                name = (how[1] or "primary key").replace("sqlite_autoindex_", "unique ")
                found.add(f"{name} ({how[3]})")
        return found

    def use(self, expected: set[str]) -> bool:
        """Whether these indexes are used and no others. Rows known by their id are read again in each transaction."""
        ids = {"primary key (rowid=?)"}
        return self.indexes - ids == expected - ids


class PostgresqlPlans(Plans):
    """What PostgreSQL says of them. Its planner reads a table of six rows whole; here it is told that this is dear."""

    def explain(self, cursor: Any, statement: str, parameters: Any) -> None:
        for way in ("seqscan", "bitmapscan", "sort", "hashjoin", "mergejoin", "material", "hashagg"):
            cursor.execute(f"SET LOCAL enable_{way} = off")
        cursor.execute(f"EXPLAIN (FORMAT JSON) {statement}", parameters)
        self._read(cursor.fetchone()[0][0]["Plan"])

    def _read(self, node: dict[str, Any]) -> None:
        kind = node["Node Type"]
        if kind == "Seq Scan" or (kind.startswith("Index") and "Index Cond" not in node):
            self.lines.append(f"SCAN {node['Relation Name']}")
        elif kind.startswith("Index"):
            self.lines.append(f"SEARCH {node['Index Name']} {node['Index Cond']}")
        elif "Sort" in kind:
            self.lines.append(f"SORT {node['Sort Key']}")
        for inner in node.get("Plans", ()):
            self._read(inner)

    @property
    def detours(self) -> list[str]:
        return [line for line in self.lines if line.startswith(("SCAN", "SORT"))]

    @property
    def indexes(self) -> set[str]:
        return {line.split()[1] for line in self.lines if line.startswith("SEARCH")}

    def use(self, expected: set[str]) -> bool:
        """Which of several indexes it takes for a table of six rows says nothing; that it takes one, does."""
        return bool(self.indexes) or not expected


@contextmanager
def watched() -> Iterator[Plans]:
    """Explain every statement that is run inside."""
    plans = Plans() if db.engine.dialect.name == "sqlite" else PostgresqlPlans()
    db.session.rollback()

    def before(connection: Any, cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        if statement.lstrip().upper().startswith(("SELECT", "UPDATE", "DELETE")):
            plans.statements.append(f"{statement} {parameters}")
            explain = cursor.connection.cursor()
            plans.explain(explain, statement, parameters)
            explain.close()

    event.listen(db.engine, "before_cursor_execute", before)
    try:
        yield plans
    finally:
        event.remove(db.engine, "before_cursor_execute", before)


@pytest.fixture
def here(portal: Portal) -> Iterator[SimpleNamespace]:
    """Some jobs with everything that hangs on them, inside the application's context."""
    for number in range(6):
        portal.launch(f"job-{number}", "bob" if number % 2 else "alice")
    token = portal.token("bob")
    browser = portal.browser("bob")
    with portal.app.app_context():
        with transaction():
            job = db.session.query(Job).filter_by(name="job-3").one()
            attempt = JobAttempt(job_id=job.id, number=1)
            db.session.add(attempt)
            job.attempt = 1
            db.session.flush()
            stream = logs.stream(attempt.id, 0)
            for _ in range(4):
                logs.append(stream, b"a line\n" * 100_000, "c", 0, "", False, 1 << 30)
            logs.append(stream, b"x\n", "c", None, "lost", False, 1 << 30)
        bob = accounts.by_email("bob@example.org")
        assert bob is not None
        ids = SimpleNamespace(
            portal=portal,
            lab=orgs.by_slug("lab"),
            org=orgs.by_slug("lab").id,
            job=db.session.query(Job).filter_by(name="job-3").one(),
            attempt=db.session.query(JobAttempt).one(),
            bob=bob.id,
            token=token,
            browser=browser,
            cluster=clusters.everything()[0].id,
        )
        yield ids


# What each query reads: the index with the columns that narrow it. `unique x` is the index of a unique constraint.
ORG = "ix_jobs_org_id_id (org_id=?"
STATE = "ix_jobs_org_id_state_id (org_id=? AND state=?"
USER = "ix_jobs_org_id_user_id_id (org_id=? AND user_id=?"
MINE = "ix_jobs_org_id_user_id_state_id (org_id=? AND user_id=? AND state=?"

LISTS: dict[str, tuple[Filter, str]] = {
    "all": (Filter(), ORG),
    "a state": (Filter(state="failed"), STATE),
    "mine": (Filter(user_id=1), USER),
    "mine in a state": (Filter(state="failed", user_id=1), MINE),
    "found in a state": (Filter(state="failed", q="job"), STATE),
    "found among mine": (Filter(user_id=1, q="job"), USER),
    # this one reads the whole range of the org where little is found, but nobody else's
    "found": (Filter(q="job"), ORG),
}


@pytest.mark.parametrize(
    ("ends", "range_of_ids"), [({}, ""), ({"before": 4}, " AND id<?"), ({"after": 2}, " AND id>?")]
)
@pytest.mark.parametrize("kind", LISTS)
def test_a_page_of_jobs_reads_one_range_in_order(
    here: SimpleNamespace, kind: str, ends: dict[str, int], range_of_ids: str
) -> None:
    only, index = LISTS[kind]
    with watched() as plans:
        jobs.page_of_jobs(here.org, only, **ends)
    assert len(plans.statements) <= (2 if only.q else 1)
    assert plans.use({f"{index}{range_of_ids})"}), plans
    one_page = {"USE TEMP B-TREE FOR ORDER BY", "SORT ['id DESC']", "SORT ['id']"}
    assert set(plans.detours) <= (one_page if only.q else set()), plans  # what a search found is put in order


@pytest.mark.parametrize(("only", "index"), [(Filter(state="active"), STATE), (Filter("active", 1), MINE)])
def test_active_jobs_are_a_range_for_each_state_put_together(here: SimpleNamespace, only: Filter, index: str) -> None:
    with watched() as plans:
        jobs.page_of_jobs(here.org, only)
    assert plans.use({f"{index})"}), plans


QUERIES: dict[str, tuple[Callable[[SimpleNamespace], object], set[str]]] = {
    "the counts of the tabs": (lambda here: jobs.counts(here.org), {f"{STATE})"}),
    "whether there are jobs": (
        lambda here: jobs.has_jobs(here.org),
        {"ix_jobs_org_id_user_id_state_id (org_id=?)"},
    ),
    "a job by its name": (
        lambda here: jobs.readable_job(here.lab, "job-3"),
        {"unique jobs_1 (org_id=? AND name=?)"},
    ),
    "a free name": (
        lambda here: jobs.free_name(here.org, "job-3"),
        {"unique jobs_1 (org_id=? AND name=?)", f"{ORG})"},
    ),
    "the timeline of a job": (lambda here: jobs.timeline(here.job), {"ix_job_events_job_id (job_id=?)"}),
    "an attempt of a job": (lambda here: jobs.attempt_of(here.job), {"unique attempts_1 (job_id=? AND number=?)"}),
    "the ranks of an attempt": (lambda here: jobs.ranks(here.attempt), {"unique ranks_1 (attempt_id=?)"}),
    "names of people": (lambda _: jobs.people({1, 2}), set()),
    "somebody's sessions": (
        lambda here: accounts.sessions(here.bob, 24),
        {"ix_user_sessions_user_id (user_id=?)"},
    ),
    "somebody's tokens": (lambda here: accounts.tokens(here.bob), {"ix_api_tokens_user_id (user_id=?)"}),
    "the session of a cookie": (
        lambda _: accounts.session_of("none", 1),
        {"unique user_sessions_1 (secret_hash=?)"},
    ),
    "the row of a token": (
        lambda here: accounts.token_of(here.token),
        {"unique api_tokens_1 (public_id=?)"},
    ),
    "a link": (lambda _: accounts.use_link("none"), {"unique sign_in_links_1 (secret_hash=?)"}),
    "a password": (
        lambda _: accounts.check_password("bob@example.org", "wrong horse battery", "192.0.2.1"),
        {
            "ix_sign_in_failures_email_hash_at (email_hash=? AND at>?)",
            "unique users_1 (email=?)",
            "ix_sign_in_failures_at (at<?)",
        },
    ),
    "a membership": (
        lambda here: orgs.membership(here.bob, "lab"),
        {"unique orgs_1 (slug=?)", "unique memberships_1 (org_id=? AND user_id=?)"},
    ),
    "the presets of an org": (
        lambda here: presets.of_org(here.org),
        {"unique presets_1 (org_id=?)", "unique preset_versions_1 (preset_id=? AND number=?)"},
    ),
    "the streams of an attempt": (
        lambda here: logs.streams(here.attempt.id),
        {"unique log_streams_1 (attempt_id=?)"},
    ),
    "the end of a log": (
        lambda here: logs._last_chunk(logs.stream(here.attempt.id, 0)),
        {"unique log_streams_1 (attempt_id=? AND rank=?)", "unique log_chunks_1 (attempt_id=? AND rank=?)"},
    ),
    "a log from a byte on": (
        lambda here: list(logs.pieces(here.attempt.id, 0, 1000)),
        {
            "unique log_chunks_1 (attempt_id=? AND rank=? AND first_byte<?)",
            "unique log_chunks_1 (attempt_id=? AND rank=? AND first_byte>?)",
        },
    ),
}


@pytest.mark.parametrize("what", QUERIES)
def test_a_query_reads_what_it_needs_and_no_more(here: SimpleNamespace, what: str) -> None:
    ask, indexes = QUERIES[what]
    with watched() as plans:
        ask(here)
    assert plans.use(indexes), plans
    assert not plans.detours, plans


# what is sorted or scanned all the same


def test_ones_orgs_are_sorted_by_name_because_they_are_few(here: SimpleNamespace) -> None:
    with watched() as plans:
        orgs.of_user(here.bob)
    assert plans.use({"ix_memberships_user_id (user_id=?)"}), plans
    assert set(plans.detours) <= {"USE TEMP B-TREE FOR ORDER BY", "SORT ['orgs.slug']", "SCAN orgs"}, plans


def test_the_clusters_of_an_org_are_read_whole_because_they_are_few(here: SimpleNamespace) -> None:
    with watched() as plans:
        clusters.of_org(here.org)
    assert plans.use({"ix_cluster_orgs_org_id (org_id=?)"})
    assert "SCAN clusters" in plans.detours, plans
    assert set(plans.detours) <= {"SCAN clusters", "SORT ['clusters.id']"}, plans


def test_a_line_of_a_log_is_found_by_its_number(here: SimpleNamespace) -> None:
    """Only chunks that begin in the same line are sorted among each other: those without a line end."""
    with watched() as plans:
        logs.byte_of_line(here.attempt.id, 0, 1000)
    assert "ix_log_chunks_line" in {index.partition(" ")[0] for index in plans.indexes}
    assert set(plans.detours) <= {"USE TEMP B-TREE FOR LAST TERM OF ORDER BY"}, plans


# the worker, which asks every second


@pytest.fixture
def loop(here: SimpleNamespace) -> Any:
    cluster = SimpleNamespace(owned=frozenset)
    made = ClusterLoop(
        here.portal.app,
        Turn(),
        here.cluster,
        "this-machine",
        cluster,
        "instance",
        SimpleNamespace(),  # type: ignore[arg-type]
        lambda _: None,
    )
    made._steps = SimpleNamespace(look=lambda _: None, settle=lambda _: True, launch=lambda _: None)  # type: ignore[assignment]
    return made


PARTIAL = "ix_jobs_unsettled (cluster_id=?"


def test_the_worker_reads_the_jobs_that_are_not_settled_and_no_others(here: SimpleNamespace, loop: Any) -> None:
    with watched() as plans:
        loop._pass()
    of_jobs = {index for index in plans.indexes if "attempts" not in index}
    assert of_jobs, plans
    assert all(index.startswith(PARTIAL.partition(" (")[0]) for index in of_jobs), plans
    # PostgreSQL 18 reads a table of one attempt whole, whatever it is told of the price
    few = {"SCAN attempts"} if isinstance(plans, PostgresqlPlans) else set()
    assert set(plans.detours) <= few, plans


def test_the_form_counts_the_jobs_ahead_among_those_that_are_not_settled(here: SimpleNamespace) -> None:
    with watched() as plans:
        preview._ahead(here.cluster, True)
        preview._ahead(here.cluster, False)
    assert plans.use({f"{PARTIAL})"}), plans
    assert not plans.detours, plans


def test_names_like_one_that_was_mistyped_are_a_range_of_names(here: SimpleNamespace) -> None:
    with watched() as plans:
        jobs.near(here.org, "job-9")
    assert plans.use({"unique jobs_1 (org_id=? AND name>? AND name<?)"}), plans
    assert not plans.detours, plans


def test_a_page_of_the_list_asks_for_nothing_that_is_scanned(here: SimpleNamespace) -> None:
    """The whole page, as a browser gets it: no query beside the known ones slips in."""
    for path in ("/orgs/lab/jobs", "/orgs/lab/jobs-list", "/orgs/lab/jobs/job-3", "/orgs/lab/jobs/job-3/poll"):
        with watched() as plans:
            assert here.browser.client.get(path).status_code == 200
        few = {
            "SCAN clusters",
            "SCAN orgs",
            "USE TEMP B-TREE FOR ORDER BY",
            "USE TEMP B-TREE FOR LAST TERM OF ORDER BY",
        }
        assert {line for line in plans.detours if not line.startswith("SORT")} <= few, plans
        assert not [line for line in plans.lines if line.startswith("SCAN") and "jobs" in line], plans


def test_a_table_that_is_read_whole_is_noticed(here: SimpleNamespace) -> None:
    """The test of the tests."""
    with watched() as plans:
        db.session.query(Job).filter(Job.reason_text == "x").order_by(Job.reason_raw).all()
    assert sorted(plans.detours) in (
        ["SCAN jobs", "USE TEMP B-TREE FOR ORDER BY"],
        ["SCAN jobs", "SORT ['reason_raw']"],
    )
    assert plans.indexes == set()


def test_retention_finds_what_is_old_by_an_index(here: SimpleNamespace) -> None:
    """It runs every hour: it reads what it removes, and nothing else."""
    long_ago = now() - timedelta(days=900)
    retention = "ix_jobs_retention (log_gone=? AND finished_at<?)"
    with watched() as plans:
        jobs.oldest(long_ago, 20)
    assert plans.use({retention}) and not plans.detours, plans
    with watched() as plans:
        jobs.oldest(long_ago, 20, with_log=True)
    assert plans.use({retention}) and not plans.detours, plans
    with watched() as plans:
        jobs.log_bytes()
    assert plans.use({"ix_jobs_retention (log_gone=?)"}) and not plans.detours, plans
    assert all("COVERING" in line or not line.endswith("(log_gone=?)") for line in plans.lines)
    with watched() as plans, transaction():
        accounts.forget_expired(20)
    assert not plans.detours, plans
    assert plans.use(
        {
            "primary key (rowid=?)",
            "ix_user_sessions_expires_at (expires_at<?)",
            "ix_sign_in_links_expires_at (expires_at<?)",
            "ix_sign_in_failures_at (at<?)",
        }
    ), plans


def test_removing_a_job_reads_what_hangs_on_it_alone(here: SimpleNamespace) -> None:
    with transaction():
        job = db.session.get_one(Job, here.job.id)
        job.state, job.settled, job.finished_at = State.SUCCEEDED, True, now()
    with watched() as plans, transaction():
        assert jobs.remove_log(here.job.id, "It is old.", 2) == 2
        assert jobs.remove_log(here.job.id, "It is old.", 100) < 100
        assert jobs.remove(here.job.id)
    assert not plans.detours, plans
