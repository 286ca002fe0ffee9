"""The key that signs sessions: given by the operator, or made once at the first run."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
import secrets
import stat
from pathlib import Path

from app.config import Config, ConfigError


def key_file(config: Config) -> Path:
    return config.data_dir / "keys" / "session.key"


def read(config: Config) -> str:
    """The key; empty where there is none yet."""
    _refuse_open_files(config)
    if config.secret_key:
        return config.secret_key
    try:
        return key_file(config).read_text(encoding="ascii").strip()
    except (FileNotFoundError, NotADirectoryError):  # nor a folder for it: `prepare` says so in a sentence
        return ""
    except OSError as error:
        text = f"DATA_DIR: {key_file(config)} cannot be read ({error.strerror}). Is it another user's portal?"
        raise ConfigError(text) from error


def _refuse_open_files(config: Config) -> None:
    """Raises ConfigError where others can read a key of a production portal.

    Reading by the group is let pass: so Kubernetes mounts a Secret for a pod that does not run as root.
    """
    if not config.production or not key_file(config).parent.is_dir():
        return
    for file in sorted(key_file(config).parent.iterdir()):
        mode = file.stat().st_mode
        if stat.S_ISREG(mode) and mode & 0o027:
            found = stat.S_IMODE(mode)
            raise ConfigError(f"{file.absolute()} is open to others (mode {found:o}). Run: chmod 600 {file.absolute()}")


def make(config: Config) -> str:
    """Make the key of a new installation. Two that start at once end up with the same one."""
    write_once(key_file(config), secrets.token_urlsafe(48) + "\n")
    return read(config)


def _next_file(config: Config) -> Path:
    return key_file(config).with_name("session.key.next")


def being_made(config: Config) -> str:
    """The key that a change of keys has made and not yet put in its place; empty where there is none."""
    try:
        return _next_file(config).read_text(encoding="ascii").strip()
    except OSError:
        return ""


def make_next(config: Config) -> str:
    """Begin to change the key, or go on where somebody began: the key that will be used."""
    write_once(_next_file(config), secrets.token_urlsafe(48) + "\n")
    return being_made(config)


def put_next_in_place(config: Config) -> None:
    """End it: from now on the next key is the key."""
    _next_file(config).replace(key_file(config))


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
