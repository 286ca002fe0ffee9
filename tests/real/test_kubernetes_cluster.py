"""KubernetesCluster on a real Kubernetes, with the rights of the portal's Role and no others."""

from __future__ import annotations

import dataclasses
import itertools
import secrets
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import pytest

from app.cluster.kubernetes.cluster import KubernetesCluster
from app.cluster.kubernetes.kubeconfig import parse
from app.cluster.kubernetes.manifests import KubernetesSettings
from app.cluster.kubernetes.names import object_name
from app.cluster.protocol import (
    Attempt,
    AttemptKey,
    ClusterError,
    Code,
    JobSpec,
    Launched,
    LogSource,
    Observation,
    Outcome,
    Phase,
    Refused,
    Wait,
)
from tests.real.cluster.cluster import Namespace

T = TypeVar("T")
PATIENCE = 60.0


def until(ask: Callable[[], T], what: str = "it never came true", seconds: float = PATIENCE) -> T:
    end = time.monotonic() + seconds
    while not (found := ask()):
        assert time.monotonic() < end, what
        time.sleep(0.02)
    return found


class Portal:
    """What the worker would do, by hand."""

    def __init__(self, namespace: Namespace, **settings: Any) -> None:
        self.namespace = namespace
        self.instance = secrets.token_hex(8)
        self.settings = KubernetesSettings(namespace=namespace.name, grace=3, **settings)
        self.numbers = itertools.count(1)
        self.cluster = self.another()
        self.cluster.start(lambda: None)

    def another(self) -> KubernetesCluster:
        return KubernetesCluster(parse(self.namespace.kubeconfig), self.settings, self.instance)

    def attempt(self, command: str | tuple[str, ...], nodes: int = 1, **more: Any) -> Attempt:
        spec = JobSpec(
            image=self.namespace.images.python,
            command=command,
            gpus=0,
            nodes=nodes,
            max_runtime=600,
            cpu="10m",
            memory="64Mi",
            **more,
        )
        return Attempt(AttemptKey(f"real{next(self.numbers):04d}", 1), "digits", self.instance, "1", "2", spec)

    def launch(self, command: str | tuple[str, ...], **more: Any) -> Attempt:
        attempt = self.attempt(command, **more)
        assert isinstance(self.cluster.launch(attempt), Launched)
        return attempt

    def observe(self, attempt: Attempt) -> Observation | None:
        try:
            return self.cluster.observe(attempt.key)
        except ClusterError:
            return None

    def until_phase(self, attempt: Attempt, phase: Phase) -> Observation:
        def reached() -> Observation | None:
            seen = self.observe(attempt)
            return seen if seen is not None and seen.phase is phase else None

        return until(reached, f"never {phase}: {self.observe(attempt)}")  # type: ignore[return-value]

    def read(self, source: LogSource, enough: Callable[[Printed], bool], seconds: float = PATIENCE) -> Printed:
        printed = Printed()
        end = time.monotonic() + seconds
        while not enough(printed):
            assert time.monotonic() < end, f"{len(printed.data)} bytes, {printed.gaps}, {printed.data[-80:]!r}"
            piece = source.read(1 << 20)
            if piece is None:
                time.sleep(0.02)
                continue
            printed.data += piece.data
            printed.gaps += [piece.skipped_why] if piece.skipped is None else []
            printed.complete, printed.cursor = piece.complete, piece.cursor
        return printed


class Printed:
    def __init__(self) -> None:
        self.data = b""
        self.gaps: list[str] = []
        self.complete = False
        self.cursor = ""


@pytest.fixture
def portal(namespace: Namespace) -> Iterator[Portal]:
    portal = Portal(namespace)
    yield portal
    portal.cluster.close()


def complete(printed: Printed) -> bool:
    return printed.complete


def test_runs_succeeds_and_leaves_nothing(portal: Portal) -> None:
    attempt = portal.launch("echo hello; sleep 2; printf bye")
    log = portal.cluster.open_log(attempt.key, 0, "")
    portal.until_phase(attempt, Phase.RUNNING)
    printed = portal.read(log, complete)
    assert (printed.data, printed.gaps) == (b"hello\nbye", [])
    seen = portal.until_phase(attempt, Phase.ENDED)
    assert (seen.outcome, seen.exit_code) == (Outcome.SUCCEEDED, 0)
    assert portal.cluster.owned() == {attempt.key}
    portal.cluster.remove(attempt.key)
    until(lambda: not portal.cluster.owned())
    until(lambda: portal.cluster.observe(attempt.key) is None)


