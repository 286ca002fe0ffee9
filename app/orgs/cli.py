from __future__ import annotations

import click
from flask.cli import AppGroup

from app.database import transaction
from app.installation import service as installation
from app.orgs import service

orgs = AppGroup("orgs", help="Orgs.")


@orgs.command("create")
@click.argument("slug")
@click.option("--name", default="", help="What people read; the slug if left out.")
def create(slug: str, name: str) -> None:
    """Make an org."""
    installation.ready()
    try:
        with transaction():
            service.create(slug, name)
    except service.OrgError as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"The org {slug} is there. Add people with: users create EMAIL --org {slug}")
