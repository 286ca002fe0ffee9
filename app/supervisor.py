"""Starts web and worker, starts them again when they die, and takes them along when it ends.

Standard library only, run by path: `serve` turns into this with exec, so that it costs a few megabytes and no bug of
the portal can end it. Children get SIGTERM from the kernel when this process is killed.
"""

from __future__ import annotations

import contextlib
import ctypes
import http.client
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
PR_SET_PDEATHSIG = 1
STEADY = 30.0  # seconds after which a child that dies counts as having worked
PAUSE_MAX = 30.0  # seconds between tries at most
GRACE = 25.0  # seconds that children have to end


class Child:
    def __init__(self, name: str) -> None:
        self.name = name
        self.process: subprocess.Popen[bytes] | None = None
        self.began = 0.0
        self.not_before = 0.0
        self.pause = 0.5

    def start(self, environment: dict[str, str]) -> None:
        parent = os.getpid()

        def die_with_parent() -> None:
            ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
            signal.pthread_sigmask(signal.SIG_SETMASK, [])
            if os.getppid() != parent:  # it died before the line above
                os._exit(1)

        self.began = time.monotonic()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "flask", "--app", "wsgi", self.name],
            cwd=REPOSITORY,
            env=environment,
            stdin=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C goes to the supervisor alone, which ends them in order
            preexec_fn=die_with_parent if sys.platform == "linux" else None,  # noqa: PLW1509 - it has no threads
        )

    def look(self) -> None:
        """Note a death, and when to try again."""
        if self.process is None or self.process.poll() is None:
            return
        status = self.process.returncode
        if time.monotonic() - self.began > STEADY:
            self.pause = 0.5
        say(f"{self.name} ended with status {status}; starting it again in {self.pause:g} s")
        self.not_before = time.monotonic() + self.pause
        self.pause = min(PAUSE_MAX, self.pause * 2)
        self.process = None

    def end(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()


def say(text: str) -> None:
    if os.environ.get("LOG_FORMAT") == "json":
        at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        line = json.dumps({"time": at, "level": "INFO", "logger": "simpletrain.supervisor", "message": text})
    else:
        line = f"simpletrain: {text}"
    with contextlib.suppress(OSError):  # it may go to a file on a full disk: that is no reason to end everything
        print(line, file=sys.stderr, flush=True)


def serves(port: int, bind: str) -> bool:
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(bind, bind)  # noqa: S104 - these mean: every address
    connection = http.client.HTTPConnection(host, port, timeout=2)
    try:
        connection.request("GET", "/healthz", headers={"Host": "127.0.0.1"})
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def main() -> int:
    port, bind = int(sys.argv[1]), sys.argv[2]
    environment = dict(os.environ)
    link = environment.pop("SIMPLETRAIN_LINK", "")
    lock = int(environment.pop("SIMPLETRAIN_LOCK"))
    os.set_inheritable(lock, False)
    os.environ.pop("SIMPLETRAIN_LINK", None)

    ending = False
    signals = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD}
    signal.signal(signal.SIGCHLD, lambda *_: None)  # only so that it can be waited for
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)

    children = [Child("web"), Child("worker")]
    announced = False
    while not ending:
        for child in children:
            child.look()
            if child.process is None and time.monotonic() >= child.not_before:
                child.start(environment)
        if not announced and serves(port, bind):
            announced = True
            print(f"Sign in: {link}" if link else f"simpletrain: serving on port {port}", flush=True)
        due = [child.not_before - time.monotonic() for child in children if child.process is None]
        wait = 0.1 if not announced else max(0.01, min([60.0, *due]))
        got = signal.sigtimedwait(signals, wait)
        ending = got is not None and got.si_signo != signal.SIGCHLD

    say("stopping")
    for child in children:
        child.end()
    deadline = time.monotonic() + GRACE
    for child in children:
        if child.process is not None:
            try:
                child.process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                child.process.kill()
                child.process.wait()
    return 0


if __name__ == "__main__":
    sys.exit(main())
