"""Each byte that a job prints is in the archive once, whatever fails on the way."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy.exc import OperationalError

from app.cluster.protocol import ClusterError, Outcome
from app.database import db
from app.logs import service as logs
from app.worker import collect, steps
from tests.conftest import Portal
from tests.worker.stub import Worker, ended, make_worker

RANDOM = random.Random(1).randbytes(700_000)


def test_bytes_come_out_as_they_went_in(worker: Worker) -> None:
    job = worker.run("one")
    printed = b"\xff\xfe not UTF-8\r50%\r100%\r\n\x00\x1b[31mred\x1b[0m" + RANDOM + b"no newline at the end"
    for start in range(0, len(printed), 97_003):
        worker.cluster.print(job, printed[start : start + 97_003])
        worker.collect()
    assert worker.log(job) == printed
    assert not worker.stream(job).complete  # type: ignore[union-attr]  # it exists by now


def test_every_rank_has_a_log_of_its_own(worker: Worker) -> None:
    job = worker.run("one", nodes=3)
    for rank in range(3):
        worker.cluster.print(job, b"rank %d" % rank, rank)
    worker.collect()
    assert [worker.log(job, rank) for rank in range(3)] == [b"rank 0", b"rank 1", b"rank 2"]


@pytest.mark.parametrize("after", [1, 2, 3])
def test_a_commit_that_fails_in_the_middle_saves_neither_bytes_nor_cursor(
    worker: Worker, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    jobs = [worker.run(name) for name in ("one", "two", "three")]
    for job in jobs:
        worker.cluster.print(job, b"first ")
    worker.collect()
    for job in jobs:
        worker.cluster.print(job, b"second ")
    append, calls = logs.append, []

    def fail(*arguments: object) -> None:
        append(*arguments)  # type: ignore[arg-type]  # handed through
        db.session.flush()
        calls.append(arguments)
        if len(calls) == after:
            raise OperationalError("INSERT", {}, Exception("disk I/O error"))

    monkeypatch.setattr(logs, "append", fail)
    worker.collect()
    monkeypatch.undo()
    assert [worker.log(job) for job in jobs] == [b"first "] * 3
    assert {worker.stream(job).cursor for job in jobs} == {"6"}  # type: ignore[union-attr]  # it exists by now
    for job in jobs:
        worker.cluster.print(job, b"third", end=True)
    worker.rest(60)
    worker.collect(4)
    assert [worker.log(job) for job in jobs] == [b"first second third"] * 3


def test_a_commit_that_was_made_although_it_seemed_to_fail_keeps_nothing_twice(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = worker.run("one")
    worker.cluster.print(job, b"once")
    kept = collect.Collector._commit

    def fail_afterwards(self: collect.Collector, *arguments: object) -> None:
        kept(self, *arguments)  # type: ignore[arg-type]  # handed through
        raise OperationalError("COMMIT", {}, Exception("the connection broke"))

    monkeypatch.setattr(collect.Collector, "_commit", fail_afterwards)
    worker.collect()
    monkeypatch.undo()
    worker.cluster.print(job, b", and more")
    worker.rest(60)
    worker.collect(2)
    assert worker.log(job) == b"once, and more"


def test_one_log_that_cannot_be_saved_holds_no_other_up(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    bad, good = worker.run("bad"), worker.run("good")
    (attempt,) = worker.attempts(bad)
    append = logs.append

    def poisoned(to: logs.LogStream, *arguments: object) -> None:
        if to.attempt_id == attempt.id:
            raise ZeroDivisionError("a bug that only this log meets")
        append(to, *arguments)  # type: ignore[arg-type]  # handed through

    monkeypatch.setattr(logs, "append", poisoned)
    for text in (b"a", b"b", b"c"):
        worker.cluster.print(bad, text)
        worker.cluster.print(good, text)
        worker.collect(2)
        worker.rest(60)
    assert worker.log(good) == b"abc"
    monkeypatch.undo()
    worker.collect(2)
    assert worker.log(bad) == b"abc"


@pytest.mark.parametrize("problem", [ClusterError("No answer."), OSError("no file"), ValueError("a bug")])
def test_a_log_that_cannot_be_read_holds_no_other_up_and_is_gone_on_with(worker: Worker, problem: Exception) -> None:
    bad, good = worker.run("bad"), worker.run("good")
    worker.cluster.print(bad, b"before ")
    worker.collect()
    worker.cluster.log_problems[bad.uid, 0] = problem
    worker.cluster.print(bad, b"after")
    worker.cluster.print(good, b"unharmed")
    worker.collect(2)
    assert worker.log(good) == b"unharmed"
    worker.cluster.log_problems.clear()
    worker.collect()
    assert worker.log(bad) == b"before ", "it rests before it is tried again"
    worker.rest(60)
    worker.collect()
    assert worker.log(bad) == b"before after"
    assert worker.cluster.opened[-1] == (bad.uid, 0, "7")


def test_the_next_worker_goes_on_where_the_archive_ends(worker: Worker, restarted: Callable[..., Worker]) -> None:
    job = worker.run("one")
    worker.cluster.print(job, b"0123456789")
    worker.collect()
    fresh = restarted(worker.cluster)
    fresh.look()
    worker.cluster.print(job, b"abc", end=True)
    fresh.collect()
    assert worker.cluster.opened[-1] == (job.uid, 0, "10")
    assert fresh.log(job) == b"0123456789abc"


def test_a_gap_is_kept_beside_the_bytes(worker: Worker) -> None:
    job = worker.run("one")
    worker.cluster.print(job, b"head")
    worker.collect()
    worker.cluster.skips[job.uid, 0] = 1000
    worker.cluster.print(job, b"tail", end=True)
    worker.collect()
    (attempt,) = worker.attempts(job)
    found = worker.portal.read(
        lambda: [(gap.first_byte, gap.size, gap.why) for gap in logs.gaps(attempt.id, 0, 0, 9999)]
    )
    assert found == [(4, 1000, "Some were not kept.")]
    assert worker.log(job) == b"headtail"
    assert worker.stream(job).size == 1008  # type: ignore[union-attr]  # it exists by now


@pytest.mark.parametrize("limit", [1 << 16, 1 << 20, 4 << 20])
def test_a_log_beyond_its_limit_keeps_head_and_tail_and_marks_the_rest(make: Callable[..., Portal], limit: int) -> None:
    worker = make_worker(make(log_limit=limit))
    job = worker.run("one")
    printed = random.Random(2).randbytes(5 << 20)
    for start in range(0, len(printed), 300_000):
        worker.cluster.print(job, printed[start : start + 300_000])
        worker.collect()
    worker.cluster.print(job, b"", end=True)
    worker.collect(3)
    (attempt,) = worker.attempts(job)
    (gap,) = worker.portal.read(lambda: [(gap.first_byte, gap.size) for gap in logs.gaps(attempt.id, 0, 0, 1 << 40)])
    start, size = gap
    kept = worker.log(job)
    assert kept == printed[:start] + printed[start + size :]
    assert start >= limit // 2 and len(kept) - start >= limit // 2
    assert limit <= len(kept) <= limit + limit // 8
    assert worker.stream(job).complete  # type: ignore[union-attr]  # it exists by now


def test_the_end_of_a_log_wakes_the_loop_and_settles_the_job(worker: Worker) -> None:
    job = worker.run("one")
    worker.cluster.show(job, ended(Outcome.SUCCEEDED, 0))
    worker.look()
    worker.loop._rung.clear()
    worker.cluster.print(job, b"done", end=True)
    worker.collect()
    assert worker.loop._rung.is_set()
    worker.look()
    assert worker.portal.job("one").settled
    assert all(source.closed for source in worker.cluster.sources)


def test_a_rank_whose_log_is_complete_does_not_keep_the_loop_awake(worker: Worker) -> None:
    job = worker.run("one", nodes=2)
    worker.cluster.show(job, ended(Outcome.SUCCEEDED, 0))
    worker.cluster.print(job, b"done", 0, end=True)
    worker.look()
    worker.collect()
    for _ in range(3):
        worker.loop._rung.clear()
        worker.look()
        worker.collect()
        assert not worker.loop._rung.is_set()


def test_a_round_takes_no_more_than_fits_in_memory_and_forgets_nobody(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collect, "PIECE", 1000)
    monkeypatch.setattr(collect, "ROUND", 3000)
    jobs = [worker.run(f"job-{number}") for number in range(5)]
    for number, job in enumerate(jobs):
        worker.cluster.print(job, bytes([number]) * 10_000, end=True)
    worker.collect()
    sizes = sorted(stream.size if (stream := worker.stream(job)) else 0 for job in jobs)
    assert sizes == [0, 0, 1000, 1000, 1000]
    worker.collect()
    assert all(worker.stream(job) for job in jobs), "whoever had no room comes first in the next round"
    worker.collect(20)
    assert [worker.log(job) for job in jobs] == [bytes([number]) * 10_000 for number in range(5)]


def test_a_cluster_that_is_forgotten_in_the_middle_of_a_round_loses_no_byte(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = worker.run("one")
    worker.cluster.print(job, b"once")
    kept = collect.Collector._save

    def forget_first(self: collect.Collector, *arguments: object) -> None:
        self.forget(worker.cluster)
        kept(self, *arguments)  # type: ignore[arg-type]  # handed through

    monkeypatch.setattr(collect.Collector, "_save", forget_first)
    worker.collect()
    monkeypatch.undo()
    worker.cluster.print(job, b", and more")
    worker.look()
    worker.collect()
    assert worker.log(job) == b"once, and more"


def test_a_log_that_grows_fast_is_read_more_than_once_a_round(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collect, "PIECE", 1000)
    fast, slow = worker.run("fast"), worker.run("slow")
    worker.cluster.print(fast, RANDOM[:10_000])
    worker.cluster.print(slow, b"a line\n")
    worker.collect()
    assert worker.log(fast) == RANDOM[: 1000 * collect.TURNS]
    assert worker.log(slow) == b"a line\n"
    worker.collect(2)
    assert worker.log(fast) == RANDOM[:10_000]


def test_a_log_that_was_given_up_stays_as_it_is_and_is_not_followed_any_more(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The source may say afterwards that the end is missing: that is in the archive already."""
    job = worker.run("one")
    worker.cluster.print(job, b"the beginning\n")
    worker.look()
    worker.collect()
    worker.cluster.show(job, ended(Outcome.FAILED, 1))
    worker.look(2)
    monkeypatch.setattr(steps, "LOG_PATIENCE", -1.0)
    worker.look()
    assert worker.portal.job("one").settled
    size = worker.stream(job).size  # type: ignore[union-attr]  # it exists by now
    worker.cluster.print(job, b"too late\n", end=True)
    worker.collect(2)
    assert worker.log(job) == b"the beginning\n"
    assert worker.stream(job).size == size  # type: ignore[union-attr]
    assert all(source.closed for source in worker.cluster.sources)
    assert not worker.collector._streams


def test_what_was_read_before_a_log_was_given_up_and_not_saved_yet_is_left_out(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = worker.run("one")
    worker.cluster.print(job, b"the beginning\n")
    worker.look()
    worker.collect()
    worker.cluster.show(job, ended(Outcome.FAILED, 1))
    worker.look(2)
    worker.cluster.print(job, b"too late\n")
    save = worker.collector._save

    def give_up_and_save(pieces: Any) -> None:
        monkeypatch.setattr(steps, "LOG_PATIENCE", -1.0)
        worker.look()
        assert worker.portal.job("one").settled
        save(pieces)

    monkeypatch.setattr(worker.collector, "_save", give_up_and_save)
    worker.collect()
    assert worker.log(job) == b"the beginning\n"
    assert not worker.collector._streams
