"""What docs/operating.md has people put on a host: systemd takes the units, the operator's command does its work."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import stat
import subprocess
import sys
from base64 import b64encode
from pathlib import Path

import pytest

from app.config import REPOSITORY, Config

DOCUMENT = (REPOSITORY / "docs" / "operating.md").read_text(encoding="utf-8")
INSTALL = DOCUMENT[DOCUMENT.index("## Install for production") : DOCUMENT.index("## Backups")]


def blocks(kind: str) -> list[str]:
    found = re.findall(rf"^   ```{kind}\n(.*?)^   ```$", INSTALL, re.S | re.M)
    return [re.sub(r"^   ", "", block, flags=re.M) for block in found]


def settings(folder: Path) -> str:
    """The file of settings, with everything that the document leaves open filled in, for a database in a folder."""
    (text,) = (block for block in blocks("sh") if block.startswith("BASE_URL"))
    for name, value in (
        ("DATABASE_URL", f"sqlite:///{folder}/portal.db"),
        ("DATA_DIR", str(folder)),
        ("SECRET_KEY", secrets.token_urlsafe(48)),
        ("SEAL_KEYS", b64encode(os.urandom(32)).decode()),
    ):
        text, count = re.subn(rf"^{name}='.*'$", f"{name}='{value}'", text, flags=re.M)
        assert count == 1, name
    assert "…" not in text
    return text


def test_the_settings_mean_the_same_to_systemd_and_to_a_shell(tmp_path: Path) -> None:
    given = {}
    for line in settings(tmp_path).splitlines():
        assert re.fullmatch(r"#.*|[A-Z_]+='[^']*'", line), f"systemd would read something else: {line}"
        if not line.startswith("#"):
            name, _, value = line.partition("=")
            given[name] = value.strip("'")
    assert Config.from_env(given).production


def test_the_operators_command_runs_with_the_settings(tmp_path: Path) -> None:
    (script,) = (block for block in blocks("sh") if block.startswith("#!/bin/sh"))
    (tmp_path / "env").write_text(settings(tmp_path / "data"), encoding="utf-8")
    command = tmp_path / "simpletrain"
    script = script.replace("/etc/simpletrain.env", str(tmp_path / "env")).replace("/srv/simpletrain", str(REPOSITORY))
    command.write_text(script.replace(".venv/bin/flask", f"{sys.executable} -m flask"), encoding="utf-8")
    command.chmod(0o700)

    def run(*arguments: str) -> str:
        ran = subprocess.run(
            [command, *arguments],
            cwd="/",
            env={"PATH": os.environ["PATH"]},
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert ran.returncode == 0, ran.stderr
        return ran.stdout

    assert run("migrate") == "The database is up to date.\n"
    assert stat.S_IMODE((tmp_path / "data").stat().st_mode) == 0o700
    assert run("orgs", "create", "lab")
    said = run("users", "create", "you@example.org", "--admin", "--org", "lab", "--owner")
    assert "https://train.example.org/sign-in/" in said


def test_systemd_takes_the_units(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        if os.environ.get("CI"):
            pytest.fail("There is no systemd-analyze: it comes with the package systemd.")
        pytest.skip("there is no systemd-analyze: it comes with the package systemd")
    names = re.findall(r"`/etc/systemd/system/(simpletrain-\w+\.service)`", INSTALL)
    assert names == ["simpletrain-web.service", "simpletrain-worker.service"]
    for name, unit in zip(names, blocks("ini"), strict=True):
        # it asks whether the program is there
        here = unit.replace("/srv/simpletrain/.venv/bin/flask", sys.executable)
        (tmp_path / name).write_text(here, encoding="utf-8")
        ran = subprocess.run(
            ["systemd-analyze", "--man=no", "verify", tmp_path / name],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=60,
        )
        assert (ran.returncode, ran.stdout) == (0, "")