@pytest.mark.parametrize("tail", [b"", b"\n"])
def test_five_megabytes_are_read_to_the_byte(portal: Portal, tail: bytes) -> None:
    """But for a carriage return before an end of line, which containerd drops before anybody can read it."""
    script = (
        "import hashlib, random, sys\n"
        "chance = random.Random(7)\n"
        "data = b''.join(chance.randbytes(chance.choice([0, 3, 80, 20000])).replace(b'\\n', b' ') + b'|\\n' "
        "for _ in range(1000))[:5_000_000]\n"
        f"data = data.rstrip(b'\\n') + {tail!r}\n"
        "sys.stdout.buffer.write(data)\n"
    )
    space: dict[str, Any] = {}
    exec(script.replace("sys.stdout.buffer.write(data)", ""), space)
    attempt = portal.launch(("python3", "-c", script))
    printed = portal.read(portal.cluster.open_log(attempt.key, 0, ""), complete)
    assert len(printed.data) == len(space["data"])
    assert printed.data == space["data"]
    assert printed.gaps == []


def test_a_progress_bar_flows_before_its_line_ends(portal: Portal) -> None:
    script = (
        "import sys, time\nfor n in range(400):\n sys.stdout.write('\\r%90d' % n); sys.stdout.flush(); time.sleep(0.01)"
    )
    attempt = portal.launch(("python3", "-c", f"{script}\ntime.sleep(5)"))
    log = portal.cluster.open_log(attempt.key, 0, "")
    early = portal.read(log, lambda printed: len(printed.data) >= 16384)
    portal.until_phase(attempt, Phase.RUNNING)
    rest = portal.read(log, complete)
    assert early.data + rest.data == b"".join(b"\r%90d" % n for n in range(400))
    assert early.gaps + rest.gaps == []


def test_goes_on_from_a_cursor_in_another_process(portal: Portal) -> None:
    attempt = portal.launch(
        "for n in $(seq 300); do echo line $n; done; sleep 2; for n in $(seq 300); do echo more $n; done"
    )
    first = portal.cluster.open_log(attempt.key, 0, "")
    got = portal.read(first, lambda printed: printed.data.count(b"\n") >= 100)
    first.close()
    other = portal.another()
    other.start(lambda: None)
    rest = portal.read(other.open_log(attempt.key, 0, got.cursor), complete)
    other.close()
    expected = [b"line %d\n" % n for n in range(1, 301)] + [b"more %d\n" % n for n in range(1, 301)]
    assert got.data + rest.data == b"".join(expected)
    assert rest.gaps == []


def test_a_failure_tells_its_exit_code(portal: Portal) -> None:
    attempt = portal.launch("echo broken; exit 3")
    seen = portal.until_phase(attempt, Phase.ENDED)
    assert (seen.outcome, seen.exit_code, seen.reason.code) == (Outcome.FAILED, 3, Code.EXIT_CODE)
    assert portal.read(portal.cluster.open_log(attempt.key, 0, ""), complete).data == b"broken\n"


def test_a_gang_finds_its_first_rank_and_each_rank_has_its_log(portal: Portal) -> None:
    script = (
        "import os, socket, time\n"
        "rank = os.environ['NODE_RANK']\n"
        "if rank == '0':\n"
        "    with socket.create_server(('', int(os.environ['MASTER_PORT']))) as server:\n"
        "        server.accept()[0].sendall(b'welcome')\n"
        "else:\n"
        "    while True:\n"
        "        try:\n"
        "            address = os.environ['MASTER_ADDR'], int(os.environ['MASTER_PORT'])\n"
        "            print(socket.create_connection(address, 5).recv(100).decode()); break\n"
        "        except OSError: time.sleep(0.1)\n"
        "print('rank', rank)\n"
    )
    attempt = portal.launch(("python3", "-c", script), nodes=2)
    logs = [portal.read(portal.cluster.open_log(attempt.key, rank, ""), complete).data for rank in (0, 1)]
    assert logs == [b"rank 0\n", b"welcome\nrank 1\n"]
    assert portal.until_phase(attempt, Phase.ENDED).outcome is Outcome.SUCCEEDED
    portal.cluster.remove(attempt.key)
    until(lambda: not portal.cluster.owned())


