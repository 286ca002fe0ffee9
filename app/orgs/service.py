from __future__ import annotations

import re

from sqlalchemy import select

from app.database import db
from app.orgs.models import Membership, Org, Role

__all__ = [
    "Membership",
    "Org",
    "OrgError",
    "Role",
    "UnknownOrg",
    "by_slug",
    "create",
    "first",
    "join",
    "membership",
    "of_user",
]

_SLUG = re.compile(r"[a-z]([-a-z0-9]{0,38}[a-z0-9])?", re.ASCII)


class OrgError(Exception):
    """The org cannot be made so. The message is a sentence."""


class UnknownOrg(Exception):
    def __init__(self, slug: str) -> None:
        super().__init__(f"There is no org {slug}.")


def create(slug: str, name: str = "") -> Org:
    """Make an org. Call inside a transaction. Raises OrgError."""
    if not _SLUG.fullmatch(slug):
        raise OrgError(
            "A slug is 1 to 40 lower-case letters, digits and dashes, with a letter first and no dash at the end."
        )
    if len(name.strip()) > 100:
        raise OrgError("The name of an org has 100 characters at most.")
    if db.session.scalar(select(Org).where(Org.slug == slug)):
        raise OrgError(f"There is an org {slug} already.")
    org = Org(slug=slug, name=name.strip() or slug)
    db.session.add(org)
    db.session.flush()
    return org


def by_slug(slug: str) -> Org:
    """Raises UnknownOrg."""
    org = db.session.scalar(select(Org).where(Org.slug == slug)) if _SLUG.fullmatch(slug) else None
    if org is None:
        raise UnknownOrg(slug)
    return org


def first() -> Org | None:
    """The oldest one."""
    return db.session.scalar(select(Org).order_by(Org.id).limit(1))


def join(org: Org, user_id: int, role: Role) -> Membership:
    """See to it that somebody is a member with at least this role. Nobody is demoted. Call inside a transaction."""
    member = db.session.get(Membership, (org.id, user_id))
    if member is None:
        member = Membership(org_id=org.id, user_id=user_id, role=role)
        db.session.add(member)
    elif not member.role.includes(role):
        member.role = role
    return member


def of_user(user_id: int) -> list[Membership]:
    """Where somebody is a member, by the org's slug."""
    return list(
        db.session.scalars(
            select(Membership).join(Membership.org).where(Membership.user_id == user_id).order_by(Org.slug)
        )
    )


def membership(user_id: int, slug: str) -> Membership | None:
    """None for an org that does not exist and for one of others alike: nobody learns which."""
    if not _SLUG.fullmatch(slug):
        return None
    if not _SLUG.fullmatch(slug):
        return None  # not everything that a request can hold can be asked of a database
    return db.session.scalar(
        select(Membership).join(Membership.org).where(Membership.user_id == user_id, Org.slug == slug)
    )
