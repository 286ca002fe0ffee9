"""What the portal may do and what it does: its Role is the least, viewers cost no requests, its token stays inside."""

from __future__ import annotations

import base64
import http.client
import threading
from collections.abc import Iterator
from http.cookiejar import CookieJar
from pathlib import Path
from typing import Any
from urllib.request import HTTPCookieProcessor, ProxyHandler, build_opener

import pytest
import yaml

from app.accounts import service as accounts
from app.cluster.kubernetes.probe import NEEDS
from app.database import transaction
from tests.crash.portals import REPOSITORY, wait_for
from tests.real.cluster.cluster import Cluster, Namespace
from tests.real.portals import LINES, Audit, Real, kinds, portal_for_many

ROLE = yaml.safe_load((REPOSITORY / "k8s/rbac/role.yaml").read_text())
RIGHTS = {(verb, resource) for rule in ROLE["rules"] for resource in rule["resources"] for verb in rule["verbs"]}
# Every account may ask these. Nodes are a right that the operator may give beside the Role, so the portal tries.
FREE = {("get", "/version"), ("create", "selfsubjectaccessreviews"), ("list", "nodes")}
GANG = f"trap 'exit 143' TERM; {LINES}"
VIEWERS = 100
POLLS = 20  # of each viewer


def test_the_role_and_the_test_of_a_cluster_name_the_same_rights() -> None:
    rights = {
        (group, *resource.partition("/")[::2]): tuple(rule["verbs"])
        for rule in ROLE["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
    }
    assert rights == NEEDS
    assert all(not {"resourceNames", "nonResourceURLs"} & set(rule) for rule in ROLE["rules"])
    assert not any("*" in part for rule in ROLE["rules"] for part in (*rule["verbs"], *rule["resources"]))


DATABASE = "sqlite"  # whose files are looked through for secrets


@pytest.fixture(scope="module")
def served(
    request: pytest.FixtureRequest,
    real_cluster: Cluster,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Real]:
    """A portal that the tests of this module share. It says all that it can say."""
    folder = tmp_path_factory.mktemp("real")
    with portal_for_many(request, real_cluster, "rights", folder, DATABASE, LOG_LEVEL="DEBUG") as portal:
        yield portal


@pytest.fixture
def namespace(cluster: Cluster, served: Real) -> Namespace:
    """The shared portal's, so that the report of a failure shows it."""
    return served.namespace


@pytest.fixture
def portal(namespace: Namespace, served: Real) -> Iterator[Real]:
    """The shared portal, which serves; not registered."""
    if served.main is None or not served.main.alive:
        served.serve()
    yield served
    served.inside = None
    served.tidy()


def registered(portal: Real) -> str:
    """What the operator's command prints. The same again gives it the same settings."""
    done = portal.command(*portal.registration)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_the_portal_uses_every_right_of_its_role_and_asks_for_nothing_else(portal: Real) -> None:
    """A gang that meets every trouble for which there is a right: a worker that dies, and another hand."""
    seen = Audit(portal.namespace)
    registered(portal)
    portal.kill_all()
    portal.without_web()
    portal.launch("halfway", GANG, nodes=2)
    assert portal.worker(fault="kubernetes.after_service").ended() == -9
    portal.stop("halfway")  # there is a Service, and no Job whose end would take it along
    portal.launch("gang", GANG, nodes=2)
    for point in ("kubernetes.after_service", "kubernetes.after_job"):  # the next finds what this one made
        assert portal.worker(fault=point).ended() == -9
    worker = portal.worker()
    portal.until("gang", "running")
    portal.until_archived("gang", b"line 3\n")
    portal.open_gate("gang")
    portal.until("gang", "succeeded")
    portal.launch("orphaned", GANG)
    portal.until("orphaned", "running")
    portal.until_archived("orphaned", b"line 3\n")
    uid = portal.portal.job("orphaned").uid
    portal.namespace.kubectl("delete", "jobs", "-l", f"simpletrain.io/job={uid}", "--cascade=orphan")
    portal.open_gate("orphaned")
    assert portal.until("orphaned", "lost")["reason"]["code"] == "removed"
    assert portal.until("halfway", "cancelled")
    portal.until_clean("gang", "halfway", "orphaned")
    worker.popen.terminate()
    worker.ended()
    entries = seen.of_portal()
    assert {entry.namespace for entry in entries} == {portal.namespace.name, ""}
    asked = set(kinds(entries))
    assert asked - FREE <= RIGHTS, f"not allowed by the Role: {asked - FREE - RIGHTS}"
    assert asked >= RIGHTS, f"allowed and never used: {RIGHTS - asked}"
    refused = {(entry.verb, entry.resource) for entry in entries if entry.code in (401, 403)}
    assert refused <= {("list", "nodes")}


def test_viewers_cost_the_cluster_no_request(portal: Real) -> None:
    """A job prints until so many polls are answered; then the same job again, with nobody who looks."""
    registered(portal)
    watched = requests_while(portal, "watched", VIEWERS)
    alone = requests_while(portal, "alone", 0)
    print(f"with {VIEWERS} viewers: {dict(watched)}\nwith none: {dict(alone)}")
    more = {kind: (watched[kind], alone[kind]) for kind in watched if watched[kind] > alone[kind] + 4}
    assert not more, f"with {VIEWERS} viewers and with none: {more}"
    assert abs(watched.total() - alone.total()) <= 10, (watched, alone)
    assert watched["create", "jobs"] == alone["create", "jobs"] == 1


def requests_while(portal: Real, name: str, viewers: int) -> Any:
    """What the portal asks of the API server from the launch of a job to the removal of its objects."""
    seen = Audit(portal.namespace)
    portal.launch(name, GANG)
    portal.until(name, "running")
    portal.until_archived(name, b"line 3\n")
    if viewers:
        assert polled(portal, name, viewers) == viewers * POLLS
    portal.until_archived(name, b"line 200\n")
    portal.open_gate(name)
    portal.until(name, "succeeded")
    portal.until_clean(name)
    return kinds(seen.of_portal())


def polled(portal: Real, name: str, viewers: int) -> int:
    """Open the page and poll it for state and log as its script does, all at once; how many polls were answered."""
    with portal.portal.app.app_context(), transaction():
        user = accounts.by_email("vera@example.org")
        assert user is not None
        secret = accounts.make_link(user)
    jar = CookieJar()
    opener = build_opener(ProxyHandler({}), HTTPCookieProcessor(jar))
    page = f"http://127.0.0.1:{portal.port}/orgs/lab/jobs/{name}"
    opener.open(f"http://127.0.0.1:{portal.port}/sign-in/{secret}", timeout=30).close()
    with opener.open(page, timeout=30) as answer:
        assert b"line 3" in answer.read()
    cookie = "; ".join(f"{each.name}={each.value}" for each in jar)
    answered: list[int] = []
    stop = threading.Event()

    def look() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", portal.port, timeout=60)
        for _ in range(POLLS):
            connection.request("GET", f"/orgs/lab/jobs/{name}/poll?since=0&size=0", headers={"Cookie": cookie})
            answer = connection.getresponse()
            answer.read()
            if answer.status in (200, 204):
                answered.append(answer.status)
            stop.wait(1)  # the pace of the page
        connection.close()

    threads = [threading.Thread(target=look) for _ in range(viewers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return len(answered)


def test_the_token_stands_nowhere_but_sealed(portal: Real) -> None:
    """Not in the database, not in what processes say, not in what others can see of them."""
    printed = registered(portal)
    portal.launch("canary", GANG)
    portal.until("canary", "running")
    portal.until_archived("canary", b"line 3\n")
    token = yaml.safe_load(portal.namespace.kubeconfig)["users"][0]["user"]["token"].encode()
    assert len(token) > 200
    shapes = [token, token[:60], token[-60:]]
    shapes += [base64.b64encode(token[shift:])[:80] for shift in range(3)]
    places = {"the command's output": printed.encode()}
    for path in portal.folder.rglob("*"):
        if path.is_file():
            places[str(path)] = path.read_bytes()
    pids = portal.portal_processes()
    assert len(pids) >= 3, "supervisor, web and worker"
    for pid in pids:
        for name in ("environ", "cmdline"):
            places[f"/proc/{pid}/{name}"] = Path(f"/proc/{pid}/{name}").read_bytes()
    for answer in (portal.request("GET", "/api/clusters"), portal.request("GET", "/api/jobs/canary")):
        places[f"an answer of {len(answer.body)} bytes"] = answer.body
    (pod,) = portal.pods_of("canary")
    places["the pod"] = repr(pod).encode() + portal.archived("canary")
    assert any(name.endswith("portal.db-wal") for name in places)
    assert any(b"DEBUG" in content for name, content in places.items() if name.endswith("serve.out"))
    found = [name for name, content in places.items() if any(shape in content for shape in shapes)]
    assert found == []
    portal.open_gate("canary")
    portal.until("canary", "succeeded")
    wait_for(lambda: portal.portal.job("canary").settled, "its removal")
