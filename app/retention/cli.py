from __future__ import annotations

import time

import click
from flask.cli import with_appcontext

from app.installation import service as installation
from app.retention import service


@click.command()
@click.option("--dry-run", is_flag=True, help="Say what would go, and change nothing.")
@with_appcontext
def retention(dry_run: bool) -> None:
    """Remove what the settings RETAIN_… call old. The worker does the same every hour."""
    try:
        installation.verify()
    except installation.NotReady as error:
        raise click.ClickException(str(error)) from error
    config = installation.config()
    for line in service.rules(config):
        click.echo(line)
    if dry_run:
        click.echo(f"Would go: {service.would_remove(config)}.")
    else:
        click.echo(f"Removed: {service.run(config, _rest)}.")


def _rest(seconds: float) -> bool:
    time.sleep(seconds)
    return False
