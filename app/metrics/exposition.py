"""Where Prometheus asks: a port of its own for the web, the next one for the worker.

Several web processes write into one folder, and each of them can answer for all: they share one listening socket, so
that there is one target, which is as alive as the web is.
"""

from __future__ import annotations

import contextlib
import errno
import hmac
import logging
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from flask import Flask
from sqlalchemy import event

from app.config import Config, ConfigError
from app.database import db
from app.metrics import figures
from app.metrics.figures import Teller
from app.metrics.questions import Database

MEMORY = Path("/dev/shm")  # noqa: S108 - the folder made in it is private and has a random name
PREFIX = "simpletrain-metrics-"
AGAIN = 5.0  # seconds between tries where another worker still has the port

log = logging.getLogger("simpletrain.metrics")

_web: tuple[socket.socket, Path] | None = None  # of the master, inherited by the web processes


# the web


def open_web(config: Config) -> Path:
    """Take the port and make an empty folder for the figures, before any web process starts. Raises ConfigError."""
    global _web
    _web = _listen(config.metrics_bind, config.metrics_port), _fresh_folder(config.data_dir)
    return _web[1]


def close_web() -> None:
    if _web is not None:
        _web[0].close()
        shutil.rmtree(_web[1], ignore_errors=True)


def tell_of_web(app: Flask) -> None:
    """In a web process, after the fork: count, and answer for all of them. Does nothing where metrics are off."""
    if _web is None:
        return
    from prometheus_client import CollectorRegistry, generate_latest
    from prometheus_client.multiprocess import MultiProcessCollector

    listener, folder = _web
    figures.begin(Teller.WEB, registry=None)
    _count_connections(app)
    database = Database(app)

    def collect() -> bytes:
        registry = CollectorRegistry()
        MultiProcessCollector(registry, str(folder))  # type: ignore[no-untyped-call]
        registry.register(database)
        return generate_latest(registry)

    _serve(listener, app.config["PORTAL"].metrics_token, collect)


def forget_process(pid: int) -> None:
    """A web process has ended: what it held counts no more, what it counted stays."""
    if _web is not None:
        from prometheus_client.multiprocess import mark_process_dead

        mark_process_dead(pid, str(_web[1]))  # type: ignore[no-untyped-call]


def _fresh_folder(data_dir: Path) -> Path:
    """In memory where that can be: the files are mapped, and a full disk would end a process that counts with a signal.

    A link in DATA_DIR leads there, so that the next start removes what a killed one left.
    """
    link = data_dir / "metrics"
    if link.is_symlink():
        old = link.readlink()
        if old.parent == MEMORY and old.name.startswith(PREFIX):
            shutil.rmtree(old, ignore_errors=True)
        link.unlink()
    shutil.rmtree(link, ignore_errors=True)
    try:
        folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=MEMORY))
    except OSError:
        link.mkdir(mode=0o700)
        return link
    with contextlib.suppress(OSError):  # a full disk: then only the cleaning is lost
        link.symlink_to(folder)
    return folder


# the worker


def tell_of_worker(app: Flask) -> None:
    """Count, and answer on the port after the web's. A port that is taken is tried again: it stops no worker."""
    config: Config = app.config["PORTAL"]
    if not config.metrics_port:
        return
    from prometheus_client import CollectorRegistry, generate_latest

    registry = CollectorRegistry()
    figures.begin(Teller.WORKER, registry)
    _count_connections(app)

    def open_and_serve() -> None:
        told = False
        while True:
            try:
                listener = _listen(config.metrics_bind, config.metrics_port + 1)
                break
            except ConfigError as error:
                if not told:
                    log.warning("%s It is tried again.", error)
                told = True
                time.sleep(AGAIN)
        _serve(listener, config.metrics_token, lambda: generate_latest(registry))

    threading.Thread(target=open_and_serve, name="metrics", daemon=True).start()


# both


def _count_connections(app: Flask) -> None:
    with app.app_context():
        engine = db.engine
    event.listen(engine, "checkout", lambda *_: figures.CONNECTIONS.add(1))
    event.listen(engine, "checkin", lambda *_: figures.CONNECTIONS.add(-1))


def _listen(bind: str, port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET6 if ":" in bind else socket.AF_INET)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((bind, port))
        listener.listen(16)
    except OSError as error:
        listener.close()
        why = "it is taken" if error.errno == errno.EADDRINUSE else error.strerror
        raise ConfigError(f"METRICS_PORT: port {port} of {bind} cannot be used ({why}).") from error
    listener.setblocking(False)  # several processes wait at it, and only one gets the caller
    return listener


def _serve(listener: socket.socket, token: str, collect: Callable[[], bytes]) -> None:
    class Answer(BaseHTTPRequestHandler):
        timeout = 10.0  # seconds of silence
        server_version, sys_version = "simpletrain", ""

        def do_GET(self) -> None:
            if token and not _same(self.headers.get("Authorization", ""), f"Bearer {token}"):
                self._say(401, b"a bearer token is required: METRICS_TOKEN\n", **{"WWW-Authenticate": "Bearer"})
            elif self.path.partition("?")[0] != "/metrics":
                self._say(404, b"the figures are at /metrics\n")
            else:
                self._say(200, collect())

        def _say(self, status: int, body: bytes, **headers: str) -> None:
            self.send_response(status)
            text = "text/plain; version=0.0.4; charset=utf-8" if status == 200 else "text/plain; charset=utf-8"
            for name, value in {"Content-Type": text, "Content-Length": str(len(body)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Nothing: a question every few seconds is no news."""

    server = _Server(listener, Answer)
    threading.Thread(target=server.serve_forever, args=(3600.0,), name="metrics", daemon=True).start()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, listener: socket.socket, answer: type[BaseHTTPRequestHandler]) -> None:
        super().__init__(listener.getsockname()[:2], answer, bind_and_activate=False)
        self.socket.close()
        self.socket = listener

    def handle_error(self, request: object, client_address: object) -> None:
        """A caller that hangs up is no news, anything else is."""
        log.debug("a question for metrics was not answered", exc_info=True)


def _same(given: str, wanted: str) -> bool:
    return hmac.compare_digest(given.encode("utf-8", "replace"), wanted.encode())
