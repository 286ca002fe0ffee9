"""What a rank prints arrives once, to the byte, and what is missing is told."""

from __future__ import annotations

import random
import time
from collections.abc import Callable

import pytest

from app.cluster.kubernetes.watch import Pace
from app.cluster.protocol import Attempt, ClusterError, Phase
from tests.cluster.kubernetes import fake as faults
from tests.cluster.kubernetes.fake import FakeKubernetes, Log
from tests.cluster.kubernetes.site import FAST, Printed, Site, until

SECOND = 10**9


def running(site: Site, nodes: int = 1) -> tuple[Attempt, str, Log]:
    attempt = site.launched(nodes=nodes)
    pod = site.running_pod(attempt)
    return attempt, pod, site.fake.log(pod)


def test_is_followed_while_it_is_printed(site: Site) -> None:
    attempt, pod, log = running(site)
    source = site.cluster.open_log(attempt.key, 0, "")
    printed = Printed()
    for line in (b"one\n", b"two", b" and a half\r", b"three\n"):
        log.write(line)
        before = len(printed.data)
        until(lambda: printed.take(source) and len(printed.data) > before)  # noqa: B023
    assert printed.data == b"one\ntwo and a half\rthree\n"
    assert site.fake.count("log") == 1
    site.finish(attempt, pod)
    assert site.read_all(source).complete


def test_the_end_without_an_end_of_line_is_read_when_it_has_ended(site: Site) -> None:
    attempt, pod, log = running(site)
    source = site.cluster.open_log(attempt.key, 0, "")
    log.write(b"one\n")
    log.write(b"no end")
    site.finish(attempt, pod)
    printed = site.read_all(source)
    assert (printed.data, printed.gaps) == (b"one\nno end", [])
    assert source.read(100) is None


def test_what_ended_before_anybody_looked_is_read(site: Site) -> None:
    attempt, pod, log = running(site)
    log.write(b"quick\n")
    site.finish(attempt, pod)
    assert site.read_all(site.cluster.open_log(attempt.key, 0, "")).data == b"quick\n"


def test_a_job_that_prints_nothing_has_an_empty_log(site: Site) -> None:
    attempt, pod, _ = running(site)
    site.finish(attempt, pod)
    printed = site.read_all(site.cluster.open_log(attempt.key, 0, ""))
    assert (printed.data, printed.gaps) == (b"", [])


def test_nothing_is_asked_while_it_has_not_started(site: Site) -> None:
    attempt = site.launched()
    source = site.cluster.open_log(attempt.key, 0, "")
    site.pod(attempt)
    time.sleep(0.3)
    assert source.read(100) is None
    assert site.fake.count("log") == 0


def test_one_that_was_removed_before_it_started_has_an_empty_log(site: Site) -> None:
    attempt = site.launched()
    site.pod(attempt)
    source = site.cluster.open_log(attempt.key, 0, "")
    site.cluster.stop(attempt.key)
    site.pods_go(attempt)
    printed = site.read_all(source)
    assert (printed.data, printed.gaps) == (b"", [])
    assert site.fake.count("log") == 0


