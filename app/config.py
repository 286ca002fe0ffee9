"""Every setting of the portal, and the only reader of the environment."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
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
    database_url: str = setting(
        "DATABASE_URL", "", "postgresql://user:password@host/name for production; empty: SQLite in DATA_DIR"
    )
    database_timeout: int = setting(
        "DATABASE_TIMEOUT", 30, "seconds that a statement may take on PostgreSQL; a transaction may rest twice as long"
    )
    secret_key: str = setting(
        "SECRET_KEY", "", "signs sessions; empty: made once in DATA_DIR/keys; production needs it"
    )
    seal_keys: str = setting("SEAL_KEYS", "", "open stored credentials; empty: made once in DATA_DIR/keys")
    base_url: str = setting("BASE_URL", "", "address of the portal as people type it; empty: http://127.0.0.1:PORT")
    port: int = setting("PORT", 8000, "port that the web process listens on")
    bind: str = setting("BIND", "127.0.0.1", "address that the web process listens on")
    trusted_proxies: str = setting(
        "TRUSTED_PROXIES", "", "addresses and networks whose X-Forwarded headers are believed: 10.0.0.7,10.1.0.0/16"
    )
    web_workers: int = setting("WEB_WORKERS", 1, "web processes")
    web_threads: int = setting("WEB_THREADS", 16, "threads of each web process")
    session_hours: int = setting("SESSION_HOURS", 24 * 30, "a sign-in ends after this many hours, whatever happens")
    session_idle_hours: int = setting("SESSION_IDLE_HOURS", 24 * 7, "a sign-in ends after so many hours without use")
    api_rate: int = setting(
        "API_RATE", 12_000, "requests a minute that one token may make of the API, for each web process; 0: no limit"
    )
    api_failure_rate: int = setting(
        "API_FAILURE_RATE", 600, "requests a minute without a valid token that one address may make, likewise"
    )
    log_limit: int = setting("LOG_LIMIT", 1 << 30, "bytes kept of each rank's log: head and tail, a marked gap between")
    retain_jobs_days: int = setting(
        "RETAIN_JOBS_DAYS", 0, "days after its end for which a job is kept, with all of it; 0: for ever"
    )
    retain_logs_days: int = setting(
        "RETAIN_LOGS_DAYS", 0, "days after its end for which a job's log is kept; 0: as long as the job"
    )
    retain_logs_bytes: int = setting(
        "RETAIN_LOGS_BYTES", 0, "bytes that logs of finished jobs may take up, the oldest go first; 0: no limit"
    )
    retain_audit_days: int = setting("RETAIN_AUDIT_DAYS", 0, "days for which the audit trail is kept; 0: for ever")
    local_jobs: bool = setting("LOCAL_JOBS", True, "offer this machine as a cluster")
    allow_local_jobs: bool = setting("ALLOW_LOCAL_JOBS", False, "offer it also where BASE_URL is not loopback")
    local_gpus: str = setting("LOCAL_GPUS", "", "simulated GPUs of this machine, such as 4 or H100=4; empty: real ones")
    local_slots: int = setting("LOCAL_SLOTS", 0, "jobs without a GPU that run at once here; 0: one for each core")
    local_workdir: str = setting("LOCAL_WORKDIR", "", "folder in which local jobs start; empty: your home folder")
    local_volumes: str = setting("LOCAL_VOLUMES", "", "folders for volume claims on this machine: datasets=/srv/data,…")
    local_grace: int = setting("LOCAL_GRACE", 30, "seconds between TERM and KILL for a local job")
    local_disk_floor: int = setting("LOCAL_DISK_FLOOR", 512 << 20, "bytes of free disk below which launches wait")
    log_level: str = setting("LOG_LEVEL", "INFO", "DEBUG, INFO, WARNING or ERROR")
    log_format: str = setting("LOG_FORMAT", "text", "text, or json: an object a line, for production")
    metrics_port: int = setting("METRICS_PORT", 0, "port of the web's figures, the worker's are on the next; 0: none")
    metrics_bind: str = setting("METRICS_BIND", "127.0.0.1", "address that the figures are told at")
    metrics_token: str = setting("METRICS_TOKEN", "", "bearer token that Prometheus sends; needed beyond loopback")

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
        if config.production and environ.get("FLASK_DEBUG", "").lower() not in ("", "0", "false", "no"):
            raise ConfigError("FLASK_DEBUG must not be set where BASE_URL is not loopback: it shows code to strangers.")
        return config

    def check(self) -> None:
        if not self.database.startswith(("sqlite:///", "postgresql+psycopg://")):
            raise ConfigError("DATABASE_URL must begin with postgresql:// or, for another file, with sqlite:///.")
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
        for name in ("port", "database_timeout", "web_workers", "web_threads", "session_hours", "session_idle_hours"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name.upper()} must be at least 1.")
        for name in ("retain_jobs_days", "retain_logs_days", "retain_audit_days"):
            if not 0 <= getattr(self, name) <= 36_500:
                raise ConfigError(f"{name.upper()} must be 0 (for ever) to 36500 days.")
        if self.retain_logs_bytes < 0:
            raise ConfigError("RETAIN_LOGS_BYTES must be 0 (no limit) or more.")
        for name in ("api_rate", "api_failure_rate"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name.upper()} must be 0 (no limit) or more.")
        for name in ("local_slots", "local_grace", "local_disk_floor"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name.upper()} must be 0 or more.")
        if self.log_level not in ("DEBUG", "INFO", "WARNING", "ERROR"):
            raise ConfigError(f"LOG_LEVEL must be DEBUG, INFO, WARNING or ERROR, not {self.log_level!r}.")
        if self.log_format not in ("text", "json"):
            raise ConfigError(f"LOG_FORMAT must be text or json, not {self.log_format!r}.")
        if self.log_limit < 1 << 16:
            raise ConfigError("LOG_LIMIT must be at least 65536 bytes.")
        _ = self.proxies
        self._check_metrics()
        if self.production:
            self._check_production()

    def _check_metrics(self) -> None:
        if not 0 <= self.metrics_port <= 65534:
            raise ConfigError("METRICS_PORT must be 0 to 65534: the worker's figures are on the next port.")
        if self.metrics_port and self.port in (self.metrics_port, self.metrics_port + 1):
            raise ConfigError("METRICS_PORT and the port after it must not be PORT.")
        if self.metrics_token and len(self.metrics_token) < 16:
            raise ConfigError("METRICS_TOKEN is too weak: it needs 16 random characters or more.")
        if self.metrics_port and not self.metrics_token and not is_loopback(self.metrics_bind):
            raise ConfigError(
                f"METRICS_TOKEN must be set where METRICS_BIND is not loopback ({self.metrics_bind}): anybody there "
                "could read the figures."
            )

    def _check_production(self) -> None:
        """What must not be reached from other machines like this."""
        if not is_loopback(self.bind) and not self.trusted_proxies:
            raise ConfigError(
                f"TRUSTED_PROXIES must name the proxy that speaks https, or BIND be loopback, not {self.bind}: the "
                "portal itself speaks plain http, and whoever connects could claim any address."
            )
        if remote := self.plain_database:
            raise ConfigError(
                f"DATABASE_URL must say how the way to {remote} is protected: add ?sslmode=verify-full (or require). "
                "Where the network itself is safe, sslmode=disable says so."
            )

    @property
    def plain_database(self) -> str:
        """The first host that the database is asked at with nothing said about TLS; empty: there is none.

        libpq's own default, `prefer`, goes on without TLS whenever somebody in between asks for that.
        """
        if self.sqlite:
            return ""
        from sqlalchemy import make_url  # commands that only read settings do without it
        from sqlalchemy.exc import ArgumentError

        try:
            url = make_url(self.database)
        except ArgumentError:
            return ""  # said where the engine is made
        modes = url.query.get("sslmode", ())
        if modes in ("require", "verify-ca", "verify-full", "disable"):
            return ""
        given = url.query.get("host", ())
        hosts = [each for text in ((given,) if isinstance(given, str) else given) for each in text.split(",")]
        hosts = [host.rpartition(":")[0] if host.count(":") == 1 else host for host in hosts]
        for host in hosts or [url.host or ""]:
            if host and not host.startswith("/") and not is_loopback(host):
                return host
        return ""

    @property
    def advice(self) -> list[str]:
        """What a production portal may do and had better not, in sentences that name the setting."""
        if not self.production:
            return []
        found = []
        if self.sqlite:
            found.append("DATABASE_URL is empty: SQLite serves one host, and no backup while it is copied by hand.")
        elif "sslmode=disable" in self.database_url:
            found.append("DATABASE_URL says sslmode=disable: passwords and data cross the network as they are.")
        if not self.seal_keys:
            found.append(
                f"SEAL_KEYS is empty: the key of stored credentials is in {self.data_dir / 'keys'}. Keep that folder "
                "on a disk that stays, and back it up."
            )
        if is_loopback(self.bind) and not self.trusted_proxies:
            found.append("TRUSTED_PROXIES is empty: everybody seems to come from the proxy, and shares its limits.")
        if self.log_level == "DEBUG":
            found.append("LOG_LEVEL is DEBUG: a line for every poll of every page.")
        if os.geteuid() == 0:
            found.append("The portal runs as root. Give it a user of its own.")
        return found

    @property
    def proxies(self) -> tuple[IPv4Network | IPv6Network, ...]:
        """TRUSTED_PROXIES as networks. Raises ConfigError."""
        found = []
        for text in filter(None, (part.strip() for part in self.trusted_proxies.split(","))):
            try:
                found.append(ip_network(text, strict=False))
            except ValueError:
                raise ConfigError(
                    f"TRUSTED_PROXIES must be addresses or networks such as 10.1.0.0/16, not {text!r}."
                ) from None
        return tuple(found)

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
    def theme_cookie(self) -> str:
        """Keeps light or dark. With https no other host of the domain can set it."""
        return "__Host-theme" if self.secure else "theme"

    @property
    def hosts(self) -> list[str]:
        """The Host headers that are answered: the base URL's, and the loopback names for the portal's own probes."""
        return [urlsplit(self.url).hostname or "", "127.0.0.1", "localhost"]

    @property
    def database(self) -> str:
        """As SQLAlchemy wants it: PostgreSQL is always spoken to through psycopg."""
        scheme, separator, rest = self.database_url.partition("://")
        if scheme in ("postgres", "postgresql"):
            return f"postgresql+psycopg{separator}{rest}"
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
