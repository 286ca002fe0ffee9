"""Every wait ends, nothing is followed, and no credential is in what a person sees."""

from __future__ import annotations

import gzip
import json
import logging
import os
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.cluster.kubernetes import breaker as breakers
from app.cluster.kubernetes import client as clients
from app.cluster.kubernetes import tls
from app.cluster.kubernetes.breaker import Breaker, backoff
from app.cluster.kubernetes.client import Client
from app.cluster.kubernetes.errors import (
    Auth,
    Ban,
    Clash,
    Conflict,
    Forbidden,
    Gone,
    Invalid,
    KubernetesError,
    Missing,
    Retry,
    Trouble,
    error_of,
)
from app.cluster.kubernetes.kubeconfig import Credential
from tests.cluster.kubernetes import fake as faults
from tests.cluster.kubernetes.conftest import Keys
from tests.cluster.kubernetes.fake import FakeKubernetes

PODS = "/api/v1/namespaces/lab/pods"
TOKEN = "secret-token-of-the-portal"


@pytest.fixture
def client(fake: FakeKubernetes) -> Iterator[Client]:
    fake.tokens.add(TOKEN)
    client = Client(Credential(fake.url, token=TOKEN))
    yield client
    client.close()


def trouble(client: Client) -> Trouble:
    with pytest.raises(Retry) as raised:
        client.get(PODS)
    return raised.value.trouble


def test_asks_for_compressed_lists_and_is_strict_about_what_it_sends(client: Client, fake: FakeKubernetes) -> None:
    for number in range(20):
        fake.put("pods", {"metadata": {"name": f"p{number}"}})
    assert len(client.items(PODS)) == 20
    assert fake.requests[-1].headers["Accept-Encoding"] == "gzip"
    client.post(PODS, {"metadata": {"name": "new"}})
    assert fake.requests[-1].query["fieldValidation"] == "Strict"


def test_keeps_its_connection(client: Client, fake: FakeKubernetes) -> None:
    for _ in range(5):
        client.get(PODS)
    assert len(fake.open_sockets) == 1


def test_a_list_comes_in_pages_and_from_the_store(client: Client, fake: FakeKubernetes) -> None:
    fake.page = 3
    for number in range(7):
        fake.put("pods", {"metadata": {"name": f"p{number}"}})
    assert len(client.items(PODS)) == 7
    assert fake.count("list", "pods") == 3
    assert all("resourceVersion" not in request.query for request in fake.requests)
    assert all(request.query["limit"] == "500" for request in fake.requests)


def test_a_page_that_is_too_old_ends_the_list(client: Client, fake: FakeKubernetes) -> None:
    fake.page = 3
    for number in range(7):
        fake.put("pods", {"metadata": {"name": f"p{number}"}})
    pages = client.pages(PODS)
    next(pages)
    fake.compact()
    with pytest.raises(Gone) as raised:
        next(pages)
    assert raised.value.what is Missing.VERSION


def test_nothing_is_tried_again_in_here(client: Client, fake: FakeKubernetes) -> None:
    for fault in (faults.cut, faults.status(500), faults.status(429, Retry_After="30"), faults.status(503)):
        fake.script("list", "pods", fault, times=10)
        before, began = fake.count(), time.monotonic()
        with pytest.raises(Retry):
            client.get(PODS)
        assert fake.count() == before + 1
        assert time.monotonic() - began < 1
        client.breaker.answered()
        fake.scripts.clear()


def test_a_redirect_is_not_followed(client: Client, fake: FakeKubernetes) -> None:
    other = FakeKubernetes().start()
    for code in (301, 302, 303, 307, 308):
        fake.script("list", "pods", faults.raw(code, b"", Location=f"{other.url}{PODS}"))
        assert trouble(client) is Trouble.NONSENSE
        client.breaker.answered()
    assert other.requests == []
    other.close()


@pytest.mark.parametrize(
    "body",
    [b"", b"<html>", b"[1]", b'"text"', b"null", b"{" * 3000, b"[" * 100_000, b"\xff\xfe", b'{"a": 1'],
)
def test_what_is_no_object_is_no_answer(client: Client, fake: FakeKubernetes, body: bytes) -> None:
    fake.script("list", "pods", faults.raw(200, body))
    assert trouble(client) is Trouble.NONSENSE


