"""The key that signs sessions: given by the operator, or made once at the first run."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
import secrets
from pathlib import Path

from app.config import Config, ConfigError


def key_file(config: Config) -> Path:
    return config.data_dir / "keys" / "session.key"


def read(config: Config) -> str:
    """The key; empty where there is none yet."""
    if config.secret_key:
        return config.secret_key
    try:
        return key_file(config).read_text(encoding="ascii").strip()
    except (FileNotFoundError, NotADirectoryError):  # nor a folder for it: `prepare` says so in a sentence
        return ""
    except OSError as error:
        text = f"DATA_DIR: {key_file(config)} cannot be read ({error.strerror}). Is it another user's portal?"
        raise ConfigError(text) from error


def make(config: Config) -> str:
    """Make the key of a new installation. Two that start at once end up with the same one."""
    write_once(key_file(config), secrets.token_urlsafe(48) + "\n")
    return read(config)


def write_once(path: Path, text: str) -> None:
    """Write a file that only its owner may read, unless it is there already: the first of several wins."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    fresh = path.with_name(f"{path.name}.{os.getpid()}")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):
            os.link(fresh, path)  # a rename would replace what another process wrote first
    finally:
        fresh.unlink()


def check_value(key: str) -> bytes:
    """What the database keeps to recognise its key, without giving it away."""
    return hmac.new(key.encode(), b"simpletrain: this database belongs to this key", hashlib.sha256).digest()
