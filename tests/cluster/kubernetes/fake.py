"""An API server in this process: pages, watches with bookmarks, logs as a kubelet serves them, and scripted faults.

It proves what the client does, not what a real server does; tests/real has that. No controller runs in it: a test says
what happens to a Job and its pods.
"""

from __future__ import annotations

import base64
import copy
import gzip
import itertools
import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

Object = dict[str, Any]

PATH = re.compile(r"(?P<prefix>/api/v1|/apis/batch/v1)(/namespaces/(?P<namespace>[^/]+))?/(?P<kind>[a-z]+)"
                  r"(/(?P<name>[^/]+))?(/(?P<sub>log))?")  # fmt: skip
KINDS = {"jobs": ("batch/v1", "Job"), "pods": ("v1", "Pod"), "services": ("v1", "Service"), "events": ("v1", "Event"),
         "nodes": ("v1", "Node")}  # fmt: skip
NAMESPACE = "lab"


@dataclass(frozen=True)
class Request:
    verb: str  # get, list, watch, create, patch, delete, log
    kind: str
    name: str
    query: dict[str, str]
    headers: dict[str, str]
    body: Object | None
    at: float = field(default_factory=time.monotonic)


Fault = Callable[["Handler", Request], bool]  # whether the request is answered by that


@dataclass
class Script:
    verb: str
    kind: str
    fault: Fault
    times: float
    when: Callable[[Request], bool]


@dataclass
class Entry:
    """A line of a container's log file: of a whole line of output, or a part of one."""

    time: int  # nanoseconds
    data: bytes


