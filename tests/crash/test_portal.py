"""The portal as people start, end and kill it. Jobs go on, nothing is lost, nothing happens twice."""

from __future__ import annotations

import contextlib
import http.client
import os
import random
import shutil
import signal
import socket
import statistics
import threading
import time
from collections.abc import Callable
from datetime import datetime
from typing import Any

import pytest

from tests.conftest import KEY
from tests.crash.portals import FINAL, REPOSITORY, Process, Served, gone, in_thread, kill, wait_for


def moment(text: str) -> datetime:
    return datetime.fromisoformat(text)


def bytes_of_every_kind() -> bytes:
    odd = b"\xff\xfe\xc3(\xe2\x82 not UTF-8\r50%\r100%\r\n\x00\x1b[31mred\x1b[0m\n"
    return odd + random.Random(5).randbytes(5 << 20) + b"\nno newline at the end"


def test_a_fresh_portal_serves_its_operator_and_runs_a_job_byte_for_byte(fresh: Callable[..., Served]) -> None:
    portal = fresh(LOCAL_GPUS="H100=2")
    process = portal.serve()
    assert process.said().count("Sign in: ") == 1
    link = portal.until_serving(process)
    assert link.startswith(f"http://127.0.0.1:{portal.port}/")
    browser = portal.sign_in(link)
    with browser.open(f"http://127.0.0.1:{portal.port}/orgs/lab/jobs") as answer:
        assert answer.status == 200 and answer.url.endswith("/orgs/lab/jobs")
    portal.token = portal.make_token()
    content = bytes_of_every_kind()
    (portal.work / "content").write_bytes(content)
    launched = portal.request(
        "POST", "/api/jobs", {"preset": "digits", "name": "exact", "command": ["cat", "content"], "gpus": 1}
    )
    assert launched.status == 201, launched.body
    job = portal.until("exact", "succeeded")
    assert (job["exit_code"], job["reason"]["code"]) == (0, "succeeded")
    assert portal.log("exact") == (content, "")
    process.popen.terminate()
    assert process.ended() == 0
    portal.until_all_gone()


def test_a_wish_is_picked_up_at_once(served: Served) -> None:
    waits = []
    for number in range(7):
        name = f"job-{number}"
        created = moment(served.launch(name, "true")["created_at"])
        started = moment(served.until(name, "succeeded")["started_at"])
        waits.append((started - created).total_seconds())
    print(f"launch to started_at: median {statistics.median(waits):.3f} s, all {sorted(waits)}")
    assert statistics.median(waits) < 20


def test_a_stop_is_picked_up_at_once(served: Served) -> None:
    served.launch("one", "exec sleep 1000")
    served.until("one", "running")
    began = time.monotonic()
    served.stop("one")
    assert served.until("one", "cancelled")["exit_code"] in (143, None)
    assert time.monotonic() - began < 30
    wait_for(lambda: not served.job_processes(), "the end of its processes")


@pytest.mark.parametrize("how", ["SIGTERM", "SIGINT to the group", "SIGTERM to make", "SIGINT to the group of make"])
def test_an_orderly_end_stops_the_portal_and_leaves_jobs_alone(furnish: Callable[..., Served], how: str) -> None:
    portal = furnish()
    if "make" in how:
        if not (REPOSITORY / ".venv" / "run").exists() or shutil.which("make") is None:
            pytest.skip("make run would install packages here")
        run = Process(
            ["make", "run", f"PORT={portal.port}", f"DATA_DIR={portal.data}"],
            portal.environment,
            portal.folder / "make",
        )
        portal.processes.append(run)
        portal.until_serving(run)
    else:
        run = portal.serve()
    portal.launch("one", portal.gated("one", "echo first", "echo second"))
    portal.until("one", "running")
    (shim,) = portal.shims().values()
    if "group" in how:
        os.killpg(run.pid, signal.SIGINT)
    else:
        run.popen.send_signal(signal.SIGTERM)
    run.ended()
    portal.until_all_gone()
    with pytest.raises(OSError, match="refused"), socket.create_connection(("127.0.0.1", portal.port)):
        pass
    assert "Traceback" not in run.said()
    assert list(portal.shims().values()) == [shim], "the job goes on"
    portal.open_gate("one")
    wait_for(lambda: not portal.shims(), "the job's own end, with no portal")
    portal.serve()
    portal.until("one", "succeeded")
    assert portal.log("one") == (b"first\nsecond\n", "")
    assert portal.times_begun("one") == 1


