"""What make hands on to the portal."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from app.config import REPOSITORY


@pytest.mark.parametrize("folder", ["var", "a folder with spaces", "$HOME; echo 'quoted"])
def test_run_takes_any_folder(tmp_path: Path, folder: str) -> None:
    if shutil.which("make") is None or not (REPOSITORY / ".venv" / "run").exists():
        pytest.skip("make run would install packages here")
    flask = tmp_path / "flask"
    flask.write_text('#!/bin/sh\nprintf "%s|%s|%s" "$PORT" "$DATA_DIR" "$*"\n')
    flask.chmod(0o755)
    written = folder.replace("$", "$$")  # for make, which has a meaning for it
    ran = subprocess.run(
        # as if what is installed were new enough, whatever the files' dates say
        ["make", "-s", "-o", ".venv/run", "run", f"BIN={tmp_path}", "PORT=8123", f"DATA_DIR={written}"],
        cwd=REPOSITORY,
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ran.stdout, ran.stderr) == (f"8123|{folder}|--app wsgi serve", "")
