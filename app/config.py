"""Every setting of the portal, and the only reader of the environment."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

REPOSITORY = Path(__file__).resolve().parent.parent


class ConfigError(Exception):
    """A setting is missing, malformed or unsafe. The message names it."""


def setting(name: str, default: Any, text: str) -> Any:
    """A field with the name of its environment variable and what it means."""
    return field(default=default, metadata={"name": name, "help": text})


@dataclass(frozen=True, slots=True)
class Config:
    """The settings, parsed. `Config.from_env` reads them; tests make their own."""

    data_dir: Path = setting(
        "DATA_DIR", REPOSITORY / "var", "folder of the database, the keys and local jobs; default: var"
    )
    database_url: str = setting("DATABASE_URL", "", "SQLAlchemy URL; empty: SQLite in DATA_DIR")
    secret_key: str = setting(
        "SECRET_KEY", "", "signs sessions; empty: made once in DATA_DIR/keys; production needs it"
    )
    seal_keys: str = setting("SEAL_KEYS", "", "open stored credentials; empty: made once in DATA_DIR/keys")
    base_url: str = setting("BASE_URL", "", "address of the portal as people type it; empty: http://127.0.0.1:PORT")
    port: int = setting("PORT", 8000, "port that the web process listens on")
    bind: str = setting("BIND", "127.0.0.1", "address that the web process listens on")
    trusted_proxies: str = setting("TRUSTED_PROXIES", "", "addresses whose X-Forwarded headers are believed, by comma")
    web_workers: int = setting("WEB_WORKERS", 1, "web processes")
    web_threads: int = setting("WEB_THREADS", 16, "threads of each web process")
    session_hours: int = setting("SESSION_HOURS", 24 * 30, "a sign-in ends after this many hours, whatever happens")
    session_idle_hours: int = setting("SESSION_IDLE_HOURS", 24 * 7, "a sign-in ends after so many hours without use")
    log_limit: int = setting("LOG_LIMIT", 1 << 30, "bytes kept of each rank's log: head and tail, a marked gap between")
    local_jobs: bool = setting("LOCAL_JOBS", True, "offer this machine as a cluster")
    allow_local_jobs: bool = setting("ALLOW_LOCAL_JOBS", False, "offer it also where BASE_URL is not loopback")
    local_gpus: str = setting("LOCAL_GPUS", "", "simulated GPUs of this machine, such as 4 or H100=4; empty: real ones")
    local_slots: int = setting("LOCAL_SLOTS", 0, "jobs without a GPU that run at once here; 0: one for each core")
    local_workdir: str = setting("LOCAL_WORKDIR", "", "folder in which local jobs start; empty: your home folder")
    local_volumes: str = setting("LOCAL_VOLUMES", "", "folders for volume claims on this machine: datasets=/srv/data,…")
    local_grace: int = setting("LOCAL_GRACE", 30, "seconds between TERM and KILL for a local job")
    local_disk_floor: int = setting("LOCAL_DISK_FLOOR", 512 << 20, "bytes of free disk below which launches wait")
    log_level: str = setting("LOG_LEVEL", "INFO", "DEBUG, INFO, WARNING or ERROR")

    @classmethod
    def from_env(cls, environ: Mapping[str, str] = os.environ) -> Config:
        """Read and check the settings. Raises ConfigError with a sentence that names the setting."""
        values: dict[str, Any] = {}
        for each in fields(cls):
            name, raw = each.metadata["name"], environ.get(each.metadata["name"], "").strip()
            if raw:
                values[each.name] = _parse(name, raw, each.default)
        config = cls(**values)
        config.check()
        return config

    def check(self) -> None:
        if self.port > 65535:
            raise ConfigError("PORT must be at most 65535.")
        try:
            parts = urlsplit(self.url)
            parts.port  # noqa: B018 - reading it checks it
        except ValueError:
            raise ConfigError(f"BASE_URL must look like https://train.example.org, not {self.base_url!r}.") from None
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.path not in ("", "/"):
            raise ConfigError(f"BASE_URL must look like https://train.example.org, not {self.base_url!r}.")
        if ":" in parts.hostname:
            raise ConfigError("BASE_URL cannot be an IPv6 address: give it a name, or an IPv4 address.")
        if self.production and parts.scheme != "https":
            raise ConfigError("BASE_URL must begin with https:// unless it is a loopback address.")
        if self.production and not self.secret_key:
            raise ConfigError("SECRET_KEY must be set where BASE_URL is not loopback: 32 random bytes or more.")
        if self.secret_key and (len(self.secret_key) < 32 or len(set(self.secret_key)) < 10):
            raise ConfigError("SECRET_KEY is too weak: it needs 32 random characters or more.")
        for name in ("port", "web_workers", "web_threads", "session_hours", "session_idle_hours"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name.upper()} must be at least 1.")
        if self.log_level not in ("DEBUG", "INFO", "WARNING", "ERROR"):
            raise ConfigError(f"LOG_LEVEL must be DEBUG, INFO, WARNING or ERROR, not {self.log_level!r}.")
        if self.log_limit < 1 << 16:
            raise ConfigError("LOG_LIMIT must be at least 65536 bytes.")

    @property
    def url(self) -> str:
        return (self.base_url or f"http://127.0.0.1:{self.port}").rstrip("/")

    @property
    def production(self) -> bool:
        """Reached from other machines: nothing is made up for it, and sign-in links are not printed at a start."""
        return not is_loopback(urlsplit(self.url).hostname or "")

    @property
    def secure(self) -> bool:
        return self.url.startswith("https://")

    @property
    def hosts(self) -> list[str]:
        """The Host headers that are answered: the base URL's, and the loopback names for the portal's own probes."""
        return [urlsplit(self.url).hostname or "", "127.0.0.1", "localhost"]

    @property
    def database(self) -> str:
        return self.database_url or f"sqlite:///{self.data_dir.absolute() / 'portal.db'}"

    @property
    def sqlite(self) -> bool:
        return self.database.startswith("sqlite")

    @property
    def local_start(self) -> Path:
        """The folder in which jobs on this machine start."""
        if self.local_workdir:
            return Path(self.local_workdir).expanduser().absolute()
        try:
            return Path.home()
        except RuntimeError:  # a user without a home folder
            return self.data_dir.absolute()

    @property
    def local_jobs_refused(self) -> str:
        """Why this machine is not offered as a cluster; empty: it is."""
        if not self.local_jobs:
            return "LOCAL_JOBS=0 switches this machine off as a cluster."
        if self.production and not self.allow_local_jobs:
            return (
                "This machine runs no jobs, because the portal is reached from other machines and every job would "
                "run as the portal's user. ALLOW_LOCAL_JOBS=1 allows it."
            )
        return ""


def settings() -> list[tuple[str, Any, str]]:
    """Name, default and meaning of every setting, in the order of the README."""
    return [(each.metadata["name"], each.default, each.metadata["help"]) for each in fields(Config)]


def is_loopback(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _parse(name: str, raw: str, default: Any) -> Any:
    if isinstance(default, bool):
        if raw.lower() in ("1", "true", "yes", "on"):
            return True
        if raw.lower() in ("0", "false", "no", "off"):
            return False
        raise ConfigError(f"{name} must be 1 or 0, not {raw!r}.")
    if isinstance(default, int):
        try:
            return int(raw)
        except ValueError:
            raise ConfigError(f"{name} must be a whole number, not {raw!r}.") from None
    if isinstance(default, Path):
        return Path(raw).expanduser().absolute()
    return raw
