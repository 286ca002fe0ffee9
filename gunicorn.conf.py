"""How gunicorn serves the portal: the same for `make run` and production. Settings come from app/config.py."""

from app.config import Config

_config = Config.from_env()

bind = f"[{_config.bind}]:{_config.port}" if ":" in _config.bind else f"{_config.bind}:{_config.port}"
worker_class = "gthread"
workers = _config.web_workers
threads = _config.web_threads
preload_app = _config.web_workers > 1  # shared memory; with one worker the master stays small instead
timeout = 60
graceful_timeout = 15
keepalive = 30
max_requests = 0
control_socket_disable = True  # it would be made in the home folder, which may not be writable
forwarded_allow_ips = _config.trusted_proxies or "127.0.0.1" if _config.production else ""
accesslog = None
errorlog = "-"
loglevel = "warning"
proc_name = "simpletrain-web"


def post_fork(_server: object, _worker: object) -> None:
    """A connection opened before the fork must not be shared between processes."""
    if preload_app:
        from app.extensions import db
        from wsgi import app

        with app.app_context():
            db.engine.dispose(close=False)