def test_a_second_portal_on_the_same_folder_is_refused_and_the_first_goes_on(served: Served) -> None:
    second = served.begin("serve", PORT=str(served.port + 1))
    assert second.ended() == 1
    assert f"Another portal runs on {served.data}." in second.said()
    assert "Traceback" not in second.said()
    assert served.request("GET", "/api/me").status == 200


def test_a_port_that_another_program_has_is_refused_with_a_sentence(furnish: Callable[..., Served]) -> None:
    portal = furnish()
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", portal.port))
        other.listen()
        process = portal.begin("serve")
        assert process.ended() == 1
    assert f"Port {portal.port} of 127.0.0.1 cannot be used (Address already in use)." in process.said()
    assert "Traceback" not in process.said()
    portal.serve()


def test_a_killed_supervisor_takes_web_and_worker_along_and_the_next_one_finds_the_job(served: Served) -> None:
    served.launch("one", served.gated("one", "echo first", "echo second"))
    served.until("one", "running")
    served.kill("supervisor")
    again = served.serve()  # at once, while web and worker are still ending
    assert again.alive
    served.open_gate("one")
    served.until("one", "succeeded")
    assert served.log("one") == (b"first\nsecond\n", "")
    assert served.times_begun("one") == 1
    again.popen.terminate()
    again.ended()
    served.until_all_gone()


def test_acknowledged_launches_survive_a_killed_web_and_repeated_requests_make_one_job(served: Served) -> None:
    """A client that repeats each request with its key until it is acknowledged, while the web is killed again and
    again."""
    acknowledged: list[str] = []
    over = threading.Event()

    def post(number: int) -> None:
        def ask() -> bool:
            with contextlib.suppress(OSError, http.client.HTTPException):
                answer = served.request(
                    "POST",
                    "/api/jobs",
                    {"preset": "plain", "command": served.counted(f"n{number}", "true"), "env": {"N": str(number)}},
                    {"Idempotency-Key": f"key-{number}"},
                )
                assert answer.status in (200, 201), answer.body
                acknowledged.append(answer.json["name"])
                return True
            return False

        wait_for(ask, "an acknowledgement")

    def client() -> None:
        try:
            for number in range(60):
                post(number)
        finally:
            over.set()

    thread = in_thread(client)
    kills = 0
    while not over.is_set():
        seen = len(acknowledged)
        wait_for(lambda seen=seen: over.is_set() or len(acknowledged) >= seen + 12, "progress")  # type: ignore[misc]  # bound
        if not over.is_set():
            served.kill("web")
            kills += 1
    thread.join()
    assert kills >= 3
    assert len(acknowledged) == 60 == len(set(acknowledged))
    jobs: list[Any] = []
    cursor: str | None = ""
    while cursor is not None:
        page = served.request("GET", f"/api/jobs?limit=50{f'&cursor={cursor}' if cursor else ''}").json
        jobs += page["jobs"]
        cursor = page["next"]
    assert sorted(job["name"] for job in jobs) == sorted(acknowledged), "none lost, none made twice"
    for name in acknowledged:
        served.until(name, "succeeded")
    assert [served.times_begun(f"n{number}") for number in range(60)] == [1] * 60


