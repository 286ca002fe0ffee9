from __future__ import annotations

from pathlib import Path

import click
from flask.cli import AppGroup

from app.database import transaction
from app.installation import service as installation
from app.orgs import service as orgs
from app.presets import service

presets = AppGroup("presets", help="Presets of an org.")


@presets.command("import")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--org", required=True, help="Slug of the org.")
def import_(file: Path, org: str) -> None:
    """Make or renew presets from a YAML file. The same file again changes nothing."""
    installation.ready()
    try:
        with transaction():
            done = service.import_presets(orgs.by_slug(org).id, file.read_text(encoding="utf-8"))
    except (service.PresetError, orgs.UnknownOrg, UnicodeDecodeError) as error:
        raise click.ClickException(str(error)) from error
    for name, what in done:
        click.echo(f"{name}: {what}")
