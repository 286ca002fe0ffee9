from __future__ import annotations

import click
from flask.cli import AppGroup

from app.accounts import service
from app.database import transaction
from app.installation import service as installation
from app.orgs import service as orgs

users = AppGroup("users", help="People.")
tokens = AppGroup("tokens", help="API tokens.")


def _known(email: str) -> service.User:
    user = service.by_email(email)
    if user is None:
        raise click.ClickException(f"There is no account {email}.")
    return user


def _print_link(user_secret: str) -> None:
    click.echo(f"Sign in: {installation.link(user_secret)}")


@users.command("create")
@click.argument("email")
@click.option("--admin", is_flag=True, help="An administrator of the whole installation.")
@click.option("--org", help="Slug of an org to add the person to.")
@click.option("--owner", is_flag=True, help="As an owner of that org; a member if left out.")
def create(email: str, admin: bool, org: str | None, owner: bool) -> None:
    """Make an account if it is new, and print a fresh single-use sign-in link (valid for 15 minutes)."""
    installation.prepare()
    if owner and not org:
        raise click.UsageError("--owner needs --org.")
    try:
        with transaction():
            user, _ = service.create(email, admin)
            if not user.is_active:
                raise click.ClickException(f"The account {email} is disabled.")
            if org:
                orgs.join(orgs.by_slug(org), user.id, orgs.Role.OWNER if owner else orgs.Role.MEMBER)
            secret = service.make_link(user)
    except (service.AccountError, orgs.UnknownOrg) as error:
        raise click.ClickException(str(error)) from error
    _print_link(secret)


@users.command("link")
@click.argument("email")
def link(email: str) -> None:
    """Print a fresh single-use sign-in link (valid for 15 minutes)."""
    installation.prepare()
    with transaction():
        user = _known(email)
        if not user.is_active:
            raise click.ClickException(f"The account {email} is disabled.")
        secret = service.make_link(user)
    _print_link(secret)


@users.command("disable")
@click.argument("email")
def disable(email: str) -> None:
    """Close an account: its sessions, links and tokens end at once. Its jobs go on."""
    installation.prepare()
    with transaction():
        service.disable(_known(email))
    click.echo(f"The account {email} is disabled. Its sessions, links and tokens have ended.")


@tokens.command("create")
@click.argument("email")
@click.option("--name", default="made by the operator", help="What it is for.")
def create_token(email: str, name: str) -> None:
    """Print a new API token, and nothing else, on standard output."""
    installation.prepare()
    if len(name) > 100:
        raise click.ClickException("The name of a token has 100 characters at most.")
    with transaction():
        user = _known(email)
        if not user.is_active:
            raise click.ClickException(f"The account {email} is disabled.")
        token = service.make_token(user, name)
    click.echo(token)
