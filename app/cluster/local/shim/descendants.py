"""Every process below this one, and how to signal them all without ever hitting a stranger."""

from __future__ import annotations

import os
import signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator


class Process:
    """One line of /proc/<pid>/stat. A pid and its start time together never name two processes."""

    __slots__ = ("born", "dead", "parent", "pid")

    def __init__(self, pid: int) -> None:
        with open(f"/proc/{pid}/stat", "rb") as file:
            line = file.read()
        # the second field, the command's name, may hold blanks and brackets
        fields = line[line.rindex(b")") + 2 :].split()
        self.pid = pid
        self.dead = fields[0] in (b"Z", b"X")
        self.parent = int(fields[1])
        self.born = int(fields[19])


def below(ancestor: int) -> list[Process]:
    """The descendants that still live, parents first."""
    children: dict[int, list[Process]] = {}
    for process in _all():
        children.setdefault(process.parent, []).append(process)
    found: list[Process] = []
    nearest = children.get(ancestor, [])
    while nearest:
        found += nearest
        nearest = [child for process in nearest for child in children.get(process.pid, [])]
    return [process for process in found if not process.dead]


def send(process: Process, number: int) -> bool:
    """False when it had ended already. Raises PermissionError for one that runs as somebody else.

    The pid may have been given to another process since it was read: the descriptor pins the one that has it now,
    and the start time tells whether that is still the same.
    """
    try:
        pinned = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return False
    try:
        if Process(process.pid).born != process.born:
            return False
        signal.pidfd_send_signal(pinned, number)
    except (ProcessLookupError, FileNotFoundError):
        return False
    finally:
        os.close(pinned)
    return True


def _all() -> Iterator[Process]:
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                yield Process(int(name))
            except (FileNotFoundError, ProcessLookupError):
                continue  # it ended meanwhile
