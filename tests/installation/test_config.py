"""Settings: read from the environment, checked, and refused with a sentence that names the setting."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from app.config import REPOSITORY, Config, ConfigError, settings
from tests.conftest import KEY

PRODUCTION = {"BASE_URL": "https://train.example.org", "SECRET_KEY": KEY}


def test_without_settings_the_portal_is_for_this_machine_alone() -> None:
    config = Config.from_env({})
    assert config.url == "http://127.0.0.1:8000"
    assert (config.production, config.secure, config.bind) == (False, False, "127.0.0.1")
    assert config.local_jobs_refused == ""
    assert config.secret_key == ""


def test_a_production_portal_has_what_it_needs() -> None:
    config = Config.from_env(PRODUCTION)
    assert config.production
    assert config.secure
    assert "train.example.org" in config.hosts


@pytest.mark.parametrize(
    ("environ", "names"),
    [
        ({"BASE_URL": "https://train.example.org"}, "SECRET_KEY must be set"),
        ({**PRODUCTION, "SECRET_KEY": "short"}, "SECRET_KEY is too weak"),
        ({**PRODUCTION, "SECRET_KEY": "x" * 64}, "SECRET_KEY is too weak"),
        ({**PRODUCTION, "SECRET_KEY": "changeme" * 8}, "SECRET_KEY is too weak"),
        ({**PRODUCTION, "SECRET_KEY": "   "}, "SECRET_KEY must be set"),
        ({"SECRET_KEY": "short"}, "SECRET_KEY is too weak"),  # nor is a weak one good enough here
        ({**PRODUCTION, "BASE_URL": "http://train.example.org"}, "BASE_URL must begin with https://"),
        ({**PRODUCTION, "BASE_URL": "http://10.0.0.1:8000"}, "BASE_URL must begin with https://"),
        ({**PRODUCTION, "BASE_URL": "http://localhost.example.org"}, "BASE_URL must begin with https://"),
        ({**PRODUCTION, "BASE_URL": "http://0.0.0.0:8000"}, "BASE_URL must begin with https://"),
        ({**PRODUCTION, "BASE_URL": "train.example.org"}, "BASE_URL must look like"),
        ({**PRODUCTION, "BASE_URL": "https://train.example.org/portal"}, "BASE_URL must look like"),
        ({**PRODUCTION, "BASE_URL": "ftp://train.example.org"}, "BASE_URL must look like"),
        ({**PRODUCTION, "BASE_URL": "https://"}, "BASE_URL must look like"),
        ({**PRODUCTION, "BASE_URL": "https://[train"}, "BASE_URL must look like"),
        ({**PRODUCTION, "BASE_URL": "https://train.example.org:https"}, "BASE_URL must look like"),
        ({**PRODUCTION, "BASE_URL": "https://train.example.org:99999"}, "BASE_URL must look like"),
        ({"BASE_URL": "http://[::1]:8000"}, "BASE_URL cannot be an IPv6 address"),
        ({"PORT": "eighty"}, "PORT must be a whole number"),
        ({"PORT": "0"}, "PORT must be at least 1"),
        ({"PORT": "65536"}, "PORT must be at most 65535"),
        ({"WEB_THREADS": "-1"}, "WEB_THREADS must be at least 1"),
        ({"SESSION_HOURS": "0"}, "SESSION_HOURS must be at least 1"),
        ({"LOG_LIMIT": "1"}, "LOG_LIMIT must be at least"),
        ({"LOG_LIMIT": "1GiB"}, "LOG_LIMIT must be a whole number"),
        ({"LOG_LEVEL": "LOUD"}, "LOG_LEVEL must be"),
        ({"LOCAL_JOBS": "maybe"}, "LOCAL_JOBS must be 1 or 0"),
        ({"ALLOW_LOCAL_JOBS": "2"}, "ALLOW_LOCAL_JOBS must be 1 or 0"),
    ],
)
def test_a_setting_that_cannot_be_is_named(environ: dict[str, str], names: str) -> None:
    with pytest.raises(ConfigError, match=names.replace("(", r"\(")) as refused:
        Config.from_env(environ)
    if environ.get("SECRET_KEY", "").strip():
        assert environ["SECRET_KEY"].strip() not in str(refused.value)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "localhost", "me.localhost"])
def test_a_loopback_address_is_not_production(host: str) -> None:
    config = Config.from_env({"BASE_URL": f"http://{host}:8000"})
    assert not config.production


@pytest.mark.parametrize(
    ("more", "refused"),
    [
        ({}, "ALLOW_LOCAL_JOBS=1"),
        ({"ALLOW_LOCAL_JOBS": "0"}, "ALLOW_LOCAL_JOBS=1"),
        ({"ALLOW_LOCAL_JOBS": "1"}, ""),
        ({"ALLOW_LOCAL_JOBS": "1", "LOCAL_JOBS": "0"}, "LOCAL_JOBS=0"),
    ],
)
def test_this_machine_runs_no_jobs_in_production_unless_that_is_allowed(more: dict[str, str], refused: str) -> None:
    found = Config.from_env({**PRODUCTION, **more}).local_jobs_refused
    assert (refused in found) if refused else (found == "")


def test_every_setting_says_what_it_is() -> None:
    names = [name for name, _, _ in settings()]
    assert len(names) == len(set(names))
    assert {"DATABASE_URL", "SECRET_KEY", "BASE_URL", "DATA_DIR", "LOCAL_GPUS", "LOG_LIMIT"} <= set(names)
    assert all(text and name.isupper() for name, _, text in settings())


def test_a_refused_setting_ends_every_command_with_one_sentence(tmp_path: Path) -> None:
    said = subprocess.run(
        [sys.executable, "-m", "flask", "--app", "wsgi", "migrate"],
        cwd=REPOSITORY,
        env={"PATH": os.environ["PATH"], "DATA_DIR": str(tmp_path / "var"), "BASE_URL": "https://train.example.org"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert said.returncode != 0
    assert said.stderr.strip() == (
        "simpletrain: SECRET_KEY must be set where BASE_URL is not loopback: 32 random bytes or more."
    )
    assert not (tmp_path / "var").exists()
