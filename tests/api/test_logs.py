"""Reading logs by the API: bytes, by cursor."""

from __future__ import annotations

from datetime import timedelta

import pytest
from werkzeug.test import TestResponse

from app.database import db, now, transaction
from app.jobs.models import JobAttempt
from app.jobs.states import State
from app.logs import service as logs
from app.logs.service import REPLY, LogStream
from tests.api.conftest import in_two_orgs, leave, problem, wrong
from tests.conftest import Api, Portal
from tests.jobs.conftest import World

LOG = "/api/jobs/job/logs"


@pytest.fixture
def attempt(portal: Portal, world: World) -> int:
    portal.launch("job", nodes=2)
    return world.begin("job")


def since(answer: TestResponse) -> str:
    return f"since={answer.headers['Log-Cursor']}"


def test_the_bytes_come_as_printed(bob: Api, world: World, attempt: int) -> None:
    printed = bytes(range(256)) + b"\r\n\x1b[31m" + "é".encode()
    world.print(attempt, printed)
    answer = bob.get(LOG)
    assert answer.data == printed
    assert answer.content_type == "application/octet-stream"
    assert "Log-Complete" not in answer.headers
    assert "Log-Gap" not in answer.headers


def test_replies_hold_at_most_1_mib_and_their_cursors_join_them(bob: Api, world: World, attempt: int) -> None:
    printed = bytes(n % 251 for n in range(300_000)) * 8 + b"end"
    world.print(attempt, printed, complete=True)
    got, place = b"", ""
    sizes: list[int] = []
    while True:
        answer = bob.get(f"{LOG}?{place}")
        sizes.append(len(answer.data))
        got += answer.data
        place = since(answer)
        if "Log-Complete" in answer.headers:
            break
    assert got == printed
    assert sizes == [REPLY, REPLY, len(printed) - 2 * REPLY]
    again = bob.get(f"{LOG}?{place}")
    assert (again.data, again.headers["Log-Complete"]) == (b"", "true")
    assert since(again) == place


def test_a_follower_gets_what_is_new(bob: Api, world: World, attempt: int) -> None:
    world.print(attempt, b"one\n")
    first = bob.get(LOG)
    empty = bob.get(f"{LOG}?{since(first)}")
    assert (empty.status_code, empty.data) == (200, b"")
    world.print(attempt, b"two\n")
    second = bob.get(f"{LOG}?{since(empty)}")
    assert second.data == b"two\n"


def test_before_the_start_it_is_empty_and_the_cursor_works_later(portal: Portal, bob: Api, world: World) -> None:
    portal.launch("job")
    before = bob.get(LOG)
    assert (before.status_code, before.data) == (200, b"")
    assert "Log-Complete" not in before.headers
    attempt = world.begin("job")
    still = bob.get(f"{LOG}?{since(before)}")
    assert (still.status_code, still.data) == (200, b"")
    assert "Log-Complete" not in still.headers
    world.print(attempt, b"hello\n")
    assert bob.get(f"{LOG}?{since(before)}").data == b"hello\n"
    assert bob.get(f"{LOG}?{since(still)}").data == b"hello\n"


def test_complete_is_said_only_when_the_log_is_final_and_at_its_end(bob: Api, world: World, attempt: int) -> None:
    world.print(attempt, b"all")
    world.finish("job")
    assert "Log-Complete" not in bob.get(LOG).headers  # the worker may still bring the rest
    world.print(attempt, b" of it", complete=True)
    answer = bob.get(LOG)
    assert (answer.data, answer.headers["Log-Complete"]) == (b"all of it", "true")
    assert "Log-Complete" not in bob.get(f"{LOG}?rank=1").headers


def test_a_job_that_never_began_has_a_complete_empty_log(portal: Portal, bob: Api) -> None:
    portal.launch("job")
    bob.delete("/api/jobs/job")
    answer = bob.get(LOG)
    assert (answer.data, answer.headers["Log-Complete"]) == (b"", "true")


def test_a_job_without_output_is_complete_once_it_is_settled(bob: Api, world: World, attempt: int) -> None:
    world.finish("job", State.LOST)
    assert "Log-Complete" not in bob.get(LOG).headers
    world.change("job", lambda job: setattr(job, "settled", True))
    assert bob.get(LOG).headers["Log-Complete"] == "true"


