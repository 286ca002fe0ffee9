"""A job sees what it needs, and nothing that is the portal's."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from app.cluster.protocol import Attempt, Volume
from tests.cluster.local.machine import INSTANCE, Machine


def environment(machine: Machine, attempt: Attempt) -> dict[str, str]:
    machine.run(attempt)
    entries = machine.output(attempt.key).decode().split("\0")[:-1]
    return dict(entry.split("=", 1) for entry in entries)


def test_nothing_of_the_portal_is_visible(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_KEY", "the portal's")
    monkeypatch.setenv("DATABASE_URL", "postgresql://u:p@h/d")
    monkeypatch.setenv("LC_TIME", "C")
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    attempt = machine.attempt(("env", "-0"))
    seen = environment(machine, attempt)
    allowed = {"HOME", "USER", "LOGNAME", "LANG", "TZ", "TMPDIR", "SHELL"}
    inherited = {n: v for n, v in os.environ.items() if n in allowed or n.startswith("LC_")}
    port = seen.pop("MASTER_PORT")
    assert 1024 <= int(port) < 65536
    assert seen == {
        **inherited,
        "PATH": f"{machine.settings.python_bin}:/usr/bin:/bin",
        "PYTHONUNBUFFERED": "1",
        "SIMPLETRAIN_JOB": "job-1",
        "SIMPLETRAIN_ATTEMPT": "1",
        "SIMPLETRAIN_ATTEMPT_ID": f"{INSTANCE}:{machine.path(attempt.key)}",
        "SIMPLETRAIN_EXAMPLES": str(machine.settings.examples),
        "NODES": "1",
        "NNODES": "1",
        "NODE_RANK": "0",
        "RANK": "0",
        "WORLD_SIZE": "1",
        "GPUS": "0",
        "MASTER_ADDR": "127.0.0.1",
        "CUDA_VISIBLE_DEVICES": "",
    }


def test_the_job_has_the_last_word_except_on_the_marker(machine: Machine) -> None:
    env = {"MASTER_ADDR": "::1", "GREETING": "grüß\ndich=", "SIMPLETRAIN_ATTEMPT_ID": "x"}
    seen = environment(machine, machine.attempt(("env", "-0"), env=env))
    assert (seen["MASTER_ADDR"], seen["GREETING"]) == ("::1", "grüß\ndich=")
    assert seen["SIMPLETRAIN_ATTEMPT_ID"].startswith(f"{INSTANCE}:/")


def test_volumes_are_folders_in_variables(machine: Machine) -> None:
    machine.configure(volumes={"my-data": Path("/srv/data"), "other": Path("/srv/other")})
    seen = environment(machine, machine.attempt(("env", "-0"), volumes=(Volume("my-data", "/data", True),)))
    assert seen["SIMPLETRAIN_VOLUME_MY_DATA"] == "/srv/data"
    assert "SIMPLETRAIN_VOLUME_OTHER" not in seen


def test_it_inherits_no_open_file(machine: Machine) -> None:
    with open(machine.folder / "secret", "w") as secret:
        os.set_inheritable(secret.fileno(), True)
        attempt = machine.attempt("ls -l /proc/self/fd | grep -c secret; readlink /proc/self/fd/0")
        machine.run(attempt)
    assert machine.output(attempt.key) == b"0\n/dev/null\n"


def test_it_starts_in_the_working_directory(machine: Machine) -> None:
    attempt = machine.attempt(("pwd",))
    machine.run(attempt)
    assert machine.output(attempt.key).decode().strip() == os.path.realpath(machine.settings.workdir)


def test_relative_settings_lead_where_the_portal_was_started(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(machine.folder)
    machine.configure(root=Path("var/local"), workdir=Path("."))
    attempt = machine.attempt("pwd -P")
    machine.run(attempt)
    assert machine.output(attempt.key).decode().strip() == os.path.realpath(machine.folder)


def test_files_of_a_job_are_only_its_users(machine: Machine) -> None:
    attempt = machine.attempt("echo private")
    machine.run(attempt)
    folder = machine.path(attempt.key)
    assert folder.stat().st_mode & 0o077 == 0
    assert {path.name for path in folder.iterdir() if path.stat().st_mode & 0o077} == set()
