"""Compile the Kubernetes commands and a DNS server from Go modules, once, into a folder outside the tree."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tests.real.cluster import lock
from tests.real.cluster.errors import ClusterError

MODULES = Path(__file__).resolve().parent.parent / "go"
COMMANDS = {
    "kubernetes": tuple(
        f"k8s.io/kubernetes/cmd/{command}"
        for command in ("kubectl", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet")
    ),
    "dns": ("github.com/coredns/coredns",),
}
MOST_AT_ONCE = 8  # a compiler or linker takes up to 2 GB; more than this gains little


def cache() -> Path:
    """Where everything that outlives a test run lies."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home, "simpletrain")


def binaries() -> Path:
    """The folder with the commands; it exists only when all of them are in it."""
    digest = hashlib.sha256()
    for module in sorted(COMMANDS):
        for name in ("go.mod", "go.sum"):
            digest.update((MODULES / module / name).read_bytes())
    return cache() / "kubernetes" / digest.hexdigest()[:16]


def version() -> str:
    """The Kubernetes version that go.mod asks for."""
    for line in (MODULES / "kubernetes/go.mod").read_text().splitlines():
        words = line.split()
        if words[:1] == ["k8s.io/kubernetes"]:
            return words[1]
    raise ClusterError("tests/real/go/kubernetes/go.mod names no version of Kubernetes.")


def build(say: Callable[[str], None] = print) -> Path:
    """Return the folder with the commands, compiled first if they are not there."""
    folder = binaries()
    if folder.exists():
        return folder
    if shutil.which("go") is None:
        raise ClusterError("Compiling Kubernetes needs Go; tests/real/go/kubernetes/go.mod names the version.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with lock.held(folder.parent / "build.lock"):
        if folder.exists():  # somebody else built it while we waited
            return folder
        say(f"Compiling Kubernetes {version()} into {folder}: minutes, once. Go's own output follows.")
        begun = time.monotonic()
        for stale in folder.parent.glob("building-*"):  # of a build that was killed: we hold the lock
            shutil.rmtree(stale)
        unfinished = Path(tempfile.mkdtemp(prefix="building-", dir=folder.parent))
        unfinished.chmod(0o755)
        for module, packages in COMMANDS.items():
            _compile(module, packages, unfinished, say)
        unfinished.rename(folder)
        say(f"Compiled in {_minutes(time.monotonic() - begun)}.")
    return folder


def _compile(module: str, packages: tuple[str, ...], target: Path, say: Callable[[str], None]) -> None:
    begun = time.monotonic()
    at_once = min(os.cpu_count() or 1, MOST_AT_ONCE)
    flags = f"-s -w -X k8s.io/component-base/version.gitVersion={version()}"
    command = ["nice", "go", "build", "-p", str(at_once), "-trimpath", "-ldflags", flags, "-o", f"{target}/", *packages]
    settings = {"CGO_ENABLED": "0", "GOFLAGS": "-mod=readonly -buildvcs=false", "GOWORK": "off"}
    try:
        subprocess.run(command, cwd=MODULES / module, env=os.environ | settings, check=True)
    except subprocess.CalledProcessError as error:
        raise ClusterError(
            f"Go could not compile {module} (exit {error.returncode}); what it said stands above."
        ) from error
    names = ", ".join(package.rsplit("/", 1)[1] for package in packages)
    say(f"  {names}: {_minutes(time.monotonic() - begun)}")


def _minutes(seconds: float) -> str:
    return f"{int(seconds // 60)} min {seconds % 60:.0f} s"