def test_gaps_are_told_with_their_places_once(bob: Api, world: World, attempt: int) -> None:
    world.print(attempt, b"12345")
    world.print(attempt, b"67", skipped=100)
    world.print(attempt, b"89", skipped=None)
    answer = bob.get(LOG)
    assert answer.data == b"123456789"
    assert answer.headers["Log-Gap"] == "5+100, 107+?"
    assert "Log-Gap" not in bob.get(f"{LOG}?{since(answer)}").headers
    world.print(attempt, b"", skipped=7, complete=True)
    last = bob.get(f"{LOG}?{since(answer)}")
    assert (last.data, last.headers["Log-Gap"], last.headers["Log-Complete"]) == (b"", "110+7", "true")


def test_ranks_have_logs_of_their_own(bob: Api, world: World, attempt: int) -> None:
    world.print(attempt, b"zero", rank=0)
    world.print(attempt, b"one", rank=1)
    assert bob.get(LOG).data == b"zero"
    assert bob.get(f"{LOG}?rank=0").data == b"zero"
    assert bob.get(f"{LOG}?rank=1").data == b"one"


def test_attempts_have_logs_of_their_own(portal: Portal, bob: Api, world: World, attempt: int) -> None:
    world.print(attempt, b"first try")
    of_first = since(bob.get(LOG))
    with portal.app.app_context(), transaction():
        second = JobAttempt(job_id=portal.job("job").id, number=2)
        db.session.add(second)
        db.session.flush()
        second_id = second.id
    world.change("job", lambda job: setattr(job, "attempt", 2))
    world.print(second_id, b"second try")
    assert bob.get(LOG).data == b"second try"
    assert bob.get(f"{LOG}?attempt=1").data == b"first try"
    assert wrong(bob.get(f"{LOG}?{of_first}")) == {"since": "This cursor belongs to another attempt."}
    assert bob.get(f"{LOG}?attempt=1&{of_first}").status_code == 200


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("rank=2", "rank"),
        ("rank=-1", "rank"),
        ("rank=x", "rank"),
        ("rank=999999999999", "rank"),
        ("attempt=2", "attempt"),
        ("attempt=0", "attempt"),
        ("attempt=x", "attempt"),
        ("since=0", "since"),
        ("since=W10.x", "since"),
        ("sinc=1", "sinc"),
    ],
)
def test_what_is_not_there_is_told(bob: Api, world: World, attempt: int, query: str, field: str) -> None:
    world.print(attempt, b"x")
    assert set(wrong(bob.get(f"{LOG}?{query}"))) == {field}


def test_a_cursor_of_another_rank_or_job_is_refused(portal: Portal, bob: Api, world: World, attempt: int) -> None:
    world.print(attempt, b"x")
    place = since(bob.get(LOG))
    assert set(wrong(bob.get(f"{LOG}?rank=1&{place}"))) == {"since"}
    portal.launch("other")
    assert set(wrong(bob.get(f"/api/jobs/other/logs?{place}"))) == {"since"}


def test_a_viewer_reads_logs(portal: Portal, world: World, attempt: int) -> None:
    world.print(attempt, b"for all members")
    assert portal.api("vera").get(LOG).data == b"for all members"


# following


def test_a_reply_says_when_to_ask_again(portal: Portal, bob: Api, world: World, attempt: int) -> None:
    world.print(attempt, b"x" * (REPLY + 1))
    first = bob.get(LOG)
    assert first.headers["Log-Poll"] == "0"  # there is more
    second = bob.get(f"{LOG}?{since(first)}")
    assert (len(second.data), second.headers["Log-Poll"]) == (1, "1")
    with portal.app.app_context(), transaction():
        db.session.query(LogStream).update({"last_at": now() - timedelta(minutes=5)})
    assert bob.get(f"{LOG}?{since(second)}").headers["Log-Poll"] == "5"  # nothing moves
    world.print(attempt, b"", complete=True)
    last = bob.get(f"{LOG}?{since(second)}")
    assert "Log-Poll" not in last.headers
    assert last.headers["Log-Complete"] == "true"


def test_a_tail_ends_when_its_person_is_disabled(portal: Portal, bob: Api, world: World, attempt: int) -> None:
    world.print(attempt, b"one\n")
    place = since(bob.get(LOG))
    world.print(attempt, b"secret\n")
    assert portal.command("users", "disable", "bob@example.org").exit_code == 0
    answer = bob.get(f"{LOG}?{place}")
    problem(answer, 401, "unauthorized")
    assert b"secret" not in answer.data