@pytest.mark.parametrize("seed", range(4))
def test_cut_dozens_of_times_it_is_still_exact(site: Site, seed: int) -> None:
    chance = random.Random(seed)
    attempt, pod, log = running(site)
    log.cuts = [chance.randrange(1, 3000) for _ in range(15)]
    source = site.cluster.open_log(attempt.key, 0, "")
    expected, printed, at = b"", Printed(), time.time_ns()
    for _ in range(400):
        data = chance.randbytes(chance.choice([0, 5, 60])).replace(b"\n", b" ") + chance.choice([b"\n", b"\n", b"\r"])
        at += chance.choice([0, 1000, SECOND // 3])
        log.write(data, at)
        expected += data
        printed.take(source, chance.choice([1, 50, 1 << 20]))
    site.finish(attempt, pod)
    rest = site.read_all(source)
    assert printed.data + rest.data == expected
    assert rest.gaps == printed.gaps == []


def test_another_process_goes_on_from_the_cursor(site: Site) -> None:
    attempt, pod, log = running(site)
    for number in range(1000):
        log.write(b"line %d\n" % number, (1000 + number // 300) * SECOND)
    source = site.cluster.open_log(attempt.key, 0, "")
    printed = Printed()
    until(lambda: printed.take(source, 1234) and len(printed.data) > 5000)
    source.close()
    other = site.new_cluster()
    other.start(lambda: None)
    site.finish(attempt, pod)
    rest = site.read_all(other.open_log(attempt.key, 0, printed.cursor))
    other.close()
    assert printed.data + rest.data == b"".join(b"line %d\n" % number for number in range(1000))
    assert rest.gaps == []


def test_an_answer_that_broke_off_as_if_it_were_whole_is_not_taken_for_the_end(site: Site) -> None:
    attempt, pod, log = running(site)
    for number in range(100):
        log.write(b"line %d\n" % number)
    site.finish(attempt, pod)
    log.short = [1000, 2000, 2500]
    printed = site.read_all(site.cluster.open_log(attempt.key, 0, ""))
    assert printed.data == b"".join(b"line %d\n" % number for number in range(100))
    assert printed.gaps == []


def test_a_pod_that_goes_before_its_rest_was_read_leaves_a_gap(site: Site) -> None:
    attempt, pod, log = running(site)
    log.cuts = [60]
    site.fake.script("log", "pods", faults.cut, times=100, when=lambda _: bool(site.fake.count("log") > 1))
    source = site.cluster.open_log(attempt.key, 0, "")
    log.write(b"one\n")
    log.write(b"two, and it is long\n")
    printed = Printed()
    until(lambda: printed.take(source) and printed.data.startswith(b"one\n"))
    site.end_pod(pod)
    site.fake.take_away("pods", pod)
    site.end_job(attempt)
    rest = site.read_all(source)
    assert [why for _, why in rest.gaps] == [
        "The pod was removed from the cluster before the rest of its output could be read."
    ]
    assert (printed.data + rest.data).startswith(b"one\n")


def test_a_pod_that_goes_after_it_was_followed_to_its_end_leaves_none(site: Site) -> None:
    attempt, pod, log = running(site)
    source = site.cluster.open_log(attempt.key, 0, "")
    log.write(b"one\n")
    printed = Printed()
    until(lambda: printed.take(source))
    log.end()
    until(lambda: not source.running)  # type: ignore[attr-defined]
    site.fake.take_away("pods", pod)
    site.end_job(attempt)
    rest = site.read_all(source)
    assert (printed.data + rest.data, rest.gaps) == (b"one\n", [])


def test_objects_that_were_removed_before_this_process_looked_leave_a_gap(site: Site) -> None:
    attempt = site.attempt()
    site.wait_for_a_look()
    printed = site.read_all(site.cluster.open_log(attempt.key, 0, ""))
    assert [why for _, why in printed.gaps] == [
        "The job's objects were removed from the cluster before the portal could read the output."
    ]


def test_one_that_was_read_to_its_end_is_complete_in_another_process_too(site: Site) -> None:
    attempt, pod, log = running(site)
    log.write(b"one\n")
    site.finish(attempt, pod)
    cursor = site.read_all(site.cluster.open_log(attempt.key, 0, "")).cursor
    site.cluster.remove(attempt.key)
    site.fake.take_away("pods", pod)
    other = site.new_cluster()
    other.start(lambda: None)
    printed = site.read_all(other.open_log(attempt.key, 0, cursor))
    assert (printed.data, printed.gaps) == (b"", [])
    other.close()


def test_a_file_that_the_node_exchanged_leaves_a_gap(site: Site) -> None:
    attempt, pod, log = running(site)
    log.cuts = [40]
    log.write(b"one\n", 1000 * SECOND)
    source = site.cluster.open_log(attempt.key, 0, "")
    site.fake.script("log", "pods", faults.status(500), times=2, when=lambda _: site.fake.count("log") > 1)
    log.write(b"two\n", 1000 * SECOND + 1)
    printed = Printed()
    until(lambda: printed.take(source) and printed.data.startswith(b"one\n"))
    log.rotate()
    log.write(b"ten\n", 1009 * SECOND)
    site.finish(attempt, pod)
    rest = site.read_all(source)
    assert (printed.data + rest.data).endswith(b"ten\n")
    assert len(rest.gaps) == 1
    assert "may be missing" in rest.gaps[0][1]


@pytest.mark.parametrize("ends", [False, True])
def test_a_file_that_is_exchanged_while_it_is_followed_leaves_none(site: Site, ends: bool) -> None:
    attempt, pod, log = running(site)
    log.follow_ends_on_rotation = ends
    log.write(b"one\n", 1000 * SECOND)
    source = site.cluster.open_log(attempt.key, 0, "")
    printed = Printed()
    until(lambda: printed.take(source))
    log.rotate()
    log.write(b"two\n", 1001 * SECOND)
    site.finish(attempt, pod)
    rest = site.read_all(source)
    assert printed.data + rest.data == b"one\ntwo\n"
    # whether something was lost in between cannot be known when the kubelet ends the answer at that moment
    assert bool(rest.gaps) is ends


def test_what_the_kubelet_says_instead_is_told_as_the_reason_of_the_gap(site: Site) -> None:
    attempt, pod, log = running(site)
    log.words = b"unable to retrieve container logs for containerd://abc"
    site.finish(attempt, pod)
    printed = site.read_all(site.cluster.open_log(attempt.key, 0, ""))
    assert printed.data == b""
    assert "unable to retrieve container logs for containerd://abc" in printed.gaps[0][1]


def test_a_node_that_does_not_give_the_rest_is_given_up_after_a_while(
    fake: FakeKubernetes, make_site: Callable[[Pace], Site]
) -> None:
    site = make_site(Pace(apart=0.005, silence=5))  # two minutes are 0.6 s
    attempt, pod, log = running(site)
    log.write(b"one\n")
    fake.script("log", "pods", faults.status(500, "InternalError", "dial tcp: connection refused"), times=10_000)
    source = site.cluster.open_log(attempt.key, 0, "")
    time.sleep(1)
    assert source.read(100) is None  # the container runs: patience
    site.finish(attempt, pod)
    printed = site.read_all(source)
    assert "did not give the rest of the output: dial tcp: connection refused" in printed.gaps[0][1]


def test_while_the_cluster_is_away_nothing_is_given_up(site: Site) -> None:
    attempt, pod, log = running(site)
    log.write(b"one\n")
    site.finish(attempt, pod)
    site.wait_for_a_look()
    site.until_phase(attempt, Phase.ENDED)
    with site.fake.away():
        source = site.cluster.open_log(attempt.key, 0, "")
        time.sleep(4)  # two minutes are 2.4 s here
        assert source.read(100) is None
    printed = site.read_all(source, seconds=20)
    assert (printed.data, printed.gaps) == (b"one\n", [])


def test_a_pod_that_is_replaced_is_followed_by_the_next(site: Site) -> None:
    attempt, pod, log = running(site)
    log.write(b"first\n")
    source = site.cluster.open_log(attempt.key, 0, "")
    site.end_pod(pod, 1)
    second = site.running_pod(attempt)
    site.fake.change("pods", second, lambda p: p["metadata"].update(creationTimestamp="2999-01-01T00:00:00Z"))
    site.fake.log(second).write(b"second\n")
    site.finish(attempt, second)
    assert site.read_all(source).data == b"first\nsecond\n"


def test_megabytes_without_an_end_of_line_do_not_stay_in_memory(site: Site) -> None:
    attempt, pod, log = running(site)
    for _ in range(200):
        log.write(b"\r 50 % " * 5000)  # 7 MB
    source = site.cluster.open_log(attempt.key, 0, "")
    until(lambda: source._buffered >= 1 << 20)  # type: ignore[attr-defined]
    time.sleep(0.2)
    assert source._buffered < 2 << 20  # type: ignore[attr-defined]  # it waits for its reader
    site.finish(attempt, pod)
    printed = site.read_all(source)
    assert printed.data == b"\r 50 % " * 1_000_000


def test_more_ranks_than_slots_take_turns(fake: FakeKubernetes) -> None:
    site = Site(fake, FAST, log_slots=4)
    attempt = site.launched(nodes=20)
    pods = [site.running_pod(attempt, rank) for rank in range(20)]
    sources = [site.cluster.open_log(attempt.key, rank, "") for rank in range(20)]
    printed = [Printed() for _ in pods]
    most = 0
    for round in range(4):
        for number, pod in enumerate(pods):
            fake.log(pod).write(b"rank %d round %d\n" % (number, round))
        wanted = [b"".join(b"rank %d round %d\n" % (n, r) for r in range(round + 1)) for n in range(20)]

        def all_there(wanted: list[bytes] = wanted) -> bool:
            nonlocal most
            most = max(most, sum(source.running for source in sources))  # type: ignore[attr-defined]
            for source, got in zip(sources, printed, strict=True):
                got.take(source)
            return [got.data for got in printed] == wanted

        until(all_there, seconds=20)
    assert most <= 4
    for number, pod in enumerate(pods):
        site.end_pod(pod)
        assert number < 20
    site.end_job(attempt)
    for source, got in zip(sources, printed, strict=True):
        rest = site.read_all(source, seconds=20)
        assert (rest.data, rest.gaps, got.gaps) == (b"", [], [])
    site.close()


@pytest.mark.parametrize("fault", [faults.cut, faults.status(500), faults.status(403), faults.half_open(0)])
def test_an_endpoint_that_always_fails_is_not_asked_in_a_hurry(
    fake: FakeKubernetes, make_site: Callable[[Pace], Site], fault: faults.Fault
) -> None:
    site = make_site(Pace(apart=0.1, silence=5))
    attempt, _, log = running(site)
    log.write(b"one\n")
    fake.script("log", "pods", fault, times=10_000)
    source = site.cluster.open_log(attempt.key, 0, "")
    until(lambda: fake.count("log"))
    time.sleep(2)  # 20 s of its time
    assert fake.count("log") <= 8
    source.close()


def test_a_server_that_ends_each_answer_at_once_is_not_asked_in_a_hurry(
    fake: FakeKubernetes, make_site: Callable[[Pace], Site]
) -> None:
    site = make_site(Pace(apart=0.1, silence=5))
    attempt, _, log = running(site)
    log.write(b"one\n")
    log.end()  # and the pod is said to run on
    source = site.cluster.open_log(attempt.key, 0, "")
    printed = Printed()
    until(lambda: printed.take(source))
    end = time.monotonic() + 2
    while time.monotonic() < end:
        printed.take(source)
        time.sleep(0.01)
    assert printed.data == b"one\n"
    assert fake.count("log") <= 9
    source.close()


def test_missing_rights_are_told_to_the_operator(site: Site) -> None:
    attempt, _, _ = running(site)
    site.fake.script("log", "pods", faults.status(403, "Forbidden", "no"), times=10_000)
    site.cluster.open_log(attempt.key, 0, "")
    until(lambda: _pumped(site) and "lacks a right" in site.cluster.health().error)


def _pumped(site: Site) -> bool:
    for source in list(site.cluster._logs._sources):
        source.read(100)
    return True


def test_a_source_that_is_closed_lets_its_thread_go(site: Site) -> None:
    attempt, _, _ = running(site)
    source = site.cluster.open_log(attempt.key, 0, "")
    until(lambda: source.running)  # type: ignore[attr-defined]
    until(lambda: source._stream is not None)  # type: ignore[attr-defined]
    source.close()
    until(lambda: not source.running)  # type: ignore[attr-defined]


def test_before_the_first_look_nothing_is_said(fake: FakeKubernetes) -> None:
    fake.script("list", "pods", faults.status(500), times=1000)
    site = Site(fake)
    source = site.cluster.open_log(site.attempt().key, 0, "")
    time.sleep(0.3)
    assert source.read(100) is None
    with pytest.raises(ClusterError):
        site.cluster.observe(site.attempt().key)
    site.close()