def test_a_killed_worker_is_started_again_and_loses_nothing(served: Served) -> None:
    served.launch("one", served.gated("one", "echo first", "echo second"))
    served.until("one", "running")
    first = served.kill("worker")
    assert served.child("worker") != first
    served.open_gate("one")
    served.until("one", "succeeded")
    assert served.log("one") == (b"first\nsecond\n", "")
    assert served.times_begun("one") == 1
    assert served.main is not None and "worker ended with status -9" in served.main.said()


def test_of_two_workers_one_works_and_the_other_takes_over_when_it_dies(furnish: Callable[..., Served]) -> None:
    portal = furnish()
    portal.inside = portal.portal.app.test_client()
    first = portal.worker()
    wait_for(lambda: "the worker works" in first.said(), "the first one's turn")
    second = portal.worker()
    portal.launch("one", portal.counted("one", "exec sleep 1000"))
    portal.until("one", "running")
    assert "the worker works" not in second.said()
    assert second.alive
    first.kill()
    began = time.monotonic()
    wait_for(lambda: "the worker works" in second.said(), "the second one's turn")
    print(f"taken over after {time.monotonic() - began:.2f} s")
    portal.stop("one")
    portal.until("one", "cancelled")
    assert portal.times_begun("one") == 1
    second.popen.terminate()
    assert second.ended() == 0


def test_a_worker_alone_makes_a_cluster_of_its_machine_where_that_is_allowed(fresh: Callable[..., Served]) -> None:
    """In production nobody runs `serve`: web and worker are started apart."""
    portal = fresh(BASE_URL="https://train.example.org", SECRET_KEY=KEY)

    def clusters_after(worker: Process) -> str:
        wait_for(lambda: "the worker works" in worker.said(), worker.said)
        worker.popen.terminate()
        assert worker.ended() == 0
        return portal.command("clusters", "list").stdout

    assert portal.command("migrate").returncode == 0
    assert clusters_after(portal.worker()) == ""
    assert clusters_after(portal.worker(ALLOW_LOCAL_JOBS="1")).startswith("this-machine\tlocal\t")
    assert "This machine runs no jobs" in clusters_after(portal.worker())


def test_a_log_beyond_the_limit_has_head_and_tail_and_says_what_is_missing(furnish: Callable[..., Served]) -> None:
    limit = 1 << 20
    portal = furnish(LOG_LIMIT=str(limit))
    portal.serve()
    lines = 1_000_000
    portal.launch("much", f"seq {lines}")
    portal.until("much", "succeeded")
    portal.log("much")  # until it is complete: while more comes, the gap grows
    kept, gap = portal.log("much")
    printed = b"".join(b"%d\n" % number for number in range(1, lines + 1))
    start, size = (int(part) for part in gap.split("+"))
    assert kept == printed[:start] + printed[start + size :]
    assert start >= limit // 2 and len(printed) - start - size >= limit // 2
    assert len(kept) < 2 * limit


def test_a_job_whose_supervisor_was_killed_meanwhile_is_lost_with_a_sentence(served: Served) -> None:
    served.launch("one", served.counted("one", "echo first; exec sleep 1000"))
    served.until("one", "running")
    wait_for(lambda: served.printed("one") == b"first\n", "its first line")
    served.kill_all()
    (shim,) = served.shims().values()
    kill(shim)
    wait_for(lambda: gone(shim), "its end")
    served.serve()
    job = served.until("one", "lost")
    assert job["reason"]["code"] == "supervisor_died"
    assert job["reason"]["text"] == (
        "The job's supervisor was killed from outside; how the job itself ended is not known."
    )
    assert served.log("one") == (b"first\n", "")
    assert served.times_begun("one") == 1
    wait_for(lambda: not served.job_processes(), "the end of its processes")


