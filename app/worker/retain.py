"""Once an hour, and with the least claim to the database: lets go of what the settings call old."""

from __future__ import annotations

import logging
import threading

from flask import Flask

from app.config import Config
from app.database import db
from app.retention import service as retention

FIRST = 60.0  # seconds after a start
EVERY = 3600.0  # seconds

log = logging.getLogger("simpletrain.worker")


class Retainer:
    """A thread of its own: it waits for nobody, and nobody waits for it."""

    def __init__(self, app: Flask, config: Config) -> None:
        self._app = app
        self._config = config
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="retention", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """End after the transaction that is open."""
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        pause = FIRST
        while not self._ended.wait(pause):
            pause = EVERY
            try:
                with self._app.app_context():
                    removed = retention.run(self._config, self._ended.wait)
                if removed:
                    log.info("retention removed %s", removed)
            except Exception:
                # the database is away or full: what is old is still old in an hour
                log.exception("retention failed; it is tried again")
                with self._app.app_context():
                    db.session.rollback()
