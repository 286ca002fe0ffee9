from __future__ import annotations

from pathlib import Path

import click
from flask.cli import AppGroup, with_appcontext

from app.accounts import service as accounts
from app.audit import service as audit
from app.cluster.faults import fault
from app.cluster.text import count, size
from app.clusters import service as clusters
from app.config import ConfigError
from app.database import transaction
from app.installation import keys as session_keys
from app.installation import sealing, service

File = click.Path(dir_okay=False, path_type=Path)


@click.command()
@click.argument("file", type=File, required=False)
@click.option("--keys", "keys_file", type=File, help="Write the keys to a file of their own, which only you may read.")
@with_appcontext
def backup(file: Path | None, keys_file: Path | None) -> None:
    """Write the database into one FILE while the portal runs. No key is in it."""
    from app.installation import backup as backups

    if file is None and keys_file is None:
        raise click.UsageError("Give a FILE for the backup, or --keys FILE, or both.")
    try:
        if file is not None:
            made = backups.make(service.config(), file)
            click.echo(
                f"{file}: {size(file.stat().st_size)}, {count(made.counts['jobs'], 'job')}, schema {made.revision}. "
                "What local jobs have in DATA_DIR/local is not in it."
            )
        if keys_file is not None:
            backups.keep_keys(service.config(), keys_file)
            click.echo(f"{keys_file}: the keys. Keep it apart from the backups: both together open everything.")
    except service.NotReady as error:
        raise click.ClickException(str(error)) from error


@click.command()
@click.argument("file", type=File)
@click.option("--keys", "keys_file", type=File, help="The keys that `backup --keys` wrote.")
@click.option("--force", is_flag=True, help="Replace a database that has data.")
@with_appcontext
def restore(file: Path, keys_file: Path | None, force: bool) -> None:
    """Bring a backup back, here or on a new host. The portal must not run; everybody signs in anew."""
    from app.installation.restore import restore as bring_back

    try:
        done = bring_back(service.config(), file, keys_file, force)
    except service.NotReady as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"{count(done.manifest.counts['jobs'], 'job')} are back, as of {done.manifest.made_at}.")
    if done.older:
        click.echo("The backup is of an older version. Run: flask --app wsgi migrate")


database = AppGroup("database", help="The database as a whole.")


@database.command("move-to")
@click.argument("url", required=False)
def move_to(url: str | None) -> None:
    """Copy everything from SQLite to an empty PostgreSQL database. The portal must not run.

    URL is postgresql://user:password@host/name; left out, it is asked for, and stands in no list of processes.
    """
    from app.installation.move import move

    address = url or click.prompt("postgresql://user:password@host/name", hide_input=True)
    try:
        done = move(service.config(), address.strip(), click.echo)
    except service.NotReady as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"{count(done.rows, 'row')} in {count(done.tables, 'table')} moved and compared.")
    if done.replaced:
        click.echo(f"NUL characters, which PostgreSQL cannot keep, were replaced in {count(done.replaced, 'text')}.")
    click.echo(f"Now set DATABASE_URL to {done.shown} (with its password) and start the portal.")
    click.echo("DATA_DIR and its keys are needed as before. The old file is untouched: put it away.")


keys = AppGroup("keys", help="The keys that stored credentials are sealed with, and the one that signs sessions.")


@keys.command("rotate")
@click.option("--drop-old", is_flag=True, help="Remove the keys before the newest: nothing here needs them.")
def rotate(drop_old: bool) -> None:
    """Make a new key and seal every stored credential with it. One that was killed is gone on with, and no key wasted.

    Where SEAL_KEYS is set, put a new key of 32 random bytes in base64 in front, restart the worker, then run this.
    """
    service.ready()
    unfinished = clusters.sealed_with_older_keys() or service.newest_seal_key_is_new()
    try:
        if drop_old:
            if unfinished:
                raise click.ClickException("Some secrets are sealed with an older key. Run `keys rotate` first.")
            fault("keys.before_drop")
            dropped = sealing.keep_newest(service.config())
            click.echo(f"Removed {count(dropped, 'older key')}. Backups from before need them still.")
            return
        if not unfinished:
            sealing.add(service.config())
    except ConfigError as error:
        raise click.ClickException(str(error)) from error
    fault("keys.after_key")
    with transaction():
        service.seal_with_newest_key()
    fault("keys.after_public")
    with transaction():
        sealed = clusters.reseal()
        audit.record(audit.Action.KEYS_ROTATED, detail=count(sealed, "credential"))
        fault("keys.before_reseal")
    fault("keys.after_reseal")
    click.echo(f"{count(sealed, 'credential')} sealed with the new key. Back the keys up; older ones")
    click.echo("may go, with --drop-old, once no backup of the database needs them.")


@keys.command("rotate-session")
@click.option("--yes", is_flag=True, help="Do not ask.")
def rotate_session(yes: bool) -> None:
    """Make a new key for sessions. Everybody signs in anew, and cursors of the API begin anew; tokens stay.

    Where SECRET_KEY is set, set the new one and run this with it: the database belongs to it from then on.
    """
    config = service.config()
    if config.secret_key and service.belongs_to(config.secret_key):
        raise click.ClickException("The database belongs to this SECRET_KEY already. Set the new one, then try again.")
    if not yes:
        click.confirm("Everybody is signed out, and the portal has to be restarted. Go on?", abort=True)
    key = config.secret_key or session_keys.make_next(config)
    fault("keys.after_session_key")
    if not service.belongs_to(key):
        with transaction():
            service.accept_session_key(key)
            accounts.end_everybody()
            audit.record(audit.Action.KEYS_ROTATED, detail="the key of sessions")
    fault("keys.after_session_accepted")
    if not config.secret_key:
        session_keys.put_next_in_place(config)
    click.echo("The key is new. Restart web and worker now, and back the keys up.")
