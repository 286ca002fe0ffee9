"""The images in the cluster's store, made from this machine's busybox and Python: no registry is asked.

They carry a host name that nobody can own, so that a mistake cannot pull a stranger's image.
"""

from __future__ import annotations

import compileall
import hashlib
import io
import json
import os
import platform
import py_compile
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.real.cluster import lock
from tests.real.cluster.build import cache
from tests.real.cluster.errors import ClusterError

PAUSE = "simpletrain.test/pause:1"  # what holds a pod's network
USER = 1000
FOLDERS = ("dev", "etc", "proc", "root", "sys", "tmp", "usr/bin", "usr/lib", "usr/local/bin", "usr/local/lib", "work")
LINKS = {"bin": "usr/bin", "lib": "usr/lib", "lib64": "usr/lib", "usr/lib64": "lib"}
NOT_NEEDED = (
    "__pycache__",
    "_tkinter*",
    "config-*",
    "ensurepip",
    "idlelib",
    "lib2to3",
    "site-packages",
    "test",
    "tests",
    "tkinter",
)


@dataclass(frozen=True)
class Images:
    """Names of images that a test may use."""

    # sh and busybox's tools, as user 1000; a static busybox resolves no names, so take python for that
    busybox: str = "simpletrain.test/busybox:1"
    python: str = "simpletrain.test/python:3"  # python3 with its standard library, sh and busybox's tools, as user 1000
    root: str = "simpletrain.test/root:1"  # busybox as root: a namespace of the restricted level does not run it
    missing: str = "simpletrain.test/missing:1"  # nowhere to be had


def archive(say: Callable[[str], None] = print) -> Path:
    """Return an archive of all the images, packed first if this Python and this busybox have none yet."""
    path = cache() / "images" / f"{_digest()}.tar"
    if path.exists():
        return path
    with lock.held(path.parent / "build.lock"):
        if not path.exists():
            say(f"Packing the images into {path}.")
            with tempfile.TemporaryDirectory(dir=path.parent) as folder:
                _pack(Path(folder)).rename(path)
    return path


def _digest() -> str:
    digest = hashlib.sha256(Path(__file__).read_bytes())
    digest.update(f"{sys.version} {sys.base_prefix}".encode())
    digest.update(_busybox().read_bytes())
    return digest.hexdigest()[:16]


def _busybox() -> Path:
    found = shutil.which("busybox")
    if found is None:
        raise ClusterError("busybox is missing: Debian's package busybox-static.")
    return Path(found)


def _pack(folder: Path) -> Path:
    tools, python = folder / "busybox", folder / "python"
    _lay_out(tools)
    _lay_out(python)
    _add_python(python)
    images = Images()
    path = folder / "images.tar"
    with tarfile.open(path, "w") as target:
        tools_layer = _add_layer(target, tools, "busybox.tar")
        python_layer = _add_layer(target, python, "python.tar")
        manifest = [
            _add_image(target, PAUSE, tools_layer, ["sleep", "infinity"], USER),
            _add_image(target, images.busybox, tools_layer, ["sh"], USER),
            _add_image(target, images.root, tools_layer, ["sh"], 0),
            _add_image(target, images.python, python_layer, ["python3"], USER),
        ]
        _add(target, "manifest.json", json.dumps(manifest).encode())
    return path


def _lay_out(root: Path) -> None:
    """A root file system with busybox under every name that it answers to."""
    for name in FOLDERS:
        (root / name).mkdir(parents=True)
    for name, target in LINKS.items():
        (root / name).symlink_to(target)
    (root / "tmp").chmod(0o1777)
    (root / "work").chmod(0o777)
    (root / "etc/passwd").write_text(f"root:x:0:0::/root:/bin/sh\nuser:x:{USER}:{USER}::/work:/bin/sh\n")
    (root / "etc/group").write_text(f"root:x:0:\nuser:x:{USER}:\n")
    shutil.copy2(_busybox(), root / "bin/busybox")
    for library in _libraries(_busybox()):  # none for a static one
        shutil.copy2(library, root / "usr/lib")
    applets = subprocess.run([_busybox(), "--list"], check=True, capture_output=True, text=True)
    for applet in set(applets.stdout.split()) - {"busybox"}:
        (root / "bin" / applet).symlink_to("busybox")


def _add_python(root: Path) -> None:
    """This interpreter's standard library and every shared library that it needs."""
    name = f"python{sys.version_info.major}.{sys.version_info.minor}"
    library = root / "usr/local/lib" / name
    shutil.copytree(sysconfig.get_path("stdlib"), library, ignore=shutil.ignore_patterns(*NOT_NEEDED))
    modules = Path(sysconfig.get_path("platstdlib"), "lib-dynload")
    if modules.exists():
        shutil.copytree(modules, library / "lib-dynload", dirs_exist_ok=True)
    compileall.compile_dir(library, quiet=2, invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH)
    program = Path(os.path.realpath(sys.executable))
    shutil.copy2(program, root / "usr/local/bin" / name)
    for link in ("python", "python3"):
        (root / "usr/local/bin" / link).symlink_to(name)
    needed = {found for each in (program, *library.glob("lib-dynload/*.so")) for found in _libraries(each)}
    for found in sorted(needed):
        shutil.copy2(found, root / "usr/lib")


def _libraries(program: Path) -> list[Path]:
    """The files of the shared libraries that a program needs, the loader included."""
    said = subprocess.run(["ldd", program], capture_output=True, text=True, check=False).stdout
    return [Path(path) for path in re.findall(r"(?:=> |^\s+)(/\S+) \(0x", said, re.MULTILINE)]


def _add_layer(target: tarfile.TarFile, rootfs: Path, name: str) -> tuple[str, str]:
    """Add a folder as a layer, everything in it owned by root; its name and digest."""

    def owned_by_root(info: tarfile.TarInfo) -> tarfile.TarInfo:
        info.uid = info.gid = 0
        info.uname = info.gname = "root"
        return info

    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as layer:
        layer.add(rootfs, arcname=".", filter=owned_by_root)
    _add(target, name, buffer.getvalue())
    return name, f"sha256:{hashlib.sha256(buffer.getvalue()).hexdigest()}"


def _add_image(
    target: tarfile.TarFile, name: str, layer: tuple[str, str], command: list[str], user: int
) -> dict[str, object]:
    machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
    path = "PATH=/usr/local/bin:/usr/bin:/bin"
    settings = {"Env": [path], "Cmd": command, "WorkingDir": "/work", "User": f"{user}:{user}"}
    config = {
        "architecture": machine,
        "os": "linux",
        "config": settings,
        "rootfs": {"type": "layers", "diff_ids": [layer[1]]},
        "history": [{"created_by": "tests/real"}],
    }
    data = json.dumps(config).encode()
    file = f"{hashlib.sha256(data).hexdigest()}.json"
    _add(target, file, data)
    return {"Config": file, "RepoTags": [name], "Layers": [layer[0]]}


def _add(target: tarfile.TarFile, name: str, data: bytes) -> None:
    if name in target.getnames():
        return
    info = tarfile.TarInfo(name)
    info.size = len(data)
    target.addfile(info, io.BytesIO(data))
