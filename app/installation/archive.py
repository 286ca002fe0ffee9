"""The file that a backup is: a tar with a manifest first and the database behind it, with a checksum."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any

FORMAT = 1
MANIFEST = "manifest.json"
BLOCK = 1 << 20  # bytes read at a time
MANIFEST_LIMIT = 1 << 20  # bytes


class BadArchive(Exception):
    """This file is not a backup, or not a whole one. The message is a sentence."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """What is in a backup, and what fits it. No key, and nothing that a key could be found from."""

    version: str  # of SimpleTrain
    made_at: str
    database: str  # sqlite or postgresql
    server: str  # version of the database
    revision: str  # of the schema
    installation: str  # its id
    key_check: str  # in hexadecimal: recognises the SECRET_KEY
    seal_public: str  # in hexadecimal: recognises the newest key of stored credentials
    credentials: int  # how many there are, sealed
    counts: dict[str, int]  # rows by table
    file: str  # name of the database in the archive
    size: int = 0
    sha256: str = ""
    format: int = field(default=FORMAT)


def write(path: Path, manifest: Manifest, content: Path) -> None:
    """Put both into a new file that only its owner may read, for good."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        with tarfile.open(fileobj=file, mode="w") as tar:
            told = json.dumps(asdict(manifest), indent=1).encode()
            tar.addfile(_member(MANIFEST, len(told)), io.BytesIO(told))
            with open(content, "rb") as database:
                tar.addfile(_member(manifest.file, manifest.size), database)
        file.flush()
        os.fsync(file.fileno())


def _member(name: str, size: int) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.size, member.mode = size, 0o600
    return member


@contextmanager
def _opened(path: Path) -> Iterator[tuple[Manifest, IO[bytes]]]:
    try:
        with tarfile.open(path, mode="r:") as tar:
            first = tar.next()
            told = tar.extractfile(first) if first is not None and first.name == MANIFEST else None
            if first is None or told is None or first.size > MANIFEST_LIMIT:
                raise BadArchive(f"{path} is no backup of SimpleTrain.")
            manifest = _manifest(path, told.read())
            second = tar.next()
            database = tar.extractfile(second) if second is not None and second.name == manifest.file else None
            if second is None or database is None:
                raise BadArchive(f"{path} is not whole: {manifest.file} is missing.")
            yield manifest, database
    except OSError as error:
        raise BadArchive(f"{path} cannot be read ({error.strerror or error}).") from error
    except tarfile.TarError as error:
        raise BadArchive(f"{path} is no backup of SimpleTrain, or not a whole one ({error}).") from error


def _manifest(path: Path, told: bytes) -> Manifest:
    try:
        found: dict[str, Any] = json.loads(told)
        if found["format"] != FORMAT:
            raise BadArchive(f"{path} was made by a newer SimpleTrain ({found['version']}). Restore it with that one.")
        return Manifest(**found)
    except (ValueError, TypeError, KeyError) as error:
        raise BadArchive(f"{path} is no backup of SimpleTrain, or not a whole one ({error}).") from error


def read_manifest(path: Path) -> Manifest:
    """Raises BadArchive."""
    with _opened(path) as (manifest, _):
        return manifest


def read(path: Path, take: Callable[[bytes], object]) -> None:
    """Give the database away in blocks; raises BadArchive at its end where it is not what was written."""
    digest, length = hashlib.sha256(), 0
    with _opened(path) as (manifest, database):
        while block := database.read(BLOCK):
            digest.update(block)
            length += len(block)
            take(block)
    if length != manifest.size or digest.hexdigest() != manifest.sha256:
        raise BadArchive(f"{path} is damaged: its content is not what was written (checksum). Take another backup.")