def test_a_stop_gives_time_keeps_the_last_words_and_leaves_nothing(portal: Portal) -> None:
    attempt = portal.launch("trap 'sleep 1; echo saved; exit 0' TERM; echo ready; while true; do sleep 0.1; done")
    log = portal.cluster.open_log(attempt.key, 0, "")
    portal.read(log, lambda printed: printed.data == b"ready\n")
    portal.until_phase(attempt, Phase.RUNNING)
    portal.cluster.stop(attempt.key)
    portal.cluster.stop(attempt.key)
    until(lambda: (seen := portal.observe(attempt)) is not None and seen.reason.code is Code.STOPPING)

    def over() -> bool:
        seen = portal.cluster.observe(attempt.key)
        return seen is None or seen.outcome is Outcome.STOPPED

    until(over)
    printed = portal.read(log, complete)
    assert printed.data == b"saved\n"
    portal.cluster.remove(attempt.key)
    until(lambda: not portal.cluster.owned())


@pytest.mark.parametrize("words", ["last words\n", "last words"])
def test_the_last_words_of_a_stopped_job_are_kept_or_their_loss_is_told(portal: Portal, words: str) -> None:
    attempt = portal.launch(f"trap 'printf \"{words}\"; exit 0' TERM; echo ready; while true; do sleep 0.1; done")
    log = portal.cluster.open_log(attempt.key, 0, "")
    portal.read(log, lambda printed: printed.data == b"ready\n")
    portal.cluster.stop(attempt.key)
    printed = portal.read(log, complete)
    assert printed.data == words.encode() or (printed.gaps and words.encode().startswith(printed.data))


def test_stopped_before_it_could_start_it_has_printed_nothing(portal: Portal) -> None:
    attempt = portal.launch("echo never", gpu_types=())
    portal.cluster.stop(attempt.key)
    log = portal.cluster.open_log(attempt.key, 0, "")
    printed = portal.read(log, complete)
    assert printed.data in (b"", b"never\n")
    until(lambda: (seen := portal.cluster.observe(attempt.key)) is None or seen.phase is Phase.ENDED)


def test_removed_by_another_hand_it_is_lost_and_the_loss_is_told(portal: Portal) -> None:
    attempt = portal.launch("echo here; sleep 600")
    log = portal.cluster.open_log(attempt.key, 0, "")
    portal.read(log, lambda printed: printed.data == b"here\n")
    portal.namespace.kubectl("delete", "job", object_name(attempt), "--wait=false")
    portal.read(log, complete)

    def lost() -> bool:
        seen = portal.cluster.observe(attempt.key)
        return seen is None or seen.outcome is Outcome.LOST

    until(lost)


def test_without_its_labels_it_still_runs_and_is_still_stopped(portal: Portal) -> None:
    attempt = portal.launch("echo here; sleep 600")
    portal.until_phase(attempt, Phase.RUNNING)
    portal.namespace.kubectl("label", "job", object_name(attempt), "simpletrain.io/instance-")
    end = time.monotonic() + 3
    while time.monotonic() < end:
        assert portal.observe(attempt).phase is Phase.RUNNING  # type: ignore[union-attr]
        time.sleep(0.2)
    portal.cluster.stop(attempt.key)
    until(lambda: portal.namespace.pods() == [])


def test_a_placeholder_keeps_a_late_request_away_and_goes_by_itself(portal: Portal) -> None:
    attempt = portal.attempt("echo never")
    portal.cluster._launcher._unsure[attempt.key] = unsure(portal, attempt)
    portal.cluster.stop(attempt.key)
    job = portal.namespace.wait("job", object_name(attempt), finished)
    assert job["spec"]["ttlSecondsAfterFinished"] == 300
    assert portal.namespace.pods() == []
    late = portal.another()
    answer = late.launch(attempt)
    assert isinstance(answer, Refused)
    assert answer.reason.code is Code.STOPPED
    until(lambda: portal.cluster.observe(attempt.key) is None)
    assert portal.cluster.owned() == frozenset()


def unsure(portal: Portal, attempt: Attempt) -> Any:
    from app.cluster.kubernetes.launch import _Unsure
    from app.cluster.kubernetes.manifests import manifests

    return _Unsure(manifests(attempt, portal.settings)[-1], time.monotonic())


def finished(job: Any) -> bool:
    return any(each["type"] in ("Complete", "Failed") for each in job.get("status", {}).get("conditions", []))


def test_a_full_quota_lets_it_wait(portal: Portal) -> None:
    spec = {"hard": {"count/jobs.batch": "1"}}
    portal.namespace.apply(
        {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "jobs"}, "spec": spec},
    )
    first = portal.launch("true")
    second = portal.attempt("echo second")
    answer = until(lambda: waits(portal.cluster.launch(second)))
    assert answer.reason.code is Code.QUOTA
    portal.until_phase(first, Phase.ENDED)
    portal.cluster.remove(first.key)

    def made() -> bool:
        portal.cluster._launcher.room()
        return isinstance(portal.cluster.launch(second), Launched)

    until(made)


