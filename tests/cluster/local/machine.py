"""A cluster `this-machine` in a folder of its own, and words for what the tests do with it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from app.cluster.faults import VARIABLE
from app.cluster.local import LocalCluster, LocalSettings
from app.cluster.local.environment import MARKER, marker_of
from app.cluster.local.shim.locks import holder
from app.cluster.protocol import Attempt, AttemptKey, JobSpec, Launched, Observation, Phase, Refused, Volume, Wait

T = TypeVar("T")
INSTANCE = "test-instance"
REPOSITORY = Path(__file__).parents[3]
PATIENCE = 30.0  # seconds; only ever waited for when something is wrong


def wait_for(look: Callable[[], T | None], what: str = "it") -> T:
    """The first true answer of `look`."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        if answer := look():
            return answer
        time.sleep(0.01)
    raise AssertionError(f"{what} did not happen within {PATIENCE:g} s")


class Machine:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.settings = LocalSettings(
            root=folder / "local",
            workdir=folder,
            slots=16,
            gpus=(),
            log_limit=1024 * 1024,
            disk_floor=0,
            examples=folder / "examples",
            python_bin=Path(sys.executable).parent,
            grace=20.0,
        )
        self._cluster: LocalCluster | None = None
        self._jobs = 0

    def configure(self, **settings: object) -> None:
        self.settings = replace(self.settings, **settings)  # type: ignore[arg-type]  # checked by the dataclass's users
        self._cluster = None

    @property
    def cluster(self) -> LocalCluster:
        if self._cluster is None:
            self._cluster = LocalCluster(self.settings, INSTANCE)
        return self._cluster

    def attempt(
        self,
        command: str | tuple[str, ...] = "true",
        *,
        nodes: int = 1,
        gpus: int = 0,
        gpu_types: tuple[str, ...] = (),
        max_runtime: int = 600,
        env: Mapping[str, str] | None = None,
        volumes: tuple[Volume, ...] = (),
    ) -> Attempt:
        self._jobs += 1
        spec = JobSpec(
            image="",
            command=command,
            gpus=gpus,
            nodes=nodes,
            max_runtime=max_runtime,
            gpu_types=gpu_types,
            env=env or {},
            volumes=volumes,
        )
        key = AttemptKey(f"testjob{chr(ord('a') + self._jobs)}", 1)
        return Attempt(key, f"job-{self._jobs}", INSTANCE, "org", "user", spec)

    def launch(self, attempt: Attempt) -> AttemptKey:
        answer = self.cluster.launch(attempt)
        assert isinstance(answer, Launched), answer
        return attempt.key

    def refusal(self, attempt: Attempt) -> Refused:
        answer = self.cluster.launch(attempt)
        assert isinstance(answer, Refused), answer
        assert self.cluster.observe(attempt.key) is None
        return answer

    def waiting(self, attempt: Attempt) -> Wait:
        answer = self.cluster.launch(attempt)
        assert isinstance(answer, Wait), answer
        assert self.cluster.observe(attempt.key) is None
        return answer

    def observe(self, key: AttemptKey) -> Observation:
        observation = self.cluster.observe(key)
        assert observation is not None
        return observation

    def until(self, key: AttemptKey, phase: Phase) -> Observation:
        def look() -> Observation | None:
            observation = self.observe(key)
            return observation if observation.phase is phase else None

        return wait_for(look, f"{key} {phase}")

    def run(self, attempt: Attempt) -> Observation:
        return self.until(self.launch(attempt), Phase.ENDED)

    def output(self, key: AttemptKey, rank: int = 0) -> bytes:
        """All of it; fails where bytes are missing."""
        source = self.cluster.open_log(key, rank, "")
        data = b""
        while True:
            piece = wait_for(lambda: source.read(4096), "output")
            assert not piece.skipped
            data += piece.data
            if piece.complete:
                source.close()
                return data

    def until_printed(self, key: AttemptKey, text: bytes, rank: int = 0) -> None:
        log = self.path(key) / f"rank-{rank}.log"
        wait_for(lambda: log.exists() and text in log.read_bytes(), f"{text!r} in the output")

    def path(self, key: AttemptKey) -> Path:
        return self.settings.root / str(key)

    def supervisor(self, key: AttemptKey) -> int:
        pid = holder(str(self.path(key)))
        assert pid is not None and pid > 0
        return pid

    def processes(self, key: AttemptKey) -> list[int]:
        """Those of the job itself, by the marker in their environment."""
        wanted = os.fsencode(f"{MARKER}={marker_of(INSTANCE, self.path(key))}")
        return [int(name) for name in os.listdir("/proc") if name.isdigit() and wanted in _environment(name)]

    def worker_killed_at(self, point: str, *lines: str) -> None:
        """Runs the lines in a worker of its own, which dies at the named point as if its power were cut."""
        worker = self.worker(*lines, env={VARIABLE: point})
        assert worker.wait(PATIENCE) == -9

    def worker(self, *lines: str, env: Mapping[str, str] | None = None) -> subprocess.Popen[bytes]:
        """Another process with a cluster on the same folder, named `machine` in the lines that it runs."""
        code = "\n".join(
            (
                "from pathlib import Path",
                "from tests.cluster.local.machine import Machine",
                f"machine = Machine(Path({str(self.folder)!r}))",
                *lines,
            )
        )
        return subprocess.Popen([sys.executable, "-c", code], cwd=REPOSITORY, env={**os.environ, **(env or {})})

    def clean_up(self) -> None:
        for key in self.cluster.owned():
            if self.observe(key).phase is not Phase.ENDED:
                os.kill(self.supervisor(key), 9)
                wait_for(lambda key=key: holder(str(self.path(key))) is None)  # type: ignore[misc]  # a bound default
            self.cluster.remove(key)


def _environment(pid: str) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return []
