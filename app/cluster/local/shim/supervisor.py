"""Starts the ranks of one attempt, waits, ends what must end, and writes down how it went.

Sleeps until something happens: a child ends, a byte comes through the FIFO, or a deadline is reached. While it runs
it also wakes once a second to look at the size of the output.
"""

from __future__ import annotations

import os
import select
import signal
import time

from . import descendants, files, linux, ranks
from .cap import LogCap

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .records import Exit, Spec, Why

LOG_CHECK = 1.0  # seconds
KILL_AGAIN = (0.05, 1.0)  # seconds between rounds of KILL: at first, at most
FIRST_IGNORED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)  # the only way to stop a job is the file `stop`


def supervise(folder: str, spec: Spec) -> None:
    """Returns when nothing of the attempt runs any more and `exit` is written. The caller holds the lock."""
    for each in FIRST_IGNORED:
        signal.signal(each, signal.SIG_IGN)
    linux.adopt_orphans()
    supervisor = Supervisor(folder, spec)
    # The FIFO is open by now: a wish that comes after this look wakes the loop.
    while not files.exists(folder, files.STOP):
        if files.try_to_write(folder, files.STARTED, {"boot_id": boot_id(), "at": time.time()}):
            supervisor.start()
            supervisor.wait_for_all()
            break
        time.sleep(files.ROOM_CHECK)  # the disk is full: nothing is begun that could not be told
    else:
        supervisor.why = "stopped"
    files.write_once_there_is_room(folder, files.EXIT, supervisor.result())