def test_a_job_that_a_restart_of_the_machine_ended_is_lost_with_a_sentence(served: Served) -> None:
    served.launch("one", "echo first; exec sleep 1000")
    served.until("one", "running")
    served.kill_all()
    (shim,) = served.shims().values()
    kill(shim)
    wait_for(lambda: gone(shim) and not served.job_processes(), "the end of all its processes")
    (started,) = (served.data / "local").glob("*/started")
    started.write_text('{"boot_id": "another-boot", "at": 1.0}')
    served.serve()
    job = served.until("one", "lost")
    assert job["reason"]["code"] == "machine_restarted"
    assert "This machine restarted at" in job["reason"]["text"]


def test_a_job_that_ended_while_nothing_of_the_portal_ran_keeps_its_own_end(served: Served) -> None:
    served.launch("one", served.gated("one", "echo first", "echo second; exit 7"))
    served.until("one", "running")
    served.kill_all()
    served.open_gate("one")
    wait_for(lambda: not served.shims(), "the job's own end")
    served.serve()
    job = served.until("one", "failed")
    assert job["exit_code"] == 7
    assert served.log("one") == (b"first\nsecond\n", "")


def expected_log(number: int) -> bytes:
    return b"".join(b"job %d line %d\n" % (number, line) for line in range(400))


def launch_five(portal: Served) -> None:
    """Each prints 400 lines over some seconds; the last one ends with a failure."""
    for number in range(5):
        lines = f"i=0; while [ $i -lt 400 ]; do echo job {number} line $i; i=$((i+1)); "
        rest = f"[ $((i % 10)) -ne 0 ] || sleep 0.2; done; exit {3 if number == 4 else 0}"
        portal.launch(f"job-{number}", portal.counted(f"job-{number}", lines + rest))


def all_five_end_right(portal: Served) -> None:
    for number in range(5):
        name = f"job-{number}"
        job = portal.until(name, "failed" if number == 4 else "succeeded")
        assert (job["exit_code"], job["attempt"]) == (3 if number == 4 else 0, 1)
        assert portal.log(name) == (expected_log(number), "")
        assert portal.times_begun(name) == 1
    assert not portal.job_processes()


def test_jobs_end_right_however_often_the_worker_is_killed(furnish: Callable[..., Served], seed: int) -> None:
    chance = random.Random(seed)
    print(f"seed {seed}")
    portal = furnish()
    portal.inside = portal.portal.app.test_client()
    launch_five(portal)
    deadline = time.monotonic() + 10
    kills = 0
    while time.monotonic() < deadline:
        worker = portal.worker()
        if chance.random() < 0.7:
            wait_for(lambda worker=worker: "the worker works" in worker.said(), "its turn")  # type: ignore[misc]  # bound
        time.sleep(chance.uniform(0, 0.8))  # the schedule of kills is what this test is about
        worker.kill()
        kills += 1
    portal.worker()
    print(f"{kills} kills")
    all_five_end_right(portal)


def test_jobs_end_right_however_often_everything_is_killed(served: Served, seed: int) -> None:
    chance = random.Random(seed)
    print(f"seed {seed}")
    launch_five(served)
    deadline = time.monotonic() + 10
    kills = 0
    while time.monotonic() < deadline:
        served.kill_all()
        kills += 1
        served.main = served.begin("serve")
        time.sleep(chance.uniform(0.3, 4.0))  # some die before they serve, some later
    served.kill_all()
    served.serve()
    print(f"{kills} kills")
    all_five_end_right(served)


def test_final_states_stay_through_restarts_and_late_stops(served: Served) -> None:
    served.launch("good", "true")
    served.launch("bad", "exit 3")
    served.launch("stopped", "exec sleep 1000")
    served.until("stopped", "running")
    served.stop("stopped")
    ends = {
        "good": served.until("good", "succeeded"),
        "bad": served.until("bad", "failed"),
        "stopped": served.until("stopped", "cancelled"),
    }
    served.kill_all()
    served.serve()
    for name in ends:
        served.stop(name)
    served.launch("another", "true")
    served.until("another", "succeeded")  # the worker has been by
    for name, before in ends.items():
        assert served.job(name) == before
        assert before["state"] in FINAL
