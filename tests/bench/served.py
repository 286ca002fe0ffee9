"""A portal with real processes, to be measured."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from app.config import REPOSITORY


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@dataclass
class Served:
    """`serve` on a folder: start, ask, look at its processes, stop."""

    folder: Path
    settings: dict[str, str] = field(default_factory=dict)
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[str] | None = None
    link: str = ""
    cookie: str = ""
    started_in: float = 0.0  # seconds from the start to the sign-in line

    @property
    def environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "LANG", "TMPDIR")}
        return {**kept, "DATA_DIR": str(self.folder), "PORT": str(self.port), "API_RATE": "0", **self.settings}

    def __enter__(self) -> Served:
        began = time.monotonic()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "flask", "--app", "wsgi", "serve"],
            cwd=REPOSITORY,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if found := re.match(r"Sign in: (http\S+)", line):
                self.link = found[1]
                break
        else:
            raise RuntimeError("the portal did not start")
        self.started_in = time.monotonic() - began
        return self

    def __exit__(self, *_: object) -> None:
        if self.process is not None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(40)

    def command(self, *arguments: str) -> str:
        return subprocess.run(
            [sys.executable, "-m", "flask", "--app", "wsgi", *arguments],
            cwd=REPOSITORY,
            env=self.environment,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()

    def browser(self) -> Client:
        """Signed in through the link of the start, which is good for once."""
        client = Client(self.port)
        if not self.cookie:
            answer = client.ask("GET", "/sign-in/" + self.link.rsplit("/", 1)[1])
            assert answer.status == 303, answer.status
            self.cookie = answer.headers["Set-Cookie"].split(";")[0]
        client.headers["Cookie"] = self.cookie
        client.headers["HX-Request"] = "true"  # as the fragments are asked for
        return client

    def api(self, email: str) -> Client:
        return Client(self.port, {"Authorization": f"Bearer {self.command('tokens', 'create', email)}"})

    def processes(self) -> list[int]:
        """serve, web and worker, with what gunicorn forked; not the jobs."""
        assert self.process is not None
        found = [self.process.pid]
        for pid in found:
            for task in Path(f"/proc/{pid}/task").iterdir():
                found += [int(child) for child in (task / "children").read_text().split()]
        return [pid for pid in found if b"shim" not in Path(f"/proc/{pid}/cmdline").read_bytes()]

    def web(self) -> list[int]:
        return [pid for pid in self.processes() if b"gunicorn" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def memory(pids: list[int]) -> int:
    """Proportional set size in bytes: shared pages count by their share."""
    total = 0
    for pid in pids:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                total += int(line.split()[1]) * 1024
    return total


def cpu(pids: list[int]) -> float:
    """Seconds of processor time used so far."""
    ticks = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


@dataclass
class Answer:
    status: int
    headers: Any
    body: bytes
    seconds: float

    def json(self) -> Any:
        return json.loads(self.body)


class Client:
    """One kept-alive connection."""

    def __init__(self, port: int, headers: dict[str, str] | None = None) -> None:
        self.port = port
        self.headers = headers or {}
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)

    def ask(self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> Answer:
        sent = {**self.headers, **(headers or {})}
        data = None
        if body is not None:
            data = json.dumps(body).encode()
            sent["Content-Type"] = "application/json"
        began = time.perf_counter()
        for last in (False, True):
            try:
                self._connection.request(method, path, data, sent)
                answer = self._connection.getresponse()
                break
            except (http.client.RemoteDisconnected, ConnectionError):
                self._connection.close()  # it was kept alive for too long
                if last:
                    raise
        read = answer.read()
        return Answer(answer.status, answer.headers, read, time.perf_counter() - began)
