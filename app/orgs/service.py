from __future__ import annotations

import re

from sqlalchemy import bindparam, select
from sqlalchemy.orm import contains_eager

from app.accounts.service import User
from app.audit import service as audit
from app.audit.service import Action
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
    "leave",
    "membership",
    "of_user",
]

_SLUG = re.compile(r"[a-z]([-a-z0-9]{0,38}[a-z0-9])?", re.ASCII)


class OrgError(Exception):
    """What was asked of an org cannot be done. The message is a sentence."""


class UnknownOrg(Exception):
    def __init__(self, slug: str) -> None:
        super().__init__(f"There is no org {slug}.")


def create(slug: str, name: str = "") -> Org:
    """Make an org. Call inside a transaction. Raises OrgError."""
    if not _SLUG.fullmatch(slug):
        raise OrgError(
            "A slug is 1 to 40 lower-case letters, digits and dashes, with a letter first and no dash at the end."
        )
    if len(name.strip()) > 100 or not name.strip().isprintable():
        raise OrgError("The name of an org is one line of 100 characters at most.")
    if db.session.scalar(select(Org).where(Org.slug == slug)):
        raise OrgError(f"There is an org {slug} already.")
    org = Org(slug=slug, name=name.strip() or slug)
    db.session.add(org)
    db.session.flush()
    audit.record(Action.ORG_CREATED, slug, org_id=org.id)
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
        audit.record(Action.MEMBER_JOINED, f"user {user_id}", role.value, org_id=org.id)
    elif not member.role.includes(role):
        audit.record(Action.MEMBER_ROLE, f"user {user_id}", f"{member.role.value} to {role.value}", org_id=org.id)
        member.role = role
    return member


def leave(org: Org, user: User) -> None:
    """Take somebody out of an org; their jobs stay and go on. Call inside a transaction. Raises OrgError."""
    # all owners are locked, so that two who leave at once cannot both count on the other
    owners = db.session.scalars(
        select(Membership).where(Membership.org_id == org.id, Membership.role == Role.OWNER).with_for_update()
    ).all()
    member = db.session.get(Membership, (org.id, user.id))
    if member is None:
        raise OrgError(f"{user.email} is not in {org.slug}.")
    if member.role is Role.OWNER:
        others = select(User.id).where(
            User.id.in_([each.user_id for each in owners if each is not member]), User.disabled_at.is_(None)
        )
        if db.session.scalar(others.limit(1)) is None:
            raise OrgError(
                f"{user.email} is the last owner of {org.slug}. Make somebody else an owner first: "
                f"users create EMAIL --org {org.slug} --owner."
            )
    db.session.delete(member)
    audit.record(Action.MEMBER_LEFT, user.email, org_id=org.id)


def of_user(user_id: int) -> list[Membership]:
    """Where somebody is a member, by the org's slug."""
    return list(
        db.session.scalars(
            select(Membership)
            .join(Membership.org)
            .options(contains_eager(Membership.org))
            .where(Membership.user_id == user_id)
            .order_by(Org.slug)
        )
    )


# asked with each request below /orgs/ORG/, so it is built once
_MEMBERSHIP = (
    select(Membership)
    .join(Membership.org)
    .options(contains_eager(Membership.org))
    .where(Membership.user_id == bindparam("user_id"), Org.slug == bindparam("slug"))
)


def membership(user_id: int, slug: str) -> Membership | None:
    """None for an org that does not exist and for one of others alike: nobody learns which."""
    if not _SLUG.fullmatch(slug):
        return None  # not everything that a request can hold can be asked of a database
    return db.session.scalar(_MEMBERSHIP, {"user_id": user_id, "slug": slug})