def waits(answer: Any) -> Any:
    assert isinstance(answer, Wait)
    return answer


def test_what_the_server_finds_wrong_is_refused(portal: Portal) -> None:
    attempt = portal.attempt("true")
    bad = dataclasses.replace(attempt, spec=dataclasses.replace(attempt.spec, memory="many"))
    answer = portal.cluster.launch(bad)
    assert isinstance(answer, Refused)
    assert "many" in answer.reason.raw or "quantit" in answer.reason.raw


def test_an_image_that_is_missing_is_told_with_what_the_cluster_says(portal: Portal) -> None:
    attempt = portal.attempt("true")
    missing = dataclasses.replace(attempt.spec, image=portal.namespace.images.missing)
    portal.cluster.launch(dataclasses.replace(attempt, spec=missing))
    until(lambda: (seen := portal.observe(attempt)) is not None and seen.reason.code is Code.IMAGE)
    until(lambda: portal.cluster._events.of(attempt.key), "no event was kept")


def test_counts_gpus_where_it_may_see_nodes(portal: Portal) -> None:
    until(lambda: portal.cluster.capacity().sees_all_pods is False)
    assert portal.cluster.capacity().nodes is None
    portal.namespace.let_read_nodes()
    other = portal.another()
    other.start(lambda: None)
    until(lambda: other.capacity().nodes)
    other.close()


@pytest.mark.owns_node
def test_an_api_server_that_restarts_changes_no_state_and_no_byte(portal: Portal) -> None:
    attempt = portal.launch("for n in $(seq 200); do echo line $n; sleep 0.1; done")
    log = portal.cluster.open_log(attempt.key, 0, "")
    portal.until_phase(attempt, Phase.RUNNING)
    early = portal.read(log, lambda printed: printed.data.count(b"\n") > 20)
    portal.namespace.cluster.stop_api_server(politely=False)
    end = time.monotonic() + 6
    while time.monotonic() < end:
        assert portal.cluster.observe(attempt.key).phase is Phase.RUNNING  # type: ignore[union-attr]
        time.sleep(0.2)
    assert portal.cluster.health().error
    with pytest.raises(ClusterError):
        portal.cluster.launch(portal.attempt("true"))
    portal.namespace.cluster.start_api_server()
    rest = portal.read(log, complete)
    assert early.data + rest.data == b"".join(b"line %d\n" % n for n in range(1, 201))
    assert early.gaps + rest.gaps == []
    assert portal.until_phase(attempt, Phase.ENDED).outcome is Outcome.SUCCEEDED
    until(lambda: portal.cluster.health().error == "")


@pytest.mark.owns_node
def test_an_api_server_that_says_nothing_is_noticed(portal: Portal) -> None:
    attempt = portal.launch("sleep 600")
    portal.until_phase(attempt, Phase.RUNNING)
    portal.namespace.cluster.freeze_api_server()
    began = time.monotonic()
    with pytest.raises(ClusterError):
        portal.cluster.launch(portal.attempt("true"))
    took = time.monotonic() - began
    began = time.monotonic()
    with pytest.raises(ClusterError):
        portal.cluster.launch(portal.attempt("true"))
    assert time.monotonic() - began < 0.1  # not asked again
    assert took < 15
    assert portal.cluster.observe(attempt.key).phase is Phase.RUNNING  # type: ignore[union-attr]
    portal.namespace.cluster.thaw_api_server()
    until(lambda: launched(portal))


def launched(portal: Portal) -> bool:
    try:
        return isinstance(portal.cluster.launch(portal.attempt("true")), Launched)
    except ClusterError:
        return False


@pytest.mark.owns_node
def test_a_job_costs_few_requests_and_uses_no_right_that_it_lacks(portal: Portal) -> None:
    cluster = portal.namespace.cluster
    since = cluster.audit_mark()
    attempt = portal.launch("echo hello; sleep 3")
    printed = portal.read(portal.cluster.open_log(attempt.key, 0, ""), complete)
    assert printed.data == b"hello\n"
    portal.until_phase(attempt, Phase.ENDED)
    portal.cluster.remove(attempt.key)
    until(lambda: portal.cluster.observe(attempt.key) is None)
    entries = cluster.audit(since, namespace=portal.namespace.name, user=portal.namespace.user)
    assert entries
    assert len(entries) <= 15