class Log:
    """What a kubelet has of one container. Its file can be exchanged; only the newest is served."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.entries: list[Entry] = []
        self.ended = False
        self.file = 0
        self.words: bytes | None = None  # the kubelet's own, instead of the log
        self.cuts: list[int] = []  # bytes after which an answer breaks off, each once
        self.short: list[int] = []  # bytes after which an answer ends as if it were whole, each once
        self.follow_ends_on_rotation = False
        self.withholds_the_tail = True  # from those who follow, if it has no end of line

    def write(self, data: bytes, time_ns: int | None = None) -> None:
        with self.changed:
            self.entries.append(Entry(time_ns if time_ns is not None else time.time_ns(), data))
            self.changed.notify_all()

    def end(self) -> None:
        with self.changed:
            self.ended = True
            self.changed.notify_all()

    def rotate(self) -> None:
        with self.changed:
            self.entries = []
            self.file += 1
            self.changed.notify_all()

    def serve(self, since: int | None, follow: bool) -> Iterator[bytes]:
        at, file, fresh_line = 0, self.file, True
        while True:
            with self.changed:
                if file != self.file:
                    if self.follow_ends_on_rotation:
                        return
                    at, file = 0, self.file
                if at >= len(self.entries):
                    if self.ended or not follow:
                        return
                    self.changed.wait(0.05)
                    if at >= len(self.entries):
                        yield b""
                        continue
                new, ended = self.entries[at:], self.ended
                at += len(new)
            out = []
            for number, entry in enumerate(new):
                tail = ended and number == len(new) - 1 and not entry.data.endswith(b"\n")
                if since is not None and entry.time // 10**9 < since:
                    pass
                elif not (follow and tail and self.withholds_the_tail):
                    out.append((stamp(entry.time) + b" " if fresh_line else b"") + entry.data)
                fresh_line = entry.data.endswith(b"\n")
            yield b"".join(out)


def stamp(time_ns: int) -> bytes:
    second, rest = divmod(time_ns, 10**9)
    return f"{datetime.fromtimestamp(second, UTC):%Y-%m-%dT%H:%M:%S}.{rest:09d}Z".encode()


class FakeKubernetes:
    def __init__(self) -> None:
        self.lock = threading.Condition()
        self.objects: dict[tuple[str, str], Object] = {}  # (kind, name)
        self.history: list[tuple[int, str, str, Object, Object | None]] = []  # version, type, kind, new, old
        self.version = 100
        self.oldest = 100  # history before this is gone
        self.uids = itertools.count(1)
        self.requests: list[Request] = []
        self.scripts: list[Script] = []
        self.logs: dict[str, Log] = {}  # by pod
        self.tokens = {"good"}
        self.bookmark_every = 0.2  # seconds
        self.page = 500  # objects of a page at most, whatever is asked for
        self.stop_delay = 0.0
        self.open_sockets: set[socket.socket] = set()
        self.server = _Server(("127.0.0.1", 0), Handler)
        self.server.fake = self
        self._thread = threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True)

    @property
    def port(self) -> int:
        return int(self.server.server_address[1])

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> FakeKubernetes:
        self._thread.start()
        return self

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.cut_everything()
        with self.lock:
            self.lock.notify_all()

    def cut_everything(self) -> None:
        for each in list(self.open_sockets):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    @contextmanager
    def away(self) -> Iterator[None]:
        """Nobody listens at its address."""
        port = self.port
        self.server.shutdown()
        self.server.server_close()
        self.cut_everything()
        self._thread.join()
        yield
        self.server = _Server(("127.0.0.1", port), Handler)
        self.server.fake = self
        self._thread = threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    # faults

    def script(
        self, verb: str, kind: str, fault: Fault, times: float = 1, when: Callable[[Request], bool] = lambda _: True
    ) -> Script:
        made = Script(verb, kind, fault, times, when)
        with self.lock:
            self.scripts.append(made)
        return made

    def fault_for(self, request: Request) -> Fault | None:
        with self.lock:
            for script in self.scripts:
                meant = script.verb in (request.verb, "*") and script.kind in (request.kind, "*")
                if meant and script.times > 0 and script.when(request):
                    script.times -= 1
                    return script.fault
        return None

    def count(self, verb: str = "*", kind: str = "*") -> int:
        return len(self.asked(verb, kind))

    def asked(self, verb: str = "*", kind: str = "*") -> list[Request]:
        with self.lock:
            return [r for r in self.requests if verb in (r.verb, "*") and kind in (r.kind, "*")]

    # what other hands do

    def put(self, kind: str, found: Object, quiet: bool = False) -> Object:
        """Create it, or write it anew. `quiet`: without telling those who watch."""
        with self.lock:
            name = found["metadata"]["name"]
            old = self.objects.get((kind, name))
            made = copy.deepcopy(found)
            api, word = KINDS[kind]
            made = {"apiVersion": api, "kind": word, **made}
            metadata = made["metadata"]
            metadata.setdefault("namespace", NAMESPACE)
            metadata.setdefault("uid", old["metadata"]["uid"] if old else f"uid-{next(self.uids)}")
            metadata.setdefault("creationTimestamp", f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}")
            metadata["managedFields"] = [{"manager": "fake", "fieldsV1": {"f:spec": {}}}]
            self._write(kind, name, made, old, quiet)
            return copy.deepcopy(made)

    def change(self, kind: str, name: str, by: Callable[[Object], object], quiet: bool = False) -> Object:
        with self.lock:
            found = copy.deepcopy(self.objects[kind, name])
            by(found)
            return self.put(kind, found, quiet)

    def take_away(self, kind: str, name: str, quiet: bool = False) -> None:
        with self.lock:
            old = self.objects.pop((kind, name))
            self.version += 1
            gone = copy.deepcopy(old)
            gone["metadata"]["resourceVersion"] = str(self.version)
            if not quiet:
                self.history.append((self.version, "DELETED", kind, gone, old))
            self.lock.notify_all()

    def _write(self, kind: str, name: str, made: Object, old: Object | None, quiet: bool) -> None:
        self.version += 1
        made["metadata"]["resourceVersion"] = str(self.version)
        self.objects[kind, name] = made
        if not quiet:
            self.history.append((self.version, "MODIFIED" if old else "ADDED", kind, made, old))
        self.lock.notify_all()

    def compact(self) -> None:
        """Forget the history: who watches from before now has to list."""
        with self.lock:
            self.oldest = self.version + 1
            self.version += 1
            self.history.clear()
            self.lock.notify_all()

    def restore(self, version: int, objects: dict[tuple[str, str], Object]) -> None:
        """From a backup: versions go back, and no event tells of it."""
        with self.lock:
            self.version, self.objects, self.history, self.oldest = version, dict(objects), [], 0

    def get(self, kind: str, name: str) -> Object | None:
        with self.lock:
            return copy.deepcopy(self.objects.get((kind, name)))

    def all(self, kind: str) -> list[Object]:
        with self.lock:
            return [copy.deepcopy(each) for (k, _), each in self.objects.items() if k == kind]

    def log(self, pod: str) -> Log:
        return self.logs.setdefault(pod, Log())


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True
    block_on_close = False
    request_queue_size = 128
    fake: FakeKubernetes

    def handle_error(self, request: object, client_address: object) -> None:
        pass  # a client that goes away is what many tests are about


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def setup(self) -> None:
        super().setup()
        self.server.fake.open_sockets.add(self.connection)

    def finish(self) -> None:
        self.server.fake.open_sockets.discard(self.connection)
        with suppress(OSError):
            super().finish()

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        self._serve("get")

    def do_POST(self) -> None:
        self._serve("create")

    def do_PATCH(self) -> None:
        self._serve("patch")

    def do_DELETE(self) -> None:
        self._serve("delete")

    def _serve(self, verb: str) -> None:
        fake = self.server.fake
        url = urlsplit(self.path)
        query = {key: values[0] for key, values in parse_qs(url.query).items()}
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length)) if length else None
        found = PATH.fullmatch(unquote(url.path))
        if found is None:
            self.refuse(404, "NotFound", "the server could not find the requested resource")
            return
        kind, name = found["kind"], found["name"] or ""
        if verb == "get":
            verb = "log" if found["sub"] else "get" if name else "watch" if query.get("watch") == "true" else "list"
        request = Request(verb, kind, name, query, dict(self.headers.items()), body)
        with fake.lock:
            fake.requests.append(request)
        fault = fake.fault_for(request)
        if fault is not None and fault(self, request):
            return
        if self.headers.get("Authorization", "").removeprefix("Bearer ") not in fake.tokens:
            self.refuse(401, "Unauthorized", "Unauthorized")
            return
        if verb in ("create", "patch") and query.get("fieldValidation") != "Strict":
            self.refuse(400, "BadRequest", "the fake wants fieldValidation=Strict")
            return
        getattr(self, f"_{verb}")(request)

    # answers

    def refuse(self, code: int, reason: str, message: str, details: Object | None = None, **headers: str) -> None:
        status = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": message, "reason": reason,
                  "code": code, "details": details or {}}  # fmt: skip
        self.reply(code, json.dumps(status).encode(), {key.replace("_", "-"): value for key, value in headers.items()})

    def reply(self, code: int, data: bytes, headers: dict[str, str] | None = None) -> None:
        if "gzip" in self.headers.get("Accept-Encoding", "") and len(data) > 1000:
            data = gzip.compress(data, 1)
            headers = {**(headers or {}), "Content-Encoding": "gzip"}
        self.send_response(code)
        for key, value in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def cut(self) -> None:
        self.close_connection = True
        with suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)

    def begin_chunks(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()

    def chunk(self, data: bytes) -> None:
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
        self.wfile.flush()

    def end_chunks(self) -> None:
        self.wfile.write(b"0\r\n\r\n")
        self.wfile.flush()

    # verbs

    def _get(self, request: Request) -> None:
        found = self.server.fake.get(request.kind, request.name)
        if found is None:
            self._not_found(request)
        else:
            self.reply(200, json.dumps(found).encode())

    def _not_found(self, request: Request) -> None:
        self.refuse(404, "NotFound", f'{request.kind} "{request.name}" not found', {"kind": request.kind})

    def _list(self, request: Request) -> None:
        fake = self.server.fake
        with fake.lock:
            start, version = 0, fake.version
            if token := request.query.get("continue"):
                version, start = json.loads(base64.b64decode(token))
                if version < fake.oldest:
                    self.refuse(410, "Expired", "The provided continue parameter is too old")
                    return
            matching = [each for (kind, _), each in sorted(fake.objects.items())
                        if kind == request.kind and selected(each, request.query)]  # fmt: skip
            size = min(int(request.query.get("limit") or fake.page), fake.page)
            items = copy.deepcopy(matching[start : start + size])
            metadata = {"resourceVersion": str(version)}
            if len(matching) > start + size:
                metadata["continue"] = base64.b64encode(json.dumps([version, start + size]).encode()).decode()
        self.reply(200, json.dumps({"kind": "List", "metadata": metadata, "items": items}).encode())

    def _watch(self, request: Request, frames: float = float("inf")) -> None:
        """`frames`: after so many it returns, with the answer open."""
        fake = self.server.fake
        at = int(request.query["resourceVersion"])
        if at + 1 < fake.oldest:
            self.refuse(410, "Expired", f"too old resource version: {at}")
            return
        if at > fake.version:
            causes = [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}]
            self.refuse(504, "Timeout", "Too large resource version", {"causes": causes})
            return
        self.begin_chunks()
        sent = 0.0
        bookmark = time.monotonic() + fake.bookmark_every
        end = time.monotonic() + float(request.query["timeoutSeconds"])
        while time.monotonic() < end and sent < frames:
            with fake.lock:
                if at + 1 < fake.oldest:
                    status = {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old"}
                    events = [{"type": "ERROR", "object": status}]
                    end = 0
                else:
                    news = [each for each in fake.history if each[0] > at and each[2] == request.kind]
                    events = [event for each in news if (event := event_for(each, request.query)) is not None]
                    at = max(at, fake.version)
                if not events and time.monotonic() < bookmark:
                    fake.lock.wait(0.02)
                    continue
            if time.monotonic() >= bookmark and request.query.get("allowWatchBookmarks") == "true":
                events.append({"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": str(at)}}})
                bookmark = time.monotonic() + fake.bookmark_every
            for event in events:
                self.chunk(json.dumps(event).encode() + b"\n")
                sent += 1
        if sent < frames:
            self.end_chunks()

    def _create(self, request: Request) -> None:
        fake = self.server.fake
        assert request.body is not None
        name = request.body["metadata"]["name"]
        with fake.lock:
            old = fake.objects.get((request.kind, name))
            if old is not None:
                leaving = "object is being deleted: " if old["metadata"].get("deletionTimestamp") else ""
                self.refuse(409, "AlreadyExists", f'{leaving}{request.kind} "{name}" already exists')
                return
            made = fake.put(request.kind, request.body)
        self.reply(201, json.dumps(made).encode())

    def _patch(self, request: Request) -> None:
        fake = self.server.fake
        assert request.body is not None
        with fake.lock:
            found = fake.get(request.kind, request.name)
            if found is None:
                self._not_found(request)
                return
            patch = copy.deepcopy(request.body)
            if patch.get("metadata", {}).get("uid", found["metadata"]["uid"]) != found["metadata"]["uid"]:
                self.refuse(409, "Conflict", "Precondition failed: UID in precondition")
                return
            found["metadata"] |= patch.pop("metadata", {})
            made = fake.put(request.kind, found | patch)
        self.reply(200, json.dumps(made).encode())

    def _delete(self, request: Request) -> None:
        fake = self.server.fake
        with fake.lock:
            found = fake.get(request.kind, request.name)
            if found is None:
                self._not_found(request)
                return
            wanted = (request.body or {}).get("preconditions", {}).get("uid")
            if wanted and wanted != found["metadata"]["uid"]:
                self.refuse(409, "Conflict", "Precondition failed: UID in precondition")
                return
            uid = found["metadata"]["uid"]
            pods = [pod for pod in fake.all("pods") if any(
                owner.get("uid") == uid for owner in pod["metadata"].get("ownerReferences", []))]  # fmt: skip
            if (request.body or {}).get("propagationPolicy") == "Foreground" and pods:

                def leave(job: Object) -> None:
                    job["metadata"]["deletionTimestamp"] = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"

                fake.change(request.kind, request.name, leave)  # a test lets the pods go
            else:
                fake.take_away(request.kind, request.name)
        self.reply(200, json.dumps({"kind": "Status", "status": "Success"}).encode())

    def _log(self, request: Request) -> None:
        fake = self.server.fake
        pod = fake.get("pods", request.name)
        if pod is None:
            self._not_found(request)
            return
        states = pod.get("status", {}).get("containerStatuses") or [{}]
        if not {"running", "terminated"} & states[0].get("state", {}).keys():
            self.refuse(400, "BadRequest", f'container "main" in pod "{request.name}" is waiting to start')
            return
        log = fake.log(request.name)
        since = request.query.get("sinceTime")
        second = int(datetime.fromisoformat(since).timestamp()) if since else None
        cut = log.cuts.pop(0) if log.cuts else None
        short = log.short.pop(0) if log.short else None
        self.begin_chunks()
        sent = 0
        if log.words is not None:
            self.chunk(log.words)
            self.end_chunks()
            return
        for data in log.serve(second, request.query.get("follow") == "true"):
            if not data:
                if (request.name and fake.get("pods", request.name)) is None:
                    break
                continue
            limit = cut if cut is not None else short
            if limit is not None and sent + len(data) >= limit:
                if data[: limit - sent]:
                    self.chunk(data[: limit - sent])
                if cut is not None:
                    self.cut()
                    return
                break
            self.chunk(data)
            sent += len(data)
        self.end_chunks()


def selected(found: Object, query: dict[str, str]) -> bool:
    labels = found["metadata"].get("labels") or {}
    for term in filter(None, query.get("labelSelector", "").split(",")):
        key, _, value = term.partition("=")
        if labels.get(key) != value:
            return False
    for term in filter(None, query.get("fieldSelector", "").split(",")):
        path, _, value = term.partition("=")
        at: Any = found
        for part in path.split("."):
            at = at.get(part, {}) if isinstance(at, dict) else {}
        if at != value:
            return False
    return True


def event_for(change: tuple[int, str, str, Object, Object | None], query: dict[str, str]) -> Object | None:
    """As the API server tells it: who loses the label that is watched for is DELETED."""
    version, word, _, new, old = change
    was, is_ = old is not None and selected(old, query), selected(new, query)
    if word == "DELETED":
        return {"type": "DELETED", "object": new} if was else None
    if is_:
        return {"type": "MODIFIED" if was else "ADDED", "object": new}
    if was and old is not None:
        shown = copy.deepcopy(old)
        shown["metadata"]["resourceVersion"] = str(version)
        return {"type": "DELETED", "object": shown}
    return None


# faults


def status(code: int, reason: str = "", message: str = "", details: Object | None = None, **headers: str) -> Fault:
    def fault(handler: Handler, request: Request) -> bool:
        handler.refuse(code, reason, message, details, **headers)
        return True

    return fault


def raw(code: int, data: bytes, **headers: str) -> Fault:
    def fault(handler: Handler, request: Request) -> bool:
        handler.reply(code, data, {key.replace("_", "-"): value for key, value in headers.items()})
        return True

    return fault


def lost_reply(handler: Handler, request: Request) -> bool:
    """What is asked for happens, and the answer gets lost."""
    silent = Handler.reply
    handler.reply = lambda code, data, headers=None: handler.cut()  # type: ignore[method-assign]
    try:
        getattr(handler, f"_{request.verb}")(request)
    finally:
        handler.reply = silent.__get__(handler)  # type: ignore[method-assign]
    return True


def late(seconds: float) -> Fault:
    """The connection is cut at once, and what was asked for happens later."""

    def fault(handler: Handler, request: Request) -> bool:
        fake = handler.server.fake

        def happen() -> None:
            with fake.lock:
                assert request.body is not None
                if (request.kind, request.body["metadata"]["name"]) not in fake.objects:
                    fake.put(request.kind, request.body)

        threading.Timer(seconds, happen).start()
        handler.cut()
        return True

    return fault


def cut(handler: Handler, request: Request) -> bool:
    handler.cut()
    return True


def hang(seconds: float) -> Fault:
    def fault(handler: Handler, request: Request) -> bool:
        time.sleep(seconds)
        handler.cut()
        return True

    return fault


def half_open(seconds: float) -> Fault:
    """The answer begins, and then no byte comes any more."""

    def fault(handler: Handler, request: Request) -> bool:
        handler.begin_chunks()
        time.sleep(seconds)
        handler.cut()
        return True

    return fault


def drip(seconds: float) -> Fault:
    def fault(handler: Handler, request: Request) -> bool:
        handler.send_response(200)
        handler.send_header("Content-Length", "100000")
        handler.end_headers()
        end = time.monotonic() + seconds
        with suppress(OSError):
            while time.monotonic() < end:
                handler.wfile.write(b" ")
                handler.wfile.flush()
                time.sleep(0.05)
        handler.cut()
        return True

    return fault


def frames(lines: list[bytes], then: str = "end") -> Fault:
    """A watch that says exactly this, and then ends, is cut, or says nothing more."""

    def fault(handler: Handler, request: Request) -> bool:
        handler.begin_chunks()
        for line in lines:
            handler.chunk(line)
        if then == "end":
            handler.end_chunks()
        elif then == "cut":
            handler.cut()
        else:
            time.sleep(float(then))
            handler.cut()
        return True

    return fault


def cut_mid_frame(after: int) -> Fault:
    """A watch that works for some frames, and breaks off inside the next."""

    def fault(handler: Handler, request: Request) -> bool:
        handler._watch(request, after)
        handler.chunk(b'{"type":"MODIFIED","object":{"metadata":{"uid":"uid-1","resourceVersion":"99')
        handler.cut()
        return True

    return fault


# what happens to a Job


def conditions(job: Object, kind: str, reason: str = "", message: str = "") -> None:
    job.setdefault("status", {}).setdefault("conditions", []).append(
        {"type": kind, "status": "True", "reason": reason, "message": message,
         "lastTransitionTime": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"})  # fmt: skip


def now() -> str:
    return f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"
