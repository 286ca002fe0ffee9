"""The operator's commands: flask --app wsgi …"""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from typing import Any

import click
from flask import Flask, current_app
from flask.cli import with_appcontext

from app.accounts.cli import tokens, users
from app.audit.cli import audit
from app.clusters.cli import clusters
from app.config import REPOSITORY, Config
from app.installation import service as installation
from app.installation.cli import backup, database, keys, restore
from app.orgs.cli import orgs
from app.presets.cli import presets
from app.retention.cli import retention

log = logging.getLogger("simpletrain")


def install(app: Flask) -> None:
    for group in (users, tokens, orgs, presets, clusters, keys):
        app.cli.add_command(_explaining(group))
    for command in (migrate, web, worker, serve, retention, audit, backup, restore, database):
        app.cli.add_command(command)


def _explaining(group: click.Group) -> click.Group:
    """Make a group's commands end with a sentence where the portal is not ready."""
    for name, command in list(group.commands.items()):
        callback = command.callback

        def wrapped(*args: Any, _callback: Any = callback, **kwargs: Any) -> Any:
            try:
                return _callback(*args, **kwargs)
            except installation.NotReady as error:
                raise click.ClickException(str(error)) from error

        if callback is not None and not getattr(callback, "explains", False):
            wrapped.explains = True  # type: ignore[attr-defined]
            group.commands[name].callback = wrapped
    return group


@click.command()
@with_appcontext
def migrate() -> None:
    """Bring the database up to this version, making it if it is new."""
    try:
        before, after = installation.prepare()
    except installation.NotReady as error:
        raise click.ClickException(str(error)) from error
    if before not in (None, after):
        click.echo(f"The schema was {before} and is {after} now: an older version needs a backup from before.")
    click.echo("The database is up to date.")


@click.command()
@with_appcontext
def web() -> None:
    """The web process. It refuses a database that is not ready, and never changes its schema."""
    _verify()
    arguments = [sys.executable, "-m", "gunicorn", "-c", str(REPOSITORY / "gunicorn.conf.py"), "wsgi:app"]
    config: Config = current_app.config["PORTAL"]
    for sentence in config.advice:
        log.warning(sentence)
    os.environ["DATA_DIR"] = str(config.data_dir)  # it may be relative to this folder
    os.chdir(REPOSITORY)
    os.execv(sys.executable, arguments)  # noqa: S606 - this process becomes gunicorn


@click.command()
@with_appcontext
def worker() -> None:
    """The worker. Only one works at a time; a second one waits for its turn."""
    from app.worker.main import run

    _verify()
    app: Flask = current_app._get_current_object()  # type: ignore[attr-defined]
    raise SystemExit(run(app))


def _verify() -> None:
    try:
        installation.verify()
    except installation.NotReady as error:
        raise click.ClickException(str(error)) from error


@click.command()
@with_appcontext
def serve() -> None:
    """Web and worker together, with everything made ready first. What `make run` starts."""
    from app import firstrun

    config: Config = current_app.config["PORTAL"]
    try:
        lock = firstrun.hold(config)
        installation.ready()
        link = firstrun.furnish(config)
    except installation.NotReady as error:
        raise click.ClickException(str(error)) from error
    # The supervisor needs none of what is loaded here: exec gives its memory back. The lock goes along.
    supervisor = Path(__file__).with_name("supervisor.py")
    os.set_inheritable(lock, True)
    environment = {
        **os.environ,
        "DATA_DIR": str(config.data_dir),
        "SIMPLETRAIN_LOCK": str(lock),
        "SIMPLETRAIN_LINK": link,
    }
    arguments = [sys.executable, "-I", str(supervisor), str(config.port), config.bind]
    os.execve(sys.executable, arguments, environment)  # noqa: S606 - this process becomes the supervisor
