"""End a cluster and remove every trace of it, whatever state it is in: running, half started, killed."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from contextlib import suppress
from pathlib import Path

from tests.real.cluster import network, processes
from tests.real.cluster.errors import ClusterError
from tests.real.cluster.place import Place

SHIM = "containerd-shim-runc-v2"
CGROUPS = Path("/sys/fs/cgroup")
KEPT = ("log",)  # for whoever asks why; the next start removes it


def remove(place: Place, *, keep_logs: bool = True) -> None:
    """The kubelet first, so that it starts nothing anew; containers outlive containerd by design, so they follow it."""
    if not place.folder.exists():
        return
    names = processes.recorded(place)
    for name in sorted(names, key=lambda name: name != "kubelet"):
        processes.stop(place, name, grace=0)
    for shim in _shims(place):
        processes.kill(processes.tree(shim))
    containers = _containers(place)
    _unmount(place.folder)
    _remove_cgroups(containers)
    network.remove(place)
    _remove_links(place)
    for entry in place.folder.iterdir():
        if keep_logs and entry.name in KEPT:
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()
    if not any(place.folder.iterdir()):
        place.folder.rmdir()


def _shims(place: Place) -> list[int]:
    """The processes that hold this cluster's containers."""
    found = []
    for entry in Path("/proc").iterdir():
        with suppress(OSError):
            words = (
                (entry / "cmdline").read_bytes().decode(errors="replace").split("\0") if entry.name.isdigit() else []
            )
            if words and Path(words[0]).name == SHIM and str(place.containerd_socket) in words:
                found.append(int(entry.name))
    return found


def _containers(place: Place) -> list[str]:
    """The ids of the containers that were not removed in time; their shims' sockets lie elsewhere and go here."""
    bundles = list(place.containerd_state.glob("io.containerd.runtime.v2.task/k8s.io/*"))
    for bundle in bundles:
        with suppress(OSError):
            Path((bundle / "address").read_text().removeprefix("unix://")).unlink()
    return [bundle.name for bundle in bundles]


def _unmount(folder: Path) -> None:
    """Containers' file systems, network namespaces, and volumes: all mounts below the folder, the innermost first."""
    points = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    ours = [point for point in points if point.startswith(f"{folder}/")]
    if ours:
        subprocess.run(["umount", "--lazy", *reversed(ours)], capture_output=True, check=False)
    left = Path("/proc/self/mountinfo").read_text()
    if f" {folder}/" in left:
        raise ClusterError(f"Something below {folder} stays mounted; nothing in it was removed.")


def control_groups(container: str) -> list[Path]:
    """One folder for each controller under version 1, a single one under version 2."""
    return [each for depth in ("k8s.io", "*/k8s.io") for each in CGROUPS.glob(f"{depth}/{container}")]


def _remove_cgroups(containers: list[str]) -> None:
    end = time.monotonic() + 5
    for container in containers:
        for folder in control_groups(container):
            while folder.exists() and time.monotonic() < end:
                for inner in sorted((each for each in folder.rglob("*") if each.is_dir()), reverse=True):
                    with suppress(OSError):
                        os.rmdir(inner)
                with suppress(OSError):  # the kernel needs a moment after the last process of a group
                    os.rmdir(folder)
                    break
                time.sleep(0.02)


def _remove_links(place: Place) -> None:
    """The kubelet links every log from a folder that it has no setting for."""
    for link in Path("/var/log/containers").glob("*.log"):
        with suppress(OSError):
            if os.readlink(link).startswith(f"{place.folder}/"):
                link.unlink()