def test_silence_ends(client: Client, fake: FakeKubernetes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clients, "CALL", (0.3, 0.3))
    fake.script("list", "pods", faults.hang(3))
    began = time.monotonic()
    assert trouble(client) is Trouble.TIMEOUT
    assert time.monotonic() - began < 2


def test_an_answer_that_drips_ends(client: Client, fake: FakeKubernetes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clients, "WHOLE", 0.3)
    fake.script("list", "pods", faults.drip(5))
    began = time.monotonic()
    assert trouble(client) is Trouble.TIMEOUT
    assert time.monotonic() - began < 2


def test_a_body_without_end_is_not_read_to_its_end(
    client: Client, fake: FakeKubernetes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clients, "BODY", 1 << 20)
    fake.script("list", "pods", faults.raw(200, b" " * (3 << 20)))
    assert trouble(client) is Trouble.NONSENSE


def test_a_small_body_that_unpacks_to_a_huge_one_is_not_unpacked(client: Client, fake: FakeKubernetes) -> None:
    bomb = gzip.compress(b" " * (300 << 20), 9)
    assert len(bomb) < 1 << 20

    def explode(handler: faults.Handler, request: faults.Request) -> bool:
        handler.send_response(200)
        handler.send_header("Content-Encoding", "gzip")
        handler.send_header("Content-Length", str(len(bomb)))
        handler.end_headers()
        handler.wfile.write(bomb)
        return True

    fake.script("list", "pods", explode)
    before = _rss()
    assert trouble(client) is Trouble.NONSENSE
    assert _rss() - before < 100 << 20


def _rss() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize("chunked", [True, False])
def test_an_answer_that_is_cut_is_known(client: Client, fake: FakeKubernetes, chunked: bool) -> None:
    def cut(handler: faults.Handler, request: faults.Request) -> bool:
        handler.send_response(200)
        if chunked:
            handler.send_header("Transfer-Encoding", "chunked")
            handler.end_headers()
            handler.chunk(b'{"items": []}')
        else:
            handler.send_header("Content-Length", "1000")
            handler.end_headers()
            handler.wfile.write(b'{"items": []}')
        handler.cut()
        return True

    fake.script("list", "pods", cut)
    assert trouble(client) is Trouble.CUT


def test_each_way_to_get_no_answer_has_its_word(fake: FakeKubernetes) -> None:
    def word(server: str) -> Trouble:
        client = Client(Credential(server, token="t"))
        with pytest.raises(Retry) as raised:
            client.get(PODS)
        client.close()
        assert not raised.value.sent
        return raised.value.trouble

    assert word("https://nowhere.invalid") is Trouble.DNS
    assert word("https://127.0.0.1:1") is Trouble.REFUSED
    assert word(f"https://127.0.0.1:{fake.port}") is Trouble.TLS