class Supervisor:
    def __init__(self, folder: str, spec: Spec) -> None:
        self.folder = folder
        self.spec = spec
        self.ranks: list[ranks.Rank] = []
        self.by_pid: dict[int, ranks.Rank] = {}  # those not reaped yet
        self.caps = [LogCap(folder, number, spec["log_limit"]) for number in range(len(spec["ranks"]))]
        self.why: Why = "ended"
        self.detail = ""
        self.running_at: float | None = None
        self.to_tell: dict[str, Any] | None = None  # that it runs, until that is written down
        self.first_failed: int | None = None
        self.deadline: float | None = None  # of the whole run; this and the next are of the monotonic clock
        self.kill_at: float | None = None  # set once everything is being ended
        self.kill_again = KILL_AGAIN[0]
        self.killed = False
        self.left_behind: set[tuple[int, int]] = set()
        self.oom_kills = _oom_kills()
        self.bell = Bell(folder)

    def start(self) -> None:
        """All ranks, or none."""
        try:
            for number in range(len(self.spec["ranks"])):
                rank = ranks.start(self.folder, self.spec, number)
                self.ranks.append(rank)
                self.by_pid[rank.pid] = rank
        except (ranks.CouldNotStart, OSError) as problem:
            self.why = "could_not_start"
            self.detail = str(problem) if isinstance(problem, ranks.CouldNotStart) else f"{problem.strerror}."
            self.kill_at = time.monotonic()
            return
        if self.spec["max_runtime"]:
            self.deadline = time.monotonic() + self.spec["max_runtime"]
        self.running_at = time.time()
        started = [rank.beginning() for rank in self.ranks]
        self.to_tell = {"at": self.running_at, "ranks": started}
        self.tell()

    def tell(self) -> None:
        """Write down that it runs. A full disk is no reason to leave the job alone: then that is tried again later."""
        if self.to_tell is not None and files.try_to_write(self.folder, files.RUNNING, self.to_tell):
            self.to_tell = None

    def wait_for_all(self) -> None:
        """Until there is no descendant left: every orphan becomes a child of this process, so none is missed."""
        next_check = time.monotonic()
        while self.reap():
            now = time.monotonic()
            if self.kill_at is None:
                self.decide(now)
            if self.kill_at is not None and now >= self.kill_at and not self.kill_all(now):
                break
            if now >= next_check:
                self.tell()
                self.check_logs()
                next_check = now + LOG_CHECK
            deadline = self.deadline if self.kill_at is None else self.kill_at
            self.bell.wait(min(next_check, deadline) if deadline is not None else next_check)
        self.check_logs(last=True)

    def reap(self) -> bool:
        """Takes note of every child that has ended. False: there is none left."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return False
            if pid == 0:
                return True
            rank = self.by_pid.pop(pid, None)
            if rank is not None:
                rank.ended(status, interrupted=self.kill_at is not None)
                if rank.failed and self.first_failed is None:
                    self.first_failed = self.ranks.index(rank)

    def decide(self, now: float) -> None:
        """Whether it is time to end everything, and how."""
        if not self.by_pid:
            self.kill_at = now  # the command is over: what it left behind has no claim to a time of grace
        elif self.first_failed is not None:
            self.terminate(now, "ended")
        elif files.exists(self.folder, files.STOP):
            self.terminate(now, "stopped")
        elif self.deadline is not None and now >= self.deadline:
            self.terminate(now, "time_limit")

    def terminate(self, now: float, why: Why) -> None:
        """Asks every process to end. Where none lived any more, the attempt has ended by itself, and `why` is moot."""
        hit, refused = _send_to(descendants.below(os.getpid()), signal.SIGTERM)
        if hit or refused:
            self.why = why
            self.kill_at = now + self.spec["grace"]
        # else: the next reap() finds the ends that made this futile

    def kill_all(self, now: float) -> bool:
        """One round. False when all that is left runs as somebody else and cannot be killed by us: it is left."""
        living = descendants.below(os.getpid())
        if self.by_pid:
            self.killed = True
        else:
            self.left_behind |= {(each.pid, each.born) for each in living}
        hit, refused = _send_to(living, signal.SIGKILL)
        self.kill_at = now + self.kill_again
        self.kill_again = min(self.kill_again * 2, KILL_AGAIN[1])
        return hit > 0 or refused == 0

    def check_logs(self, last: bool = False) -> None:
        for cap in self.caps:
            try:
                cap.check(last)
            except OSError:
                continue  # the disk is full, say: the job is not to suffer, and the next look tries again

    def result(self) -> Exit:
        return {
            "why": self.why,
            "detail": self.detail,
            "finished_at": time.time(),
            "running_at": self.running_at,
            "ranks": [rank.end() for rank in self.ranks],
            "first_failed": self.first_failed,
            "killed": self.killed,
            "left_behind": len(self.left_behind),
            "oom_kills": _oom_kills() - self.oom_kills,
        }


class Bell:
    """Waits for a time, a child's end, or a byte through the FIFO: whichever comes first."""

    def __init__(self, folder: str) -> None:
        control = os.path.join(folder, files.CONTROL)
        if not os.path.exists(control):
            os.mkfifo(control, 0o600)
        # Opened for both, so that it never reads as ended while nobody writes.
        self.control = os.open(control, os.O_RDWR | os.O_NONBLOCK)
        self.child_ended, wake = os.pipe()
        os.set_blocking(self.child_ended, False)
        os.set_blocking(wake, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)  # without a handler the kernel would not tell
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        self.poll = select.poll()
        self.poll.register(self.control, select.POLLIN)
        self.poll.register(self.child_ended, select.POLLIN)

    def wait(self, until: float) -> None:
        milliseconds = max(0.0, until - time.monotonic()) * 1000
        for file, _ in self.poll.poll(int(milliseconds) + 1):  # rounded up: waking early would spin
            try:
                os.read(file, 4096)
            except BlockingIOError:
                continue


def boot_id() -> str:
    """Differs after every start of the machine."""
    with open("/proc/sys/kernel/random/boot_id") as file:
        return file.read().strip()


def _send_to(processes: list[descendants.Process], number: int) -> tuple[int, int]:
    """How many it reached, and how many run as somebody else (through sudo, say) and cannot be reached."""
    hit = refused = 0
    for process in processes:
        try:
            hit += descendants.send(process, number)
        except PermissionError:
            refused += 1
    return hit, refused


def _oom_kills() -> int:
    try:
        with open("/proc/vmstat", "rb") as file:
            return next((int(line.split()[1]) for line in file if line.startswith(b"oom_kill ")), 0)
    except OSError:
        return 0
