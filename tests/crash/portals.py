"""A portal of real processes in a folder of its own, with everything that a test may do to it."""

from __future__ import annotations

import contextlib
import http.client
import http.cookiejar
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from flask.testing import FlaskClient

from app.cluster.local.shim.locks import holder
from app.database import db
from app.jobs.models import Job
from tests.conftest import Portal

T = TypeVar("T")
REPOSITORY = Path(__file__).parents[2]
# seconds; only ever waited for when something is wrong, or the machine is very busy
PATIENCE = float(os.environ.get("CRASH_PATIENCE", "90"))
FINAL = ("succeeded", "failed", "cancelled", "lost")


def wait_for(look: Callable[[], T | None], what: Any = "it", patience: float = PATIENCE, every: float = 0.02) -> T:
    """The first true answer of `look`."""
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        if answer := look():
            return answer
        time.sleep(every)
    told = what() if callable(what) else what
    raise AssertionError(f"{told}: not within {patience:g} s")


def free_port() -> int:
    """Free now, and out of the range from which the kernel gives ports, so that no other test's client takes it."""
    while True:
        port = 20_000 + int.from_bytes(os.urandom(2), "big") % 10_000
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port


@dataclass
class Answer:
    status: int
    headers: Any
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def _hear_ctrl_c() -> None:
    """Whoever runs the tests in the background ignores it, and children inherit that."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class Process:
    """One of the portal's processes, with what it says kept in a file."""

    def __init__(self, arguments: list[str], environment: dict[str, str], log: Path) -> None:
        self.log = log
        self.began = time.monotonic()
        with open(log, "ab") as out:
            self.popen = subprocess.Popen(
                arguments,
                cwd=REPOSITORY,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=_hear_ctrl_c,  # noqa: PLW1509 - it only calls the kernel
            )

    @property
    def pid(self) -> int:
        return self.popen.pid

    @property
    def alive(self) -> bool:
        return self.popen.poll() is None

    def said(self) -> str:
        return self.log.read_text(errors="replace")

    def kill(self) -> None:
        self.popen.kill()
        self.popen.wait()

    def ended(self, patience: float = PATIENCE) -> int:
        """Its status, once it has ended."""
        try:
            return self.popen.wait(patience)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it does not end:\n{self.said()[-4000:]}") from None