def test_a_tail_ends_when_its_person_leaves_the_org(portal: Portal, bob: Api, world: World, attempt: int) -> None:
    in_two_orgs(portal)
    world.print(attempt, b"one\n")
    place = since(bob.get(f"{LOG}?org=lab"))
    world.print(attempt, b"secret\n")
    leave(portal, "bob", "lab")
    for query in (f"org=lab&{place}", place):
        answer = bob.get(f"{LOG}?{query}")
        problem(answer, 404, "not-found")
        assert b"secret" not in answer.data


# what was too long to be kept


def printed_beyond(portal: Portal, attempt: int, data: bytes, limit: int) -> None:
    with portal.app.app_context(), transaction():
        logs.append(logs.stream(attempt, 0), data, "c", 0, "", False, limit)


def read_all(bob: Api, place: str = "") -> tuple[bytes, list[tuple[int, int]], str]:
    """What a follower puts together: the bytes at their places, and what is missing."""
    whole, missing, position = b"", [], 0
    while True:
        answer = bob.get(f"{LOG}?{place}")
        assert answer.status_code == 200
        gone = [tuple(int(n) for n in gap.split("+")) for gap in answer.headers.get("Log-Gap", "").split(", ") if gap]
        missing += [(first, size) for first, size in gone]
        position += len(answer.data) + sum(size for _, size in gone)
        whole += answer.data
        place = since(answer)
        if answer.headers.get("Log-Poll") != "0":
            return whole, missing, place


def test_a_log_beyond_the_limit_is_its_head_and_its_tail(portal: Portal, bob: Api, attempt: int) -> None:
    printed = b"".join(b"%07d\n" % n for n in range(1 << 20))  # 8 MiB
    printed_beyond(portal, attempt, printed, 2 << 20)
    whole, missing, _ = read_all(bob)
    ((first, size),) = missing
    assert whole == printed[:first] + printed[first + size :]
    assert first >= 1 << 20
    assert len(printed) - first - size >= 1 << 20


def test_a_follower_that_the_gap_overtakes_is_told_what_it_missed(portal: Portal, bob: Api, attempt: int) -> None:
    printed = b"".join(b"%07d\n" % n for n in range(1 << 20))
    step = 1 << 20
    printed_beyond(portal, attempt, printed[: 3 * step], 2 * step)
    begun = bob.get(LOG)
    got, place = begun.data, since(begun)  # it stops in the head
    for at in range(3, 8):
        printed_beyond(portal, attempt, printed[at * step : (at + 1) * step], 2 * step)
    rest, missing, place = read_all(bob, place)
    ((first, size),) = missing
    assert got + rest == printed[:first] + printed[first + size :]
    # and one that had reached the tail, which is gone by now
    tail = printed[:step]
    for _ in range(4):
        printed_beyond(portal, attempt, tail, 2 * step)
    rest, missing, _ = read_all(bob, place)
    ((first, size),) = missing
    assert first == len(printed)  # where it had stopped
    assert len(rest) + size == 4 * step
    assert (tail * 4)[size:] == rest


def test_bytes_that_are_trimmed_while_they_are_read_are_not_called_missing(
    portal: Portal, bob: Api, attempt: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    printed = b"".join(b"%07d\n" % n for n in range(1 << 17))  # 1 MiB
    printed_beyond(portal, attempt, printed, 1 << 30)
    kept = logs.gaps

    def overtaken(attempt_id: int, rank: int, since: int, until: int) -> list[logs.Missing]:
        db.session.rollback()
        with transaction():
            logs.append(logs.stream(attempt_id, rank), b"end", "c", 0, "", False, 600 << 10)
        return kept(attempt_id, rank, since, until)

    monkeypatch.setattr(logs, "gaps", overtaken)
    answer = bob.get(LOG)
    assert answer.data == printed
    assert "Log-Gap" not in answer.headers


def test_no_reply_has_more_gaps_than_a_header_holds(bob: Api, world: World, attempt: int) -> None:
    for number in range(2 * logs.REPLY_GAPS + 10):
        world.print(attempt, b"%d\n" % number, skipped=3)
    whole, missing, _ = read_all(bob)
    assert whole == b"".join(b"%d\n" % number for number in range(2 * logs.REPLY_GAPS + 10))
    assert len(missing) == 2 * logs.REPLY_GAPS + 10
    first = bob.get(LOG)
    assert first.headers["Log-Gap"].count("+") <= logs.REPLY_GAPS + 1
    assert (first.headers["Log-Poll"], "Log-Complete" in first.headers) == ("0", False)
