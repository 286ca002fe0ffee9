"""Two thousand jobs of the soak, with four times its faults, for every change of the code."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.postgresql import Postgresql
from tests.soak.__main__ import soak, table
from tests.soak.drive import Result
from tests.soak.faults import Rates

JOBS = {"sqlite": 1_500, "postgresql": 500}
SEED = 20_261
FAULTS = 4.0  # times as many as in the long run


@pytest.fixture
def url(database: str, request: pytest.FixtureRequest) -> Iterator[str]:
    """An empty database; nothing for SQLite's own file."""
    if database == "sqlite":
        yield ""
        return
    server: Postgresql = request.getfixturevalue("postgresql")
    name = server.create()
    yield server.url(name)
    server.drop(name)


def test_no_job_is_lost_or_doubled_whatever_fails(database: str, url: str) -> None:
    count = JOBS[database]
    done = soak(count, SEED, Rates().times(FAULTS), url, quiet=True)
    again = f"Once more: python -m tests.soak --jobs {count} --seed {SEED} --faults {FAULTS}"
    assert not done.violations, "\n".join([*done.violations, again])
    assert done.jobs == count
    the_faults_were_thrown_and_every_end_came(done)


def the_faults_were_thrown_and_every_end_came(done: Result) -> None:
    """The test of the test."""
    print(table(done, []))
    kinds = {what.split(" at ")[0] for what in done.faults}
    assert done.kills >= done.jobs // 100
    assert {"killed before a commit", "commit: refused", "commit: answer lost", "an old worker goes on"} <= kinds
    assert {"launch: answer lost", "read: not sent", "a cluster falls silent"} <= kinds
    assert set(done.ends) == {"succeeded", "failed", "cancelled", "lost"}
