"""One rank: how it is started, and what is known of its end."""

from __future__ import annotations

import errno
import os
import signal
import time

from . import linux
from .files import log_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

    from .records import RankBegin, RankEnd, Spec

# A rank gets these as any program expects them: the supervisor ignores some, and Python others.
TO_DEFAULT = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGPIPE, signal.SIGXFSZ, signal.SIGCHLD)
OOM_SCORE = b"500"  # when memory runs out, the job that took it goes before the portal and the desktop do


class CouldNotStart(Exception):
    """Carries a sentence for people."""


class Rank:
    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.started_at = time.time()
        self.finished_at: float | None = None
        self.exit_code: int | None = None
        self.signal = 0
        self.interrupted = False

    def ended(self, status: int, interrupted: bool) -> None:
        code = os.waitstatus_to_exitcode(status)
        self.signal = max(0, -code)
        self.exit_code = code if code >= 0 else 128 - code
        self.finished_at = time.time()
        self.interrupted = interrupted

    @property
    def failed(self) -> bool:
        return self.exit_code not in (None, 0)

    def beginning(self) -> RankBegin:
        return {"pid": self.pid, "at": self.started_at}

    def end(self) -> RankEnd:
        return {
            "started_at": self.started_at,
            "finished_at": self.finished_at,
            "exit_code": self.exit_code,
            "signal": self.signal,
            "interrupted": self.interrupted,
        }


def start(folder: str, spec: Spec, number: int) -> Rank:
    """Returns once the command itself runs. Raises CouldNotStart; then nothing of this rank is left but a zombie."""
    read_end, write_end = os.pipe()
    supervisor = os.getpid()
    pid = os.fork()
    if pid == 0:
        _become(folder, spec, number, supervisor, write_end)
    os.close(write_end)
    with os.fdopen(read_end, "rb") as report:
        problem = report.read()  # its other end closes by itself when the command takes over
    if problem:
        raise CouldNotStart(problem.decode(errors="replace"))
    return Rank(pid)


def _become(folder: str, spec: Spec, number: int, supervisor: int, report: int) -> NoReturn:
    """Turns this fork into the rank's command, or reports why not."""
    argv = spec["argv"]
    try:
        # A session of its own: `kill 0` in a script reaches this rank, not the supervisor or its neighbours.
        os.setsid()
        signal.set_wakeup_fd(-1)
        for each in TO_DEFAULT:
            signal.signal(each, signal.SIG_DFL)
        linux.die_with_parent(signal.SIGKILL)
        if os.getppid() != supervisor:
            os._exit(1)  # it died before the line above
        _prefer_for_oom()
        output = os.open(os.path.join(folder, log_of(number)), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        os.dup2(output, 1)
        os.dup2(output, 2)
        try:
            os.chdir(spec["workdir"])
        except OSError as problem:
            _give_up(report, f"The folder {spec['workdir']} cannot be entered: {os.strerror(problem.errno or 0)}.")
        os.execvpe(argv[0], argv, spec["ranks"][number])  # noqa: S606 - the child becomes the command, without a shell between
    except OSError as problem:
        if problem.errno in (errno.ENOENT, errno.ENOTDIR):
            _give_up(report, f"The command {argv[0]} was not found.")
        if problem.errno == errno.EACCES:
            _give_up(report, f"The command {argv[0]} is not executable.")
        _give_up(report, f"The command {argv[0]} could not be started: {os.strerror(problem.errno or 0)}.")
    except BaseException as problem:  # a fork must never go on with the supervisor's own work
        _give_up(report, f"The command could not be started: {problem}.")


def _give_up(report: int, sentence: str) -> NoReturn:
    os.write(report, sentence.encode(errors="replace"))
    os._exit(127)


def _prefer_for_oom() -> None:
    try:
        file = os.open("/proc/self/oom_score_adj", os.O_RDWR)
    except OSError:
        return
    try:
        if int(os.read(file, 16)) < int(OOM_SCORE):
            os.write(file, OOM_SCORE)
    except OSError:
        pass  # not allowed here: the job runs with the score that it has
    finally:
        os.close(file)
