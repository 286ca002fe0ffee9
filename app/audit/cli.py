from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import timedelta
from typing import Any

import click
from flask.cli import with_appcontext
from sqlalchemy import select

from app import durations
from app.accounts.service import User
from app.audit import service
from app.database import db, now
from app.installation import service as installation
from app.orgs import service as orgs


@click.command("audit")
@click.option("--org", "slug", help="Only what happened in this org.")
@click.option("--since", help="Only what is not older than this, such as 24h or 7d.")
@click.option("--limit", default=100, show_default=True, type=click.IntRange(1, 10_000), help="How many at most.")
@click.option("--before", type=int, help="Only what is older than the one with this number: the next page.")
@click.option("--json", "as_json", is_flag=True, help="An object a line.")
@with_appcontext
def audit(slug: str | None, since: str | None, limit: int, before: int | None, as_json: bool) -> None:
    """Who did what, when and from where. Newest first."""
    try:
        installation.ready()
        org_id = orgs.by_slug(slug).id if slug else None
        begin = now() - timedelta(seconds=durations.seconds(since)) if since else None
    except (installation.NotReady, orgs.UnknownOrg, ValueError) as error:
        raise click.ClickException(str(error)) from error
    found = service.page(org_id, begin, before, limit)
    for row in _told(found):
        click.echo(json.dumps(row) if as_json else "\t".join(str(value) for value in row.values()))
    if len(found) == limit:
        click.echo(f"There may be more: --before {found[-1].id}", err=True)


def _told(events: Iterable[service.AuditEvent]) -> list[dict[str, Any]]:
    """With names in the place of ids, where there still are some."""
    events = list(events)
    people = _names(User.id, User.email, {each.user_id for each in events})
    slugs = _names(orgs.Org.id, orgs.Org.slug, {each.org_id for each in events})
    return [
        {
            "id": each.id,
            "at": each.at.isoformat(timespec="seconds").replace("+00:00", "Z"),
            "who": people.get(each.user_id, f"user {each.user_id}") if each.user_id else each.actor.value,
            "action": each.action,
            "org": slugs.get(each.org_id, f"org {each.org_id}") if each.org_id else "",
            "target": each.target,
            "detail": each.detail,
            "address": each.address,
            "request": each.request_id,
        }
        for each in events
    ]


def _names(key: Any, name: Any, ids: set[int | None]) -> dict[int | None, str]:
    return {row[0]: row[1] for row in db.session.execute(select(key, name).where(key.in_(ids - {None})))}