def test_no_credential_is_in_an_error_or_a_log(
    client: Client, fake: FakeKubernetes, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    echo = f"Bearer {TOKEN} is not good"
    for fault in (
        faults.status(401, "Unauthorized", echo),
        faults.status(403, "Forbidden", echo),
        faults.status(422, "Invalid", echo),
        faults.status(500, "InternalError", echo),
        faults.cut,
        faults.raw(200, TOKEN.encode()),
        faults.raw(302, b"", Location=f"http://x/?token={TOKEN}"),
    ):
        fake.script("list", "pods", fault, times=2)
        with pytest.raises(KubernetesError) as raised:
            client.get(PODS)
        assert TOKEN not in f"{raised.value} {raised.value.text} {raised.value.raw} {raised.value!r}"
        client.breaker.answered()
        fake.scripts.clear()
    assert TOKEN not in repr(Credential(fake.url, token=TOKEN))
    assert TOKEN not in caplog.text


def test_a_refused_token_is_looked_up_once_more(fake: FakeKubernetes) -> None:
    client = Client(Credential(fake.url, token="old"))
    given = []

    def token(refused: bool) -> str:
        given.append(refused)
        return "good" if refused or True in given else "old"

    client._token = token
    client.get(PODS)
    assert fake.count() == 2
    client._token = lambda refused: "old"
    with pytest.raises(Auth):
        client.get(PODS)
    assert fake.count() == 3  # the same one is not tried again
    client.close()


def test_a_proxy_of_the_environment_is_not_used(fake: FakeKubernetes, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    client = Client(Credential(fake.url, token="good"))
    client.get(PODS)
    client.close()


def test_a_stream_can_be_ended_from_another_thread(client: Client, fake: FakeKubernetes) -> None:
    fake.script("list", "pods", faults.half_open(20))
    stream = client.stream(PODS, {}, (3, 15))
    threading.Timer(0.3, stream.abort).start()
    began = time.monotonic()
    with pytest.raises(Retry):
        list(stream.lines(100))
    assert time.monotonic() - began < 5
    stream.close()


def test_a_line_without_end_is_not_collected(client: Client, fake: FakeKubernetes) -> None:
    fake.script("list", "pods", faults.frames([b"x" * 50_000] * 100))
    with client.stream(PODS, {}, (3, 5)) as stream, pytest.raises(Retry, match="line larger"):
        list(stream.lines(1 << 20))


# what a refusal means


@pytest.mark.parametrize(
    ("code", "status", "kind", "detail"),
    [
        (401, {}, Auth, None),
        (403, {"message": "exceeded quota: q"}, Forbidden, Ban.QUOTA),
        (403, {"message": 'User "x" cannot create'}, Forbidden, Ban.RBAC),
        (403, {}, Forbidden, Ban.RBAC),
        (403, {"message": 'admission webhook "w" denied the request: no'}, Forbidden, Ban.POLICY),
        (403, {"message": 'pods "x" is forbidden: violates PodSecurity "restricted"'}, Forbidden, Ban.POLICY),
        (403, {"message": "because it is being terminated"}, Gone, Missing.NAMESPACE),
        (404, {"details": {"kind": "jobs"}}, Gone, Missing.OBJECT),
        (404, {"details": {"kind": "namespaces"}}, Gone, Missing.NAMESPACE),
        (404, {"details": None}, Gone, Missing.OBJECT),
        (409, {"reason": "AlreadyExists", "message": 'jobs "x" already exists'}, Conflict, Clash.EXISTS),
        (409, {"reason": "AlreadyExists", "message": "object is being deleted: x"}, Conflict, Clash.TERMINATING),
        (409, {"reason": "Conflict", "message": "the object has been modified"}, Conflict, Clash.MODIFIED),
        (409, {"message": "Precondition failed: UID"}, Conflict, Clash.MODIFIED),
        (410, {}, Gone, Missing.VERSION),
        (400, {"message": "bad"}, Invalid, None),
        (405, {}, Invalid, None),
        (422, {"message": "spec: Required"}, Invalid, None),
        (429, {"details": {"retryAfterSeconds": 7}}, Retry, Trouble.BUSY),
        (429, {}, Retry, Trouble.BUSY),
        (500, {}, Retry, Trouble.SERVER),
        (502, {}, Retry, Trouble.SERVER),
        (504, {"reason": "Timeout"}, Retry, Trouble.SERVER),
        (504, {"details": {"causes": [{"reason": "ResourceVersionTooLarge"}]}}, Gone, Missing.VERSION),
        (302, {}, Retry, Trouble.NONSENSE),
        (500, {"details": {"causes": [None, 1, {}]}}, Retry, Trouble.SERVER),
    ],
)
def test_a_refusal_has_one_meaning(code: int, status: dict[str, object], kind: type, detail: object) -> None:
    error = error_of(code, status)
    assert type(error) is kind
    for name in ("ban", "clash", "what", "trouble"):
        if hasattr(error, name):
            assert getattr(error, name) is detail
    assert error.text.endswith((".", "bad", "Required"))


# when to ask again


def test_after_a_failure_one_asks_now_and_then_and_the_rest_not_at_all() -> None:
    now = [0.0]
    breaker = Breaker(lambda: now[0])
    breaker.check()
    breaker.failed(Retry(Trouble.REFUSED, "away"))
    with pytest.raises(Retry) as raised:
        breaker.check()
    assert raised.value.trouble is Trouble.PAUSED
    assert not raised.value.sent
    assert 0 < (raised.value.after or 0) <= 1
    now[0] = 1.1
    breaker.check()  # this one tries
    with pytest.raises(Retry):
        breaker.check()
    breaker.answered()
    breaker.check()


def test_an_hour_of_outage_costs_about_a_request_a_minute() -> None:
    now, asked = [0.0], 0
    breaker = Breaker(lambda: now[0])
    while now[0] < 3600:
        try:
            breaker.check()
            asked += 1
            breaker.failed(Retry(Trouble.REFUSED, "away"))
        except Retry:
            pass
        now[0] += 0.5
    assert 55 <= asked <= 95


def test_a_refused_credential_is_tried_each_half_minute() -> None:
    now = [0.0]
    breaker = Breaker(lambda: now[0])
    breaker.failed(Auth("no"))
    now[0] = 29.0
    with pytest.raises(Retry):
        breaker.check()
    now[0] = 30.1
    breaker.check()


def test_what_concerns_one_request_holds_back_no_other() -> None:
    breaker = Breaker()
    for error in (Invalid("no"), Forbidden(Ban.RBAC, "no"), Retry(Trouble.SERVER, "webhook")):
        breaker.failed(error)
        breaker.check()


def test_a_pause_that_is_asked_for_is_kept_but_not_for_ever() -> None:
    now = [0.0]
    breaker = Breaker(lambda: now[0])
    breaker.failed(Retry(Trouble.BUSY, "busy", after=1e9))
    now[0] = breakers.OBEYED - 1
    with pytest.raises(Retry):
        breaker.check()
    now[0] = breakers.OBEYED + 1
    breaker.check()


def test_pauses_grow_to_a_minute() -> None:
    assert backoff(1) <= 1 <= 1.5 <= backoff(2) <= 2
    assert all(45 <= backoff(n) <= 60 for n in (7, 50, 100_000))


# keys


def test_a_clients_key_is_never_a_file(keys: Keys, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    before = set(Path("/tmp").iterdir())
    client = Client(Credential("https://127.0.0.1:1", keys.ca, certificate=keys.certificate, key=keys.key))
    with pytest.raises(Retry):
        client.get(PODS)
    client.close()
    assert list(tmp_path.iterdir()) == []
    assert not [each for each in set(Path("/tmp").iterdir()) - before if "cert" in each.name]
    assert len(os.listdir("/proc/self/fd")) < 200


def test_without_memory_files_nothing_is_left_behind(
    keys: Keys, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delattr(os, "memfd_create", raising=False)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    tls.context(keys.ca, keys.certificate, keys.key)
    with pytest.raises(ValueError, match="cannot be used together"):
        tls.context(keys.ca, keys.ca, keys.key)
    assert list(tmp_path.iterdir()) == []


def test_signs_in_by_certificate_and_checks_the_server(keys: Keys) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cadata=keys.ca)
    context.load_cert_chain(keys.server_certificate, keys.server_key)
    context.verify_mode = ssl.CERT_REQUIRED
    listener = socket.create_server(("127.0.0.1", 0))
    seen: list[object] = []

    def serve() -> None:
        for _ in range(2):
            plain, _ = listener.accept()
            try:
                with context.wrap_socket(plain, server_side=True) as secure:
                    secure.recv(65536)
                    seen.append(secure.getpeercert())
                    body = json.dumps({"items": []}).encode()
                    secure.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
            except ssl.SSLError:
                plain.close()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    server = f"https://127.0.0.1:{listener.getsockname()[1]}"
    client = Client(Credential(server, keys.ca, certificate=keys.certificate, key=keys.key))
    assert client.get(PODS) == {"items": []}
    assert "client" in str(seen)
    client.close()
    stranger = Client(Credential(server, certificate=keys.certificate, key=keys.key))  # the system's authorities
    with pytest.raises(Retry) as raised:
        stranger.get(PODS)
    assert raised.value.trouble is Trouble.TLS
    stranger.close()
    listener.close()
    thread.join(5)


def test_a_key_with_a_password_asks_nobody(keys: Keys) -> None:
    done = subprocess.run(
        ["openssl", "rsa", "-aes128", "-passout", "pass:secret"],
        input=keys.key.encode(),
        capture_output=True,
        check=True,
    )
    with pytest.raises(ValueError, match="cannot be used together"):
        tls.context(keys.ca, keys.certificate, done.stdout.decode())


def test_who_has_no_such_cluster_does_not_carry_the_package() -> None:
    script = (
        "import sys, app.cluster.kubernetes.cluster, app.cluster.kubernetes.logs; "
        "assert not {'kubernetes', 'urllib3'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_one_module_alone_imports_the_package() -> None:
    folder = Path(clients.__file__).parent.parent.parent
    importing = [path for path in folder.rglob("*.py") if "from kubernetes" in path.read_text()]
    assert importing == [Path(clients.__file__)]
