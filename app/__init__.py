"""SimpleTrain: a portal to run training jobs on GPU clusters. The whole assembly stands on this screen."""

from __future__ import annotations

import sys

from flask import Flask

from app import errors, journal, security, wake
from app.config import Config, ConfigError


def create_app(config: Config | None = None) -> Flask:
    """The application with these settings, or with those of the environment. Does no I/O beyond reading the key.

    Raises ConfigError; with the environment's settings it ends the process with that sentence.
    """
    if config is None:
        try:
            return create_app(Config.from_env())
        except ConfigError as error:
            sys.exit(f"simpletrain: {error}")

    from app import api, commands, components, database, extensions, health
    from app.accounts import access as accounts_access
    from app.accounts.routes import bp as accounts_pages
    from app.api import limits
    from app.api.routes import bp as api_pages
    from app.gate import Gate
    from app.installation import keys
    from app.jobs.api import register as jobs_api
    from app.jobs.routes import bp as jobs_pages
    from app.orgs import access as orgs_access

    journal.set_up(config)
    app = Flask(__name__)
    app.config.from_mapping(
        PORTAL=config,
        SECRET_KEY=keys.read(config) or None,
        SQLALCHEMY_DATABASE_URI=config.database,
        # hidden: an error that is written down must not tell a row's values, which may be secret
        SQLALCHEMY_ENGINE_OPTIONS={**database.engine_options(config), "hide_parameters": True},
        TRUSTED_HOSTS=config.hosts,
        MAX_CONTENT_LENGTH=4 << 20,
        MAX_FORM_MEMORY_SIZE=4 << 20,
        PERMANENT_SESSION_LIFETIME=config.session_hours * 3600,
        SESSION_COOKIE_SECURE=config.secure,
        SESSION_COOKIE_HTTPONLY=True,
        SESSION_COOKIE_SAMESITE="Lax",
        SESSION_REFRESH_EACH_REQUEST=False,
        WTF_CSRF_TIME_LIMIT=None,  # a token lives as long as its session: pages stay open all day
    )

    database.bind(app)
    extensions.migrate.init_app(app, extensions.db, directory="migrations", render_as_batch=True)
    wake.install(app)

    # in the order in which a request passes them
    journal.install(app)
    security.install(app, config)
    extensions.csrf.init_app(app)
    limits.install(app, config)
    accounts_access.install(app)
    orgs_access.install(app)

    app.register_blueprint(health.bp)
    app.register_blueprint(accounts_pages)
    app.register_blueprint(jobs_pages)
    app.register_blueprint(api_pages)
    api.install(app, jobs_api)
    components.install(app, config)
    errors.install(app)
    commands.install(app)
    app.wsgi_app = Gate(app.wsgi_app)  # type: ignore[method-assign]
    return app
