"""A small file system that a test may fill. Where none can be mounted the test is skipped with the reason; CI fails."""

from __future__ import annotations

import contextlib
import os
import subprocess
from pathlib import Path

import pytest

SIZE = 48 << 20  # bytes


class Disk:
    """A small file system of its own, which can be filled to the last byte."""

    def __init__(self, folder: Path, size: int = SIZE) -> None:
        self.folder = folder
        folder.mkdir()
        mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size}", "simpletrain-test", str(folder)],
            check=False,
            capture_output=True,
            text=True,
        )
        if mounted.returncode:
            folder.rmdir()
            why = f"a small disk cannot be mounted here: {mounted.stderr.strip()}"
            if os.environ.get("CI"):
                pytest.fail(why)
            pytest.skip(why)

    def fill(self) -> None:
        """Called again, it also takes what was freed meanwhile."""
        with open(self.folder / "ballast", "ab", buffering=0) as file, contextlib.suppress(OSError):
            for block in (1 << 20, 4096, 1):
                with contextlib.suppress(OSError):
                    while True:
                        file.write(b"\0" * block)

    def free(self) -> None:
        (self.folder / "ballast").unlink()

    def close(self) -> None:
        subprocess.run(["umount", "-l", str(self.folder)], check=True)
