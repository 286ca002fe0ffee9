"""The copy is true again after every fault, says what is wrong meanwhile, and never asks in a hurry."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from datetime import UTC, datetime

import pytest

from app.cluster.kubernetes.names import object_name
from app.cluster.kubernetes.watch import Pace, trimmed
from app.cluster.protocol import Attempt, AttemptKey, ClusterError, Code, Launched, Outcome, Phase
from tests.cluster.kubernetes import fake as faults
from tests.cluster.kubernetes.fake import FakeKubernetes
from tests.cluster.kubernetes.site import FAST, Site, until

ERROR_410 = (
    json.dumps({"type": "ERROR", "object": {"kind": "Status", "code": 410, "reason": "Expired"}}).encode() + b"\n"
)
TOO_NEW = {"causes": [{"reason": "ResourceVersionTooLarge"}]}


def run_one(site: Site) -> None:
    """Something happens, and is seen."""
    site.wait_for_a_look()
    attempt = site.attempt()
    until(lambda: launched(site, attempt))
    pod = site.running_pod(attempt)
    site.until_phase(attempt, Phase.RUNNING)
    site.finish(attempt, pod)
    site.until_phase(attempt, Phase.ENDED)


def launched(site: Site, attempt: Attempt) -> bool:
    try:
        return isinstance(site.cluster.launch(attempt), Launched)
    except ClusterError:
        return False  # it was sent on a connection that was cut just then


def test_before_the_first_look_nothing_is_claimed(fake: FakeKubernetes) -> None:
    site = Site(fake, start=False)
    with pytest.raises(ClusterError):
        site.cluster.observe(AttemptKey("aaaaaaaa", 1))
    site.close()


def test_a_list_that_is_not_complete_is_none(fake: FakeKubernetes) -> None:
    fake.page = 2
    site = Site(fake, start=False)
    attempts = [site.launched() for _ in range(5)]
    fake.script("list", "jobs", faults.status(500), times=5, when=lambda r: "continue" in r.query)
    site.cluster.start(site.ring)
    until(lambda: fake.count("list", "jobs") >= 2)
    with pytest.raises(ClusterError):
        site.observe(attempts[0])
    site.wait_for_a_look()
    assert [site.phase(attempt) for attempt in attempts] == [Phase.STARTING] * 5
    site.close()


def test_rings_when_something_changes_and_only_then(site: Site) -> None:
    site.wait_for_a_look()
    time.sleep(0.3)
    before = site.rings
    time.sleep(0.5)  # bookmarks come
    assert site.rings == before
    site.launched()
    until(lambda: site.rings > before)


def test_only_objects_of_this_installation_are_asked_for(site: Site) -> None:
    site.wait_for_a_look()
    asked = site.fake.asked("list", "jobs") + site.fake.asked("watch", "pods")
    assert {request.query["labelSelector"] for request in asked} == {
        f"simpletrain.io/instance={site.cluster._instance}"
    }


def test_asks_for_bookmarks_and_goes_on_from_them(site: Site) -> None:
    site.wait_for_a_look()
    for _ in range(5):
        site.fake.put("nodes", {"metadata": {"name": "n"}})  # versions move, and no event of ours
    time.sleep(0.5)
    site.fake.cut_everything()
    until(lambda: site.fake.count("watch", "jobs") > 1)
    first, second = site.fake.asked("watch", "jobs")[:2]
    assert first.query["allowWatchBookmarks"] == "true"
    assert int(second.query["resourceVersion"]) > int(first.query["resourceVersion"])
    assert 240 <= int(first.query["timeoutSeconds"]) <= 300


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(faults.cut_mid_frame(2), id="cut in the middle of a frame"),
        pytest.param(faults.cut, id="cut before an answer"),
        pytest.param(faults.frames([ERROR_410]), id="410 in the stream"),
        pytest.param(faults.status(410, "Expired", "too old"), id="410 as HTTP"),
        pytest.param(faults.status(504, "Timeout", "", TOO_NEW), id="too new"),
        pytest.param(faults.status(500), id="500"),
        pytest.param(faults.status(503), id="503"),
        pytest.param(faults.status(429, Retry_After="1"), id="429"),
        pytest.param(faults.status(401), id="401"),
        pytest.param(faults.status(403), id="403"),
        pytest.param(faults.raw(502, b"<html>Bad Gateway</html>", Content_Type="text/html"), id="a proxy's page"),
        pytest.param(faults.raw(200, b"<html>Sign in</html>", Content_Type="text/html"), id="a sign-in page"),
        pytest.param(faults.raw(302, b"", Location="http://127.0.0.1:1/"), id="a redirect"),
        pytest.param(faults.frames([]), id="ends at once"),
        pytest.param(faults.frames([b"not json\n"]), id="no JSON"),
        pytest.param(faults.frames([b"\n", b"null\n", b"[]\n"]), id="odd frames"),
        pytest.param(faults.frames([b'{"type":"ADDED","object":{"metadata":null}}\n']), id="an empty object"),
        pytest.param(faults.frames([b'{"type":"SOMETHING","object":{}}\n']), id="an unknown type"),
        pytest.param(faults.frames([b'{"type":"ADDED","object":{"metadata":{"uid":"u","labels":[]}}}\n']), id="odd"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("kind", ["jobs", "pods"])
def test_is_true_again_after(site: Site, fault: faults.Fault, kind: str) -> None:
    site.wait_for_a_look()
    site.fake.script("watch", kind, fault, times=3)
    site.fake.cut_everything()
    run_one(site)
    until(lambda: site.cluster.health().error == "")


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(faults.status(410, "Expired"), id="410 on the second page"),
        pytest.param(faults.raw(200, b'{"items": [{'), id="truncated JSON"),
        pytest.param(faults.raw(200, b"<html>", Content_Type="text/html"), id="a page"),
        pytest.param(faults.cut, id="cut"),
        pytest.param(faults.status(429, Retry_After="1"), id="429"),
    ],
)
def test_a_list_that_fails_is_made_anew(fake: FakeKubernetes, fault: faults.Fault) -> None:
    fake.page = 2
    site = Site(fake, start=False)
    attempts = [site.launched() for _ in range(5)]
    fake.script("list", "jobs", fault, times=2, when=lambda r: "continue" in r.query)
    site.cluster.start(site.ring)
    site.wait_for_a_look()
    assert [site.phase(attempt) for attempt in attempts] == [Phase.STARTING] * 5
    site.close()


def test_null_lists_and_unknown_fields_are_no_trouble(fake: FakeKubernetes) -> None:
    fake.script("list", "jobs", faults.raw(200, b'{"items": null, "metadata": {"resourceVersion": "100"}, "new": 1}'))
    site = Site(fake)
    run_one(site)
    site.close()


def test_a_stream_that_falls_silent_is_given_up(fake: FakeKubernetes, make_site: Callable[[Pace], Site]) -> None:
    site = make_site(Pace(apart=0.02, silence=0.5))
    site.wait_for_a_look()
    fake.script("watch", "*", faults.half_open(60), times=2)
    fake.cut_everything()
    run_one(site)


def test_what_was_removed_while_nobody_watched_is_gone(site: Site) -> None:
    attempt = site.launched()
    site.until_phase(attempt, Phase.STARTING)
    with site.fake.away():
        site.fake.take_away("jobs", object_name(attempt), quiet=True)
        site.fake.compact()
        time.sleep(0.1)
        assert site.phase(attempt) is Phase.STARTING  # silence says nothing about a job
    site.until_phase(attempt, None)


def test_what_happened_while_nobody_watched_is_seen(site: Site) -> None:
    attempt = site.launched()
    pod = site.running_pod(attempt)
    site.until_phase(attempt, Phase.RUNNING)
    with site.fake.away():
        site.finish(attempt, pod)
        site.fake.compact()
        time.sleep(0.1)
    seen = site.until_phase(attempt, Phase.ENDED)
    assert seen is not None
    assert seen.outcome is Outcome.SUCCEEDED


def test_an_event_that_was_lost_is_made_good_by_the_next_list(
    fake: FakeKubernetes, make_site: Callable[[Pace], Site]
) -> None:
    site = make_site(Pace(apart=0.02, relist=0.5, silence=0.4))
    fake.bookmark_every = 60
    site.wait_for_a_look()
    attempt = site.launched()
    pod = site.running_pod(attempt)
    site.until_phase(attempt, Phase.RUNNING)
    fake.take_away("pods", pod, quiet=True)
    fake.take_away("jobs", object_name(attempt), quiet=True)
    site.until_phase(attempt, None)


def test_a_server_that_was_restored_from_a_backup(site: Site) -> None:
    kept = site.launched()
    site.until_phase(kept, Phase.STARTING)
    version, objects = site.fake.version, dict(site.fake.objects)
    lost = site.launched()
    site.until_phase(lost, Phase.STARTING)
    for _ in range(20):
        site.fake.change("jobs", object_name(lost), lambda job: None)
    site.fake.restore(version - 5, objects)
    site.fake.cut_everything()
    site.until_phase(lost, None)
    assert site.phase(kept) is Phase.STARTING
    run_one(site)


def test_taking_the_labels_off_is_not_a_removal(site: Site) -> None:
    attempt = site.launched()
    pod = site.running_pod(attempt)
    site.until_phase(attempt, Phase.RUNNING)
    site.fake.change("jobs", object_name(attempt), lambda job: job["metadata"].update(labels={}))
    until(lambda: site.cluster._jobs.of(attempt.key) == [])
    for _ in range(10):
        assert site.phase(attempt) is Phase.RUNNING
    site.cluster.stop(attempt.key)
    until(lambda: site.fake.asked("delete", "jobs"))
    site.pods_go(attempt)
    assert pod
    until(lambda: site.phase(attempt) in (None, Phase.ENDED))


def test_health_says_what_is_wrong_and_since_when(site: Site) -> None:
    site.wait_for_a_look()
    well = site.cluster.health()
    assert well.error == ""
    assert well.answered_at is not None
    assert abs((datetime.now(UTC) - well.answered_at).total_seconds()) < 5
    with site.fake.away():
        until(lambda: site.cluster.health().error)
        assert site.cluster.health().error == "The cluster cannot be reached."
        answered_at = site.cluster.health().answered_at
        time.sleep(0.3)
        assert site.cluster.health().answered_at == answered_at
    until(lambda: site.cluster.health().error == "", seconds=20)


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        (faults.status(401, "Unauthorized", "Unauthorized"), "does not accept the portal's credential (401)"),
        (faults.status(403, "Forbidden", "no"), "lacks a right (403)"),
        (faults.status(500, "InternalError", "etcd"), "a fault of its own (500)"),
        (faults.raw(302, b"", Location="http://169.254.169.254/"), "redirects elsewhere (302)"),
        (faults.raw(200, b"<html>"), "no Kubernetes answered"),
        (faults.status(404, "NotFound", "", {"kind": "namespaces"}), "namespace does not exist"),
    ],
)
def test_health_names_the_trouble(fake: FakeKubernetes, fault: faults.Fault, says: str) -> None:
    fake.script("list", "jobs", fault, times=10_000)
    site = Site(fake)
    until(lambda: says in site.cluster.health().error, f"only: {site.cluster.health()}")
    site.close()


def test_one_kind_that_may_not_be_seen_leaves_the_other_alone(fake: FakeKubernetes) -> None:
    fake.script("*", "pods", faults.status(403, "Forbidden", "no"), times=10_000)
    site = Site(fake)
    until(lambda: "(pods)" in site.cluster.health().error)
    until(lambda: site.cluster._jobs.listed_at)
    time.sleep(0.5)
    assert "(pods)" in site.cluster.health().error  # what works does not hide what does not
    site.close()


def test_a_token_that_was_exchanged_works_again(site: Site) -> None:
    site.wait_for_a_look()
    site.fake.tokens = {"new"}
    site.fake.cut_everything()
    until(lambda: "credential (401)" in site.cluster.health().error)
    assert site.cluster.observe(AttemptKey("aaaaaaaa", 1)) is None  # the copy stays
    site.fake.tokens = {"good"}
    until(lambda: site.cluster.health().error == "", seconds=20)


@pytest.mark.parametrize(
    ("verb", "fault"),
    [
        ("watch", faults.frames([])),
        ("watch", faults.frames([ERROR_410])),
        ("watch", faults.cut_mid_frame(0)),
        ("watch", faults.status(403)),
        ("watch", faults.status(500)),
        ("watch", faults.frames([b'{"type":"BOOKMARK","object":{"metadata":{"resourceVersion":"100"}}}\n'])),
        ("watch", faults.frames([b"{}\n"])),
        ("list", faults.status(410, "Expired")),
        ("list", faults.status(401)),
        ("list", faults.cut),
    ],
)
def test_never_asks_more_than_once_a_second(
    fake: FakeKubernetes, make_site: Callable[[Pace], Site], verb: str, fault: faults.Fault
) -> None:
    fake.script(verb, "jobs", fault, times=100_000)
    make_site(Pace(apart=0.1, silence=5))
    time.sleep(3)  # 30 s of its time
    assert 1 <= fake.count(verb, "jobs") <= 31
    assert fake.count("list", "jobs") <= 31


def test_a_listener_that_fails_does_not_end_the_watch(fake: FakeKubernetes) -> None:
    site = Site(fake, start=False)

    def broken() -> None:
        raise RuntimeError("a bug")

    site.cluster.start(broken)
    run_one(site)
    assert site.cluster.health().error == ""
    site.close()


def test_what_is_kept_of_an_object_is_small(site: Site) -> None:
    attempt = site.launched(env={"SECRET": "x" * 1000})
    site.running_pod(attempt)
    site.until_phase(attempt, Phase.RUNNING)
    kept = json.dumps(site.cluster._pods.of(attempt.key) + site.cluster._jobs.of(attempt.key))
    assert "managedFields" not in kept
    assert "SECRET" not in kept


@pytest.mark.parametrize("odd", [{}, {"metadata": None}, {"spec": []}, {"spec": {"containers": None}}, {"metadata": 1}])
def test_odd_objects_are_kept_as_they_are(odd: dict[str, object]) -> None:
    assert trimmed(dict(odd)) == odd


def test_the_same_name_again_is_another_object(site: Site) -> None:
    attempt = site.launched()
    site.until_phase(attempt, Phase.STARTING)
    job = site.job(attempt)
    assert job is not None
    site.fake.take_away("jobs", object_name(attempt))
    del job["metadata"]["uid"]
    faults.conditions(job, "Failed", "BackoffLimitExceeded")
    site.fake.put("jobs", job)
    until(lambda: (job := site.cluster._job(attempt.key)) is not None and "conditions" in job.get("status", {}))


def test_closing_ends_every_thread(fake: FakeKubernetes) -> None:
    site = Site(fake)
    attempt = site.launched()
    site.running_pod(attempt)
    source = site.cluster.open_log(attempt.key, 0, "")
    until(lambda: source.running)  # type: ignore[attr-defined]
    began = time.monotonic()
    site.close()
    assert time.monotonic() - began < 2
    assert not site.cluster._jobs._thread.is_alive()
    assert not site.cluster._pods._thread.is_alive()
    assert not site.cluster._keeper.is_alive()
    until(lambda: not source.running)  # type: ignore[attr-defined]


def test_a_cluster_that_hangs_delays_no_other(fake: FakeKubernetes) -> None:
    hanging = FakeKubernetes().start()
    hanging.script("*", "*", faults.hang(4), times=1000)
    slow, quick = Site(hanging), Site(fake)
    began = time.monotonic()
    run_one(quick)
    assert time.monotonic() - began < 3
    with pytest.raises(ClusterError):
        slow.cluster.observe(AttemptKey("aaaaaaaa", 1))
    slow.close()
    quick.close()
    hanging.close()


def test_thousands_of_pods_are_listed_in_good_time(fake: FakeKubernetes) -> None:
    site = Site(fake, FAST, start=False)
    attempt = site.launched(nodes=2000)
    for rank in range(2000):
        site.running_pod(attempt, rank)
    began = time.monotonic()
    site.cluster.start(site.ring)
    site.wait_for_a_look()
    assert time.monotonic() - began < 15
    seen = site.until_phase(attempt, Phase.RUNNING)
    assert seen is not None
    assert (len(seen.ranks), seen.reason.code) == (2000, Code.RUNNING)
    site.close()
