"""How gunicorn serves the portal: the same for `make run` and production. Settings come from app/config.py."""

from __future__ import annotations

import os
import sys
from typing import Any

from gunicorn.glogging import Logger  # type: ignore[import-untyped]

from app import journal
from app.config import Config, ConfigError

_config = Config.from_env()
journal.set_up(_config)

bind = f"[{_config.bind}]:{_config.port}" if ":" in _config.bind else f"{_config.bind}:{_config.port}"
worker_class = "app.refusals.Worker"  # gthread, whose own errors are the API's, and whose patience has an end
workers = _config.web_workers
threads = _config.web_threads
preload_app = True  # what master and workers have in common is in memory once
timeout = 60  # seconds without a sign of life of a whole process, not of a request
graceful_timeout = 15  # seconds for requests under way; the supervisor waits longer
sendfile = False  # it would wait without end for whoever does not read
keepalive = 30  # seconds; a proxy that keeps connections longer meets one that was just closed
max_requests = 0  # nothing grows with requests (docs/decisions/0009), so nobody is thrown out in the middle
limit_request_line = 8190
limit_request_fields = 100
limit_request_field_size = 8190
control_socket_disable = True  # it would be made in the home folder, which may not be writable
forwarded_allow_ips = ""  # app/security.py believes proxies, and only those of TRUSTED_PROXIES
forwarder_headers = ""
accesslog = None  # app/journal.py writes a line for each request
errorlog = "-"
loglevel = "warning"
proc_name = "simpletrain-web"


class logger_class(Logger):  # type: ignore[misc]  # noqa: N801 - the setting's name
    """gunicorn's own lines, in the format of all others."""

    def setup(self, cfg: Any) -> None:
        super().setup(cfg)
        for handler in list(self.error_log.handlers):
            self.error_log.removeHandler(handler)
        self.error_log.propagate = True


def on_starting(_server: object) -> None:
    if _config.metrics_port:
        from app.metrics import exposition

        try:
            folder = exposition.open_web(_config)
        except ConfigError as error:
            sys.exit(f"simpletrain: {error}")
        # prometheus_client reads this when it is loaded, which no process has done yet
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(folder)


def post_fork(_server: object, _worker: object) -> None:
    """A connection opened before the fork must not be shared between processes."""
    from app.extensions import db
    from wsgi import app

    with app.app_context():
        db.engine.dispose(close=False)
    if _config.metrics_port:
        from app.metrics import exposition

        exposition.tell_of_web(app)


def child_exit(_server: object, worker: Any) -> None:
    if _config.metrics_port:
        from app.metrics import exposition

        exposition.forget_process(worker.pid)


def on_exit(_server: object) -> None:
    if _config.metrics_port:
        from app.metrics import exposition

        exposition.close_web()
