"""Secrets that people carry, and passwords. Only hashes go to the database; comparing takes the same time always."""

from __future__ import annotations

import hashlib
import secrets

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

# OWASP's minimum. The library's default takes 64 MiB and four lanes for each sign-in: 1 GiB with 16 threads.
_hasher = PasswordHasher(memory_cost=19456, time_cost=2, parallelism=1)
_NOBODY = _hasher.hash(secrets.token_hex())

PASSWORD_MIN, PASSWORD_MAX = 10, 1024  # characters


def random_secret() -> str:
    return secrets.token_urlsafe(32)  # 256 bits, 43 characters


def public_id(once: str = "") -> str:
    """Twelve hexadecimal digits: random, or always the same ones for the same text."""
    return digest(once).hex()[:12] if once else secrets.token_hex(6)


def digest(secret: str) -> bytes:
    """SHA-256 is enough for secrets of 256 random bits; only passwords need a slow hash."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()


def same(one: bytes, other: bytes) -> bool:
    return secrets.compare_digest(one, other)


def hash_password(password: str) -> str:
    return _hasher.hash(password)


def password_matches(password: str, stored: str | None) -> bool:
    """Takes as long for a person who does not exist, or has no password, as for a wrong one."""
    if len(password) > PASSWORD_MAX:
        return False
    try:
        matches = _hasher.verify(stored or _NOBODY, password.encode("utf-8", "surrogatepass"))
    except (VerificationError, InvalidHashError):
        return False
    return bool(matches) and stored is not None


def password_is_old(stored: str) -> bool:
    """Hashed with other parameters than today's."""
    return _hasher.check_needs_rehash(stored)
