from __future__ import annotations

import click
from flask.cli import AppGroup

from app.clusters import service
from app.installation import service as installation

clusters = AppGroup("clusters", help="Places where jobs run.")


@clusters.command("list")
def list_() -> None:
    """Name, kind and state of every cluster."""
    installation.prepare()
    for row in service.everything():
        state = row.refused or row.error or ("answered" if row.answered_at else "not looked at yet")
        click.echo(f"{row.name}\t{row.kind.value}\t{state}")
