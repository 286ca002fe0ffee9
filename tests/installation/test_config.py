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
        ({"LOCAL_SLOTS": "-1"}, "LOCAL_SLOTS must be 0 or more"),
        ({"LOCAL_GRACE": "-1"}, "LOCAL_GRACE must be 0 or more"),
        ({"LOCAL_DISK_FLOOR": "-1"}, "LOCAL_DISK_FLOOR must be 0 or more"),
        ({"LOG_LIMIT": "1"}, "LOG_LIMIT must be at least"),
        ({"LOG_LIMIT": "1GiB"}, "LOG_LIMIT must be a whole number"),
        ({"LOG_LEVEL": "LOUD"}, "LOG_LEVEL must be"),
        ({"LOG_FORMAT": "xml"}, "LOG_FORMAT must be text or json"),
        ({"METRICS_PORT": "65535"}, "METRICS_PORT must be 0 to 65534"),
        ({"METRICS_PORT": "-1"}, "METRICS_PORT must be 0 to 65534"),
        ({"METRICS_PORT": "8000"}, "METRICS_PORT and the port after it must not be PORT"),
        ({"METRICS_PORT": "7999"}, "METRICS_PORT and the port after it must not be PORT"),
        ({"METRICS_PORT": "9100", "METRICS_BIND": "0.0.0.0"}, "METRICS_TOKEN must be set"),
        ({"METRICS_PORT": "9100", "METRICS_BIND": "::"}, "METRICS_TOKEN must be set"),
        ({"METRICS_TOKEN": "short"}, "METRICS_TOKEN is too weak"),
        ({"TRUSTED_PROXIES": "proxy.example.org"}, "TRUSTED_PROXIES must be addresses or networks"),
        ({"TRUSTED_PROXIES": "10.0.0.0/33"}, "TRUSTED_PROXIES must be addresses or networks"),
        ({**PRODUCTION, "BIND": "0.0.0.0"}, "TRUSTED_PROXIES must name the proxy"),
        ({**PRODUCTION, "BIND": "::"}, "TRUSTED_PROXIES must name the proxy"),
        ({**PRODUCTION, "BIND": "10.0.0.1"}, "TRUSTED_PROXIES must name the proxy"),
        ({**PRODUCTION, "FLASK_DEBUG": "1"}, "FLASK_DEBUG must not be set"),
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


# what production refuses, and what it lets pass with advice

REMOTE = "postgresql://portal:canary@db.example.org/portal"


@pytest.mark.parametrize(
    "url",
    [
        REMOTE,
        f"{REMOTE}?sslmode=prefer",
        f"{REMOTE}?sslmode=allow",
        "postgresql://portal@10.0.0.5:5432/portal",
        "postgresql://portal@/portal?host=127.0.0.1:5432&host=10.0.0.5:5432",
        "postgresql://portal@/portal?host=127.0.0.1,db.example.org",
    ],
)
def test_a_database_far_away_needs_a_word_about_tls(url: str) -> None:
    with pytest.raises(ConfigError, match="DATABASE_URL must say how the way to") as refused:
        Config.from_env({**PRODUCTION, "DATABASE_URL": url})
    assert "canary" not in str(refused.value)
    Config.from_env({"DATABASE_URL": url})  # a laptop may


@pytest.mark.parametrize(
    "url",
    [
        f"{REMOTE}?sslmode=require",
        f"{REMOTE}?sslmode=verify-ca",
        f"{REMOTE}?sslmode=verify-full&sslrootcert=/etc/ca.crt",
        "postgresql://portal@/portal",
        "postgresql://portal@127.0.0.1/portal",
        "postgresql://portal@localhost:5433/portal",
        "postgresql://portal@[::1]/portal",
        "postgresql://portal@/portal?host=/run/postgresql",
    ],
)
def test_a_database_that_is_near_or_reached_by_tls_is_taken(url: str) -> None:
    config = Config.from_env({**PRODUCTION, "DATABASE_URL": url})
    assert not [text for text in config.advice if "DATABASE_URL" in text]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({}, "DATABASE_URL is empty"),
        ({"DATABASE_URL": f"{REMOTE}?sslmode=disable"}, "DATABASE_URL says sslmode=disable"),
        ({}, "SEAL_KEYS is empty"),
        ({}, "TRUSTED_PROXIES is empty"),
        ({"LOG_LEVEL": "DEBUG"}, "LOG_LEVEL is DEBUG"),
    ],
)
def test_production_advises_on_what_it_lets_pass(more: dict[str, str], said: str) -> None:
    assert [text for text in Config.from_env({**PRODUCTION, **more}).advice if text.startswith(said)]
    assert Config.from_env(more).advice == []


def test_production_advises_against_root(monkeypatch: pytest.MonkeyPatch) -> None:
    for user, said in ((0, True), (1000, False)):
        monkeypatch.setattr(os, "geteuid", lambda user=user: user)
        assert ("The portal runs as root. Give it a user of its own." in Config.from_env(PRODUCTION).advice) is said


def test_a_well_kept_production_portal_hears_no_advice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    config = Config.from_env(
        {
            **PRODUCTION,
            "BIND": "0.0.0.0",
            "TRUSTED_PROXIES": "10.0.0.0/8",
            "DATABASE_URL": f"{REMOTE}?sslmode=verify-full",
            "SEAL_KEYS": "a key",
            "METRICS_PORT": "9100",
            "METRICS_BIND": "0.0.0.0",
            "METRICS_TOKEN": "0123456789abcdef",
        }
    )
    assert config.advice == []


def start(command: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "flask", "--app", "wsgi", command],
        cwd=REPOSITORY,
        env={"PATH": os.environ["PATH"], **environ},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("mode", [0o604, 0o640 | 0o020, 0o666])
def test_a_key_that_others_can_read_starts_no_production_portal(tmp_path: Path, mode: int) -> None:
    key = tmp_path / "keys" / "seal.keys"
    key.parent.mkdir()
    key.write_text("a key")
    key.chmod(mode)
    for command in ("migrate", "web", "worker", "serve"):
        said = start(command, DATA_DIR=str(tmp_path), **PRODUCTION)
        assert said.returncode != 0
        assert said.stderr.strip() == f"simpletrain: {key} is open to others (mode {mode:o}). Run: chmod 600 {key}"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["keys"]


def test_a_key_of_the_group_is_let_pass(tmp_path: Path) -> None:
    """So Kubernetes mounts a Secret."""
    key = tmp_path / "keys" / "seal.keys"
    key.parent.mkdir()
    key.write_text("MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=")
    key.chmod(0o440)
    assert start("migrate", DATA_DIR=str(tmp_path), **PRODUCTION).returncode == 0


def test_flasks_debugger_starts_no_production_portal(tmp_path: Path) -> None:
    said = start("web", DATA_DIR=str(tmp_path), FLASK_DEBUG="1", **PRODUCTION)
    assert said.returncode != 0
    assert "FLASK_DEBUG must not be set" in said.stderr
