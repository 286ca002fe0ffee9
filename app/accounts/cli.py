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
    installation.ready()
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
    installation.ready()
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
    installation.ready()
    with transaction():
        service.disable(_known(email))
    click.echo(f"The account {email} is disabled. Its sessions, links and tokens have ended.")


@users.command("enable")
@click.argument("email")
def enable(email: str) -> None:
    """Open a closed account again. It has no session, link or token until new ones are made."""
    installation.ready()
    with transaction():
        service.enable(_known(email))
    click.echo(f"The account {email} is enabled. Let them in with: users link {email}")


@users.command("leave")
@click.argument("email")
@click.option("--org", required=True, help="Slug of the org.")
def leave(email: str, org: str) -> None:
    """Take somebody out of an org, at once. Their jobs go on; the last owner cannot leave."""
    installation.ready()
    try:
        with transaction():
            orgs.leave(orgs.by_slug(org), _known(email))
    except (orgs.OrgError, orgs.UnknownOrg) as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"{email} is not in {org} any more. Their jobs there go on.")


@tokens.command("create")
@click.argument("email")
@click.option("--name", default="made by the operator", help="What it is for.")
@click.option(
    "--scope", multiple=True, type=click.Choice(service.SCOPES), help="What it may do; once for each. Default: both."
)
@click.option("--days", type=click.IntRange(1, 3650), help="Valid for so many days; until it is revoked if left out.")
def create_token(email: str, name: str, scope: tuple[str, ...], days: int | None) -> None:
    """Print a new API token, and nothing else, on standard output."""
    installation.ready()
    if len(name) > 100 or not name.isprintable():
        raise click.ClickException("The name of a token is one line of 100 characters at most.")
    with transaction():
        user = _known(email)
        if not user.is_active:
            raise click.ClickException(f"The account {email} is disabled.")
        token = service.make_token(user, name, scope or service.SCOPES, days)
    click.echo(token)


@tokens.command("list")
@click.argument("email")
def list_tokens(email: str) -> None:
    """Id, name, scopes, and when it was made, was last used and expires, of every token of somebody."""
    installation.ready()
    for each in service.tokens(_known(email).id):
        end = "expired" if service.has_expired(each) else "expires"
        click.echo(
            "\t".join(
                (
                    f"st_{each.public_id}",
                    each.name or "-",
                    each.scopes,
                    f"made {each.created_at:%Y-%m-%d %H:%M}",
                    f"used {each.used_at:%Y-%m-%d %H:%M}" if each.used_at else "never used",
                    f"{end} {each.expires_at:%Y-%m-%d %H:%M}" if each.expires_at else "never expires",
                )
            )
        )


@tokens.command("revoke")
@click.argument("id")
def revoke(id: str) -> None:
    """End a token at once, whoever has it. ID as `tokens list` prints it."""
    installation.ready()
    with transaction():
        token = service.token_by_public_id(id)
        if token is None:
            raise click.ClickException("There is no such token. `tokens list EMAIL` prints the ids.")
        said = f"The token st_{token.public_id} of {token.user.email} is revoked."
        service.revoke_token(token.user_id, token.id)
    click.echo(said)
