"""The cluster's processes, by files with their ids. They belong to nobody: a command that ends leaves them running."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

from tests.real.cluster.errors import ClusterError
from tests.real.cluster.place import Place

# The shell puts the process into a session of its own, writes its id and ends: no child of ours is left to reap.
DETACH = 'file=$1 log=$2; shift 2; setsid "$@" >>"$log" 2>&1 </dev/null & echo $! >"$file"'


def start(place: Place, name: str, *arguments: str | Path, environment: dict[str, str] | None = None) -> None:
    """Start a process unless it runs; its output goes to log/NAME.log."""
    if alive(place, name):
        return
    for folder in (place.log, _folder(place)):
        folder.mkdir(parents=True, exist_ok=True)
    log = place.log / f"{name}.log"
    shell = ["sh", "-c", DETACH, "sh", str(_folder(place) / "new"), str(log), *map(str, arguments)]
    subprocess.run(shell, cwd=place.folder, env=os.environ | (environment or {}), check=True)
    pid = int((_folder(place) / "new").read_text())
    began = _began(pid)
    if began is None:
        raise ClusterError(f"{name} ended at once; see {log}")
    (_folder(place) / "new").write_text(f"{pid} {began}")
    (_folder(place) / "new").rename(_file(place, name))


def pid(place: Place, name: str) -> int | None:
    """Its id while it runs. The time of its start tells it from a stranger that got the same id later."""
    try:
        recorded, began = _file(place, name).read_text().split()
    except (OSError, ValueError):
        return None
    return int(recorded) if _began(int(recorded)) == began else None


def alive(place: Place, name: str) -> bool:
    return pid(place, name) is not None


def stop(place: Place, name: str, grace: float = 10) -> None:
    """End it: politely first, unless `grace` is 0."""
    found = pid(place, name)
    if found is not None:
        if grace:
            _signal(found, signal.SIGTERM)
            _wait_for_end(place, name, grace)
        if alive(place, name):
            _signal(found, signal.SIGKILL)
            _signal(found, signal.SIGCONT)
            _wait_for_end(place, name, 10)
    _file(place, name).unlink(missing_ok=True)


def freeze(place: Place, name: str) -> None:
    """Let it live but do nothing: connections are accepted and never answered."""
    if found := pid(place, name):
        _signal(found, signal.SIGSTOP)


def thaw(place: Place, name: str) -> None:
    if found := pid(place, name):
        _signal(found, signal.SIGCONT)


def recorded(place: Place) -> list[str]:
    """The names of the processes that were started and not stopped by us, the last one first."""
    files = sorted(_folder(place).glob("*.pid"), key=lambda file: file.stat().st_mtime_ns, reverse=True)
    return [file.stem for file in files]


def tree(root: int) -> list[int]:
    """A process and its descendants, leaves last."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (fields := _stat(int(entry.name))):
            children.setdefault(int(fields[1]), []).append(int(entry.name))
    found = [root]
    for each in found:
        found.extend(children.get(each, []))
    return found


def kill(pids: list[int]) -> None:
    """Kill at once and wait until all are gone."""
    begun = {each: _began(each) for each in pids}
    for each in pids:
        _signal(each, signal.SIGKILL)
    end = time.monotonic() + 10
    while any(began is not None and _began(each) == began for each, began in begun.items()):
        if time.monotonic() > end:
            raise ClusterError(f"These processes survive a SIGKILL: {pids}")
        time.sleep(0.01)


def _folder(place: Place) -> Path:
    return place.folder / "run"


def _file(place: Place, name: str) -> Path:
    return _folder(place) / f"{name}.pid"


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat that follow the name: state, parent, …; empty when it is gone."""
    try:
        return Path("/proc", str(pid), "stat").read_text().rsplit(")", 1)[1].split()
    except (OSError, IndexError):
        return []


def _began(pid: int) -> str | None:
    """When it started, in clock ticks since the machine did; None for a dead one, reaped or not."""
    fields = _stat(pid)
    return fields[19] if fields and fields[0] not in "ZX" else None


def _signal(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):  # it ended by itself
        os.kill(pid, number)


def _wait_for_end(place: Place, name: str, seconds: float) -> None:
    end = time.monotonic() + seconds
    while alive(place, name) and time.monotonic() < end:
        time.sleep(0.02)
