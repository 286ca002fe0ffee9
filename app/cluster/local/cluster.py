"""The cluster `this-machine`: makes, stops and removes attempts, and reports what their files say."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from app.cluster.faults import fault
from app.cluster.local import verdict
from app.cluster.local.environment import marker_of, rank_environments
from app.cluster.local.folder import AttemptFolder, Life, folders
from app.cluster.local.gpus import Gpu, inventory, types_of
from app.cluster.local.logs import LocalLog
from app.cluster.local.placement import Held, place
from app.cluster.local.settings import LocalSettings
from app.cluster.local.shim.records import Spec
from app.cluster.local.spawn import spawn_supervisor
from app.cluster.local.strays import kill_strays
from app.cluster.local.watch import Watch
from app.cluster.protocol import (
    Attempt,
    AttemptKey,
    Capacity,
    ClusterError,
    Code,
    GpuPool,
    Health,
    Launched,
    LogSource,
    Observation,
    Reason,
    Refused,
    Wait,
)

PLACING = ".placing"  # locked while somebody decides who gets which GPU
REMOVED = ".removed-"  # begins the name of a folder that is being deleted


@contextmanager
def _disk_errors() -> Iterator[None]:
    """A full or broken disk, or a lack of file handles, says nothing about a job: the worker asks again."""
    try:
        yield
    except (OSError, json.JSONDecodeError) as problem:
        raise ClusterError("The files of this machine's jobs cannot be read or written now.", str(problem)) from problem


class LocalCluster:
    enforces_max_runtime = True  # each attempt's supervisor does

    def __init__(self, settings: LocalSettings, instance: str) -> None:
        self._settings = settings
        self._instance = instance
        self._gpus = inventory(settings.gpus) if _on_linux() else ()
        self._watch = Watch()
        self._cleared: set[AttemptKey] = set()  # dead ones that are known to have left no process

    def start(self, changed: Callable[[], None]) -> None:
        self._settings.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        for rest in self._settings.root.glob(f"{REMOVED}*"):
            shutil.rmtree(rest, ignore_errors=True)
        for folder in folders(self._settings.root):
            self._watch.add(folder)
        self._watch.start(changed)

    def close(self) -> None:
        self._watch.close()

    def health(self) -> Health:
        return Health(answered_at=datetime.now(UTC))

    @_disk_errors()
    def capacity(self) -> Capacity:
        held = self._held()
        return Capacity(
            gpus=tuple(self._pool(type, held) for type in types_of(self._gpus)),
            cpu_slots=self._settings.slots,
            cpu_slots_free=max(0, self._settings.slots - held.slots),
            nodes=1,
            sees_all_pods=False,  # programs that were started outside the portal are not looked for
        )

    @_disk_errors()
    def launch(self, attempt: Attempt) -> Launched | Wait | Refused:
        if not _on_linux():
            return Refused(Reason(Code.REFUSED, "Jobs run on the portal's own machine only where that runs Linux."))
        folder = self._folder(attempt.key)
        with self._placing():
            self._check_owner(folder)
            if folder.life is Life.MISSING:
                gpus = self._place(attempt)
                if not isinstance(gpus, tuple):
                    return gpus
                folder.write_spec(self._spec(attempt, gpus, self._marker(folder)))
        fault("local.before_spawn")
        if folder.life is Life.UNBORN and not self._conclude_if_stopped(folder):
            spawn_supervisor(folder.path)
        fault("local.after_spawn")
        self._watch.add(folder)
        return Launched(handle=str(folder))

    @_disk_errors()
    def observe(self, key: AttemptKey) -> Observation | None:
        folder = self._folder(key)
        life = folder.life
        if life is Life.UNBORN and (self._conclude_if_stopped(folder) or self._conclude_if_stillborn(folder)):
            life = folder.life
        match life:
            case Life.MISSING:
                return None
            case Life.UNBORN:
                return verdict.starting(folder.spec)
            case Life.ALIVE:
                return verdict.alive(folder)
            case Life.DEAD:
                return verdict.lost(folder)
            case Life.OVER:
                exit = folder.exit
                return verdict.ended(exit, folder.spec) if exit else None  # None: removed since

    @_disk_errors()
    def stop(self, key: AttemptKey) -> None:
        folder = self._folder(key)
        if folder.life in (Life.OVER, Life.DEAD):
            return
        self._check_owner(folder)
        folder.ask_to_stop(self._instance)
        self._conclude_if_stopped(folder)
        self._watch.add(folder)

    @_disk_errors()
    def remove(self, key: AttemptKey) -> None:
        """Also kills what a dead supervisor left. Raises ClusterError for an attempt that has not ended."""
        folder = self._folder(key)
        self._check_owner(folder)
        if folder.life is Life.UNBORN:
            folder.conclude_unborn(as_stopped=True)
        life = folder.life
        if life is Life.ALIVE:
            raise ClusterError(f"Attempt {key} still runs: it is not removed.")
        if life is Life.DEAD:
            kill_strays(self._marker(folder))
        # Renamed first: half of a folder must not look like an attempt that was never started.
        rest = self._settings.root / f"{REMOVED}{key}-{time.time_ns()}"
        try:
            folder.path.rename(rest)
        except FileNotFoundError:
            return
        shutil.rmtree(rest, ignore_errors=True)  # what resists is taken away at the next start
        self._cleared.discard(key)

    @_disk_errors()
    def owned(self) -> frozenset[AttemptKey]:
        return frozenset(folder.key for folder in folders(self._settings.root) if folder.instance == self._instance)

    def open_log(self, key: AttemptKey, rank: int, cursor: str) -> LogSource:
        folder = self._folder(key)
        spec = folder.spec
        return LocalLog(folder, rank, cursor, spec["log_limit"] if spec else self._settings.log_limit)

    def _folder(self, key: AttemptKey) -> AttemptFolder:
        return AttemptFolder(self._settings.root, key)

    def _check_owner(self, folder: AttemptFolder) -> None:
        owner = folder.instance
        if owner and owner != self._instance:
            raise ClusterError(f"The folder {folder} belongs to another installation of the portal.")

    def _place(self, attempt: Attempt) -> tuple[Gpu, ...] | Wait | Refused:
        disk_free = shutil.disk_usage(self._settings.root).free
        return place(attempt.spec, self._settings, self._gpus, self._held(clear=True), disk_free)

    def _held(self, clear: bool = False) -> Held:
        """Found out from the folders every time: there is no other record that could be wrong.

        With `clear`, what a dead supervisor left is killed first: it may still use the GPUs that are counted as free.
        """
        gpus: set[str] = set()
        slots = 0
        for folder in folders(self._settings.root):
            if clear and folder.life is Life.DEAD:
                self._clear(folder)
            spec = folder.spec if folder.holds_something else None
            if spec:
                gpus.update(spec["gpus"])
                slots += not spec["gpus"]
        return Held(gpus, slots)

    def _clear(self, folder: AttemptFolder) -> None:
        if folder.key not in self._cleared:
            kill_strays(self._marker(folder))
            self._cleared.add(folder.key)

    def _pool(self, type: str, held: Held) -> GpuPool:
        gpus = [gpu for gpu in self._gpus if gpu.type == type]
        used = sum(gpu.id in held.gpus for gpu in gpus)
        free = len(gpus) - used
        return GpuPool(type, len(gpus), used, free, free, simulated=gpus[0].simulated)

    def _marker(self, folder: AttemptFolder) -> str:
        return marker_of(self._instance, folder.path)

    def _spec(self, attempt: Attempt, gpus: tuple[Gpu, ...], marker: str) -> Spec:
        command = attempt.spec.command
        return {
            "job": attempt.key.job,
            "number": attempt.key.number,
            "instance": attempt.instance,
            "name": attempt.job_name,
            "argv": ["/bin/sh", "-c", command] if isinstance(command, str) else list(command),
            "workdir": str(self._settings.workdir),
            "ranks": rank_environments(attempt, self._settings, gpus, os.environ, marker),
            "gpus": [gpu.id for gpu in gpus],
            "gpu_type": gpus[0].type if gpus else "",
            "simulated": bool(gpus) and gpus[0].simulated,
            "max_runtime": attempt.spec.max_runtime,
            "grace": self._settings.grace,
            "log_limit": self._settings.log_limit,
            "created_at": time.time(),
        }

    @staticmethod
    def _conclude_if_stopped(folder: AttemptFolder) -> bool:
        """An attempt that was asked to stop before any supervisor took it on has ended by that."""
        return folder.stop is not None and folder.conclude_unborn(as_stopped=True)

    @staticmethod
    def _conclude_if_stillborn(folder: AttemptFolder) -> bool:
        """Written down before it is told, so that no supervisor can come later and make it untrue."""
        return folder.stillborn and folder.conclude_unborn(as_stopped=False)

    @contextmanager
    def _placing(self) -> Iterator[Path]:
        """One at a time, across threads and processes: two jobs never get the same GPU."""
        root = self._settings.root
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        with open(root / PLACING, "w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield root


def _on_linux() -> bool:
    return sys.platform == "linux"
