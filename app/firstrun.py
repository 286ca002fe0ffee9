"""What `serve` sees to before it starts anything: that it is alone, and that a new portal has something to try."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import time

from sqlalchemy import select

from app.accounts import service as accounts
from app.audit import service as audit
from app.clusters import service as clusters
from app.config import REPOSITORY, Config
from app.database import db, transaction
from app.installation import service as installation
from app.orgs import service as orgs
from app.presets import service as presets

ORG = "lab"
PORT_PATIENCE = 3.0  # seconds that a port may stay taken
EXAMPLE = REPOSITORY / "examples" / "digits" / "preset.yaml"


def hold(config: Config) -> int:
    """Take DATA_DIR for this portal alone, for as long as the process lives. Raises NotReady."""
    folder = config.data_dir
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(folder / "serve.lock", os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise installation.NotReady(
            f"DATA_DIR: nothing can be written in {folder.absolute()} ({error.strerror})."
        ) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise installation.NotReady(
            f"Another portal runs on {folder.absolute()}. Stop it, or give this one a DATA_DIR of its own."
        ) from None
    try:
        _check_port(config)
    except installation.NotReady:
        os.close(lock)
        raise
    return lock


def _check_port(config: Config) -> None:
    # the web of a portal whose supervisor was killed a moment ago may still be ending
    deadline = time.monotonic() + PORT_PATIENCE
    while True:
        try:
            with socket.socket(socket.AF_INET6 if ":" in config.bind else socket.AF_INET) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind((config.bind, config.port))
            return
        except OSError as error:
            if error.errno == errno.EADDRINUSE and time.monotonic() < deadline:
                time.sleep(0.1)
                continue
            raise installation.NotReady(
                f"Port {config.port} of {config.bind} cannot be used ({error.strerror}). Take another one: "
                f"make run PORT={config.port + 1}"
            ) from error


def furnish(config: Config) -> str:
    """First-run data, the cluster of this machine, the base URL; a sign-in link, or nothing in production."""
    with audit.by_portal(), transaction():
        clusters.ensure_this_machine(config.local_jobs_refused)
        if not accounts.any_exists():
            operator, _ = accounts.create(installation.operator_email(), admin=True)
            org = orgs.first() or orgs.create(ORG, "Lab")
            orgs.join(org, operator.id, orgs.Role.OWNER)
            if not presets.of_org(org.id):
                presets.import_presets(org.id, EXAMPLE.read_text(encoding="utf-8"))
    installation.record_base_url()
    if config.production:
        return ""
    with transaction():
        user = db.session.scalars(
            select(accounts.User)
            .where(accounts.User.admin.is_(True), accounts.User.disabled_at.is_(None))
            .order_by(accounts.User.id)
            .limit(1)
        ).first()
        secret = accounts.make_link(user) if user is not None else ""
    return installation.link(secret) if secret else ""
