"""Sealed secrets: anyone with the public key can seal, only the worker and the operator's commands can open.

The web seals what an owner types (a cluster's credential) and could not read it back. libsodium's sealed boxes:
X25519, XSalsa20 and Poly1305. PyNaCl is loaded only where something is sealed or opened.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import os
from pathlib import Path

from app.config import Config, ConfigError
from app.installation.keys import write_once


class CannotOpen(Exception):
    """None of the keys at hand opens this."""


def key_file(config: Config) -> Path:
    return config.data_dir / "keys" / "seal.keys"


def read(config: Config) -> list[bytes]:
    """The private keys, the newest first; none where there are none yet. Raises ConfigError for a malformed one."""
    written = config.seal_keys
    if not written:
        try:
            written = key_file(config).read_text(encoding="ascii")
        except FileNotFoundError:
            return []
    keys = []
    for part in written.replace(",", "\n").split():
        try:
            key = base64.b64decode(part, validate=True)
        except binascii.Error:
            key = b""
        if len(key) != 32:
            raise ConfigError("SEAL_KEYS holds something that is not 32 bytes in base64.")
        keys.append(key)
    return keys


def make(config: Config) -> list[bytes]:
    """Make the first private key of a new installation. Two that start at once end up with the same one."""
    from nacl.public import PrivateKey

    write_once(key_file(config), base64.b64encode(bytes(PrivateKey.generate())).decode() + "\n")
    return read(config)


def add(config: Config) -> list[bytes]:
    """Put a new key in front of those in the file: it seals from now on, the others still open. All keys, newest first.

    Raises ConfigError where the keys are not in the file but in SEAL_KEYS, which only the operator can change.
    """
    from nacl.public import PrivateKey

    if config.seal_keys:
        raise ConfigError(
            "SEAL_KEYS is set: put a new key of 32 random bytes in base64 in front of it, then try again."
        )
    _write(config, [bytes(PrivateKey.generate()), *read(config)])
    return read(config)


def keep_newest(config: Config) -> int:
    """Remove all keys of the file but the newest; how many. Raises ConfigError where they are in SEAL_KEYS."""
    if config.seal_keys:
        raise ConfigError("SEAL_KEYS is set: nothing needs any key in it but the first. Take the others out yourself.")
    known = read(config)
    if len(known) > 1:
        _write(config, known[:1])
    return len(known) - 1


def _write(config: Config, known: list[bytes]) -> None:
    path = key_file(config)
    lines = [base64.b64encode(key).decode() for key in known]
    fresh = path.with_name(f"{path.name}.{os.getpid()}")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write("\n".join(lines) + "\n")
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)


def public_key(private: bytes) -> bytes:
    from nacl.public import PrivateKey

    return bytes(PrivateKey(private).public_key)


def seal(public: bytes, secret: bytes) -> bytes:
    from nacl.public import PublicKey, SealedBox

    return bytes(SealedBox(PublicKey(public)).encrypt(secret))


def unseal(keys: list[bytes], sealed: bytes) -> bytes:
    """Raises CannotOpen."""
    from nacl.exceptions import CryptoError
    from nacl.public import PrivateKey, SealedBox

    for key in keys:
        with contextlib.suppress(CryptoError):
            return bytes(SealedBox(PrivateKey(key)).decrypt(sealed))
    raise CannotOpen("The key that this was sealed for is not among SEAL_KEYS.")
