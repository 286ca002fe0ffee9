"""How gunicorn serves the portal: the same for `make run` and production. Settings come from app/config.py."""

from app.config import Config

_config = Config.from_env()

bind = f"[{_config.bind}]:{_config.port}" if ":" in _config.bind else f"{_config.bind}:{_config.port}"
worker_class = "gthread"
workers = _config.web_workers
threads = _config.web_threads
preload_app = True  # what master and workers have in common is in memory once
timeout = 60
graceful_timeout = 15
keepalive = 30
max_requests = 0
control_socket_disable = True  # it would be made in the home folder, which may not be writable
forwarded_allow_ips = ""  # app/security.py believes proxies, and only those of TRUSTED_PROXIES
accesslog = None
errorlog = "-"
loglevel = "warning"
proc_name = "simpletrain-web"


def post_fork(_server: object, _worker: object) -> None:
    """A connection opened before the fork must not be shared between processes."""
    from app.extensions import db
    from wsgi import app

    with app.app_context():
        db.engine.dispose(close=False)