class Served:
    """A portal's folder, settings and processes. Knows people by their tokens and speaks HTTP to it."""

    def __init__(self, folder: Path, **settings: str) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.data = folder / "data"
        self.port = free_port()
        self.settings = settings
        self.processes: list[Process] = []
        self.main: Process | None = None
        self.token = ""
        self.inside: FlaskClient | None = None  # answers requests where a test runs no web process
        self.portal: Portal  # the same folder, looked at from this process
        self.work = folder / "work"
        self.work.mkdir(exist_ok=True)
        self._logs = 0

    @property
    def environment(self) -> dict[str, str]:
        kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}
        return {
            **kept,
            "DATA_DIR": str(self.data),
            "PORT": str(self.port),
            "LOCAL_SLOTS": "16",
            "LOCAL_WORKDIR": str(self.work),
            "LOCAL_GRACE": "20",
            "LOCAL_DISK_FLOOR": "0",
            "API_RATE": "0",
            **self.settings,
        }

    # processes

    def begin(self, *arguments: str, **more: str) -> Process:
        """Start one of the portal's commands."""
        self._logs += 1
        process = Process(
            [sys.executable, "-m", "flask", "--app", "wsgi", *arguments],
            {**self.environment, **more},
            self.folder / f"{self._logs}-{arguments[0]}.out",
        )
        self.processes.append(process)
        return process

    def serve(self, **more: str) -> Process:
        """Start it all; returns when it serves."""
        self.main = self.begin("serve", **more)
        self.until_serving(self.main)
        return self.main

    def until_serving(self, process: Process) -> str:
        """What it says once it serves: a sign-in link, or the port where there is no operator to sign in."""

        def look() -> str | None:
            assert process.alive, f"it ended:\n{process.said()}"
            found = re.search(r"^(?:Sign in: |simpletrain: serving on port )(\S+)$", process.said(), re.MULTILINE)
            return found[1] if found else None

        return wait_for(look, lambda: f"serving:\n{process.said()}")

    def worker(self, fault: str = "", **more: str) -> Process:
        """A worker alone, which may be made to die at a named point."""
        return self.begin("worker", **({"SIMPLETRAIN_FAULT": fault} if fault else {}), **more)

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """One of the operator's commands."""
        return subprocess.run(
            [sys.executable, "-m", "flask", "--app", "wsgi", *arguments],
            cwd=REPOSITORY,
            env=self.environment,
            check=False,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )

    def child(self, name: str) -> int:
        """The process id of web or worker, as a child of the supervisor; waits until there is one."""
        assert self.main is not None
        parent = self.main.pid

        def look() -> int | None:
            for pid in children(parent):
                command = arguments_of(pid)
                if (name == "worker" and command[-1:] == ["worker"]) or (name == "web" and "gunicorn" in command):
                    return pid
            return None

        return wait_for(look, f"a process {name}")

    def kill(self, name: str) -> int:
        """kill -9 of web, worker or supervisor; which process it was."""
        assert self.main is not None
        if name == "supervisor":
            self.main.kill()
            return self.main.pid
        pid = self.child(name)
        kill(pid)
        wait_for(lambda: gone(pid), f"the end of {name}")
        return pid

    def portal_processes(self) -> list[int]:
        """All that run the portal itself on this folder: not jobs, not their supervisors."""
        wanted = f"DATA_DIR={self.data}".encode()
        return [pid for pid in all_processes() if wanted in environment_of(pid)]

    def until_all_gone(self) -> None:
        wait_for(lambda: not self.portal_processes(), lambda: f"the end of {describe(self.portal_processes())}")

    def kill_all(self) -> None:
        """kill -9 of everything of the portal, children that were born meanwhile included. Jobs go on."""
        while found := self.portal_processes():
            for pid in found:
                kill(pid)
        if self.main is not None:
            self.main.popen.wait()

    # people

    def sign_in(self, link: str) -> Any:
        """Somebody's browser."""
        jar = http.cookiejar.CookieJar()
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPCookieProcessor(jar))
        with opener.open(link, timeout=30) as answer:
            assert answer.status == 200
        return opener

    def make_token(self) -> str:
        """By the operator's command, for the account that the first run made."""
        import getpass

        done = self.command("tokens", "create", f"{getpass.getuser()}@localhost")
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def request(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None, timeout: float = 30
    ) -> Answer:
        sent = {"Authorization": f"Bearer {self.token}", **(headers or {})}
        content = json.dumps(body) if body is not None else None
        if content is not None:
            sent["Content-Type"] = "application/json"
        if self.inside is not None:
            told = self.inside.open(path, method=method, headers=sent, data=content)
            return Answer(told.status_code, told.headers, told.data)
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            connection.request(method, path, content, sent)
            answer = connection.getresponse()
            return Answer(answer.status, answer.headers, answer.read())
        finally:
            connection.close()

    def launch(self, name: str, command: str | list[str], **fields: Any) -> Any:
        answer = self.request("POST", "/api/jobs", {"preset": "plain", "name": name, "command": command, **fields})
        assert answer.status == 201, answer.body
        return answer.json

    def job(self, name: str) -> Any:
        """A job as the API tells it; while the web starts again, that is waited for."""

        def ask() -> Answer | None:
            with contextlib.suppress(OSError, http.client.HTTPException):
                return self.request("GET", f"/api/jobs/{name}")
            return None

        answer = wait_for(ask, "an answer of the web")
        assert answer.status == 200, answer.body
        return answer.json

    def until(self, name: str, *states: str) -> Any:
        def look() -> Any:
            job = self.job(name)
            if job["state"] in states:
                return job
            assert job["state"] not in FINAL, job
            return None

        return wait_for(look, lambda: f"{name} {states}: {self.job(name)}\n{self.said()}", every=0.05)

    def stop(self, name: str) -> None:
        assert self.request("DELETE", f"/api/jobs/{name}").status == 202

    def log(self, name: str, rank: int = 0) -> tuple[bytes, str]:
        """All bytes of a complete log, as the API gives them, and where some are missing."""
        parts: list[bytes] = []
        gaps: list[str] = []
        cursor = ""

        def read() -> bool:
            nonlocal cursor
            since = f"&since={cursor}" if cursor else ""
            answer = self.request("GET", f"/api/jobs/{name}/logs?rank={rank}{since}")
            assert answer.status == 200, answer.body
            assert len(answer.body) <= 1 << 20
            cursor = answer.headers["Log-Cursor"]
            parts.append(answer.body)
            if "Log-Gap" in answer.headers:
                gaps.append(answer.headers["Log-Gap"])
            return bool(answer.headers.get("Log-Complete") == "true")

        wait_for(read, lambda: f"the end of the log of {name}: {b''.join(parts)[-300:]!r}\n{self.said()}")
        return b"".join(parts), ", ".join(dict.fromkeys(", ".join(gaps).split(", "))) if gaps else ""

    def said(self) -> str:
        return "\n".join(f"--- {process.log.name}\n{process.said()[-3000:]}" for process in self.processes)

    # jobs

    def counted(self, name: str, then: str) -> str:
        """A command that writes a line to a file each time it starts: more than one line, and it ran twice."""
        return f"echo $$ >> {shlex.quote(str(self.work / f'{name}.began'))}; {then}"

    def times_begun(self, name: str) -> int:
        began = self.work / f"{name}.began"
        return len(began.read_text().splitlines()) if began.exists() else 0

    def open_gate(self, name: str) -> None:
        (self.work / f"{name}.gate").touch()

    def gated(self, name: str, first: str, then: str) -> str:
        """A command that does the first thing, and the second once the test opens the gate."""
        gate = shlex.quote(str(self.work / f"{name}.gate"))
        return self.counted(name, f"{first}; while [ ! -e {gate} ]; do sleep 0.1; done; {then}")

    def printed(self, name: str, rank: int = 0) -> bytes:
        """What a job has printed so far, from the file that its supervisor keeps."""
        with self.portal.app.app_context():
            uid = db.session.query(Job.uid).filter_by(name=name).scalar()
        try:
            return (self.data / "local" / f"{uid}-a1" / f"rank-{rank}.log").read_bytes()
        except FileNotFoundError:
            return b""

    def shims(self) -> dict[str, int]:
        """The supervisors of attempts that live: folder name to process id."""
        found = {}
        for folder in (self.data / "local").glob("*-a*"):
            pid = holder(str(folder))
            if pid is not None and pid > 0:
                found[folder.name] = pid
        return found

    def job_processes(self) -> list[int]:
        """The processes of jobs, by the place of their attempt in their environment."""
        wanted = f":{self.data}/local/".encode()
        return [
            pid
            for pid in all_processes()
            if any(each.startswith(b"SIMPLETRAIN_ATTEMPT_ID=") and wanted in each for each in environment_of(pid))
        ]

    def clean_up(self) -> None:
        self.kill_all()
        for process in self.processes:
            if process.alive:
                process.kill()
        deadline = time.monotonic() + 30
        while (found := [*self.shims().values(), *self.job_processes()]) and time.monotonic() < deadline:
            for pid in found:
                kill(pid)


# processes of this machine


def all_processes() -> Iterator[int]:
    return (int(name) for name in os.listdir("/proc") if name.isdigit())


def environment_of(pid: int) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return []


def arguments_of(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").rstrip("\0").split("\0")
    except OSError:
        return []


def parent_of(pid: int) -> int:
    try:
        line = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return 0
    return int(line[line.rindex(b")") + 2 :].split()[1])


def children(parent: int) -> list[int]:
    return [pid for pid in all_processes() if parent_of(pid) == parent]


def describe(pids: list[int]) -> list[str]:
    return [f"{pid}: {' '.join(arguments_of(pid))}" for pid in pids]


def kill(pid: int, number: int = signal.SIGKILL) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def gone(pid: int) -> bool:
    """Ended, or a zombie that nobody has waited for."""
    try:
        line = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return True
    return line[line.rindex(b")") + 2 :].split()[0] in (b"Z", b"X")


def in_thread(work: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=work)
    thread.start()
    return thread
