"""Who the caller is, and what may be used: /api/me, /api/presets, /api/clusters."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from flask import Blueprint, Response, g
from pydantic import Field

from app.accounts.service import current_user
from app.api.openapi import Answer, Reply, operation
from app.api.request import OfOrg, Query, member, reply
from app.clusters import service as clusters
from app.orgs import service as orgs
from app.presets import service as presets


class Membership(Answer):
    org: str = Field(description="Its slug, which other calls take as `org`.")
    name: str
    role: Literal["viewer", "member", "owner"]


class MeAnswer(Answer):
    email: str
    name: str
    admin: bool = Field(description="Whether this person operates the portal.")
    orgs: list[Membership]
    scopes: list[str] = Field(description="What the token may do.", examples=[["read", "write"]])


class PresetAnswer(Answer, presets.PresetContent):
    """An image with the limits within which it may be launched; as presets are imported."""

    version: int = Field(ge=1, description="Grows with each change. A job keeps the one that it used.")


class PresetsAnswer(Answer):
    presets: list[PresetAnswer]


class Gpus(Answer):
    type: str
    total: int = Field(ge=0)
    used: int = Field(ge=0, description="Held by jobs of this portal.")
    free: int = Field(ge=0, description="See `free_counts_others`.")
    simulated: bool = Field(description="There are no such GPUs: the portal is being tried out.")


class Slots(Answer):
    total: int = Field(ge=0)
    free: int | None = Field(ge=0)


class ClusterAnswer(Answer):
    name: str
    kind: Literal["local", "kubernetes"]
    takes_jobs: bool
    refused: str | None = Field(description="Why it takes no jobs.")
    silent_since: datetime | None = Field(description="Since when it has not answered; what is told is from then.")
    gpus: list[Gpus]
    free_counts_others: bool = Field(
        description="Whether `free` leaves out what others than this portal use. If not, it is total less used."
    )
    cpu_slots: Slots | None = Field(description="How many jobs without a GPU fit at once; null: the cluster decides.")


class ClustersAnswer(Answer):
    clusters: list[ClusterAnswer]


def register(bp: Blueprint) -> None:
    bp.get("/me")(me)
    bp.get("/presets")(list_presets)
    bp.get("/clusters")(list_clusters)


@operation(
    "Who I am",
    "The token's person, the orgs that they are in with their roles, and what the token may do. Any token will do.",
    {200: Reply("The person and the token.", MeAnswer)},
)
def me(_asked: Query) -> Response:
    user = current_user()
    mine = [Membership(org=each.org.slug, name=each.org.name, role=each.role.value) for each in orgs.of_user(user.id)]
    scopes: list[str] = g.api_token.scopes.split()
    return reply(MeAnswer(email=user.email, name=user.name, admin=user.admin, orgs=mine, scopes=scopes))


@operation(
    "Presets",
    "What may be launched in an org, by name, each in its newest version and with its limits. `gpus` is per node.",
    {200: Reply("The presets.", PresetsAnswer)},
    scope="read",
    query=OfOrg,
)
def list_presets(asked: OfOrg) -> Response:
    org = member(asked.org).org
    found = [PresetAnswer.model_construct(**dict(each.content), version=each.number) for each in presets.of_org(org.id)]
    return reply(PresetsAnswer.model_construct(presets=found))


@operation(
    "Clusters",
    "Where an org's jobs can run, and which GPUs are free there, as the portal saw it last.",
    {200: Reply("The clusters.", ClustersAnswer)},
    scope="read",
    query=OfOrg,
)
def list_clusters(asked: OfOrg) -> Response:
    org = member(asked.org).org
    return reply(ClustersAnswer(clusters=[_cluster(row) for row in clusters.of_org(org.id)]))


def _cluster(row: clusters.ClusterRow) -> ClusterAnswer:
    seen = clusters.capacity(row) or clusters.Capacity(sees_all_pods=False)
    return ClusterAnswer(
        name=row.name,
        kind=row.kind.value,
        takes_jobs=not row.refused,
        refused=row.refused or None,
        silent_since=clusters.silent_since(row),
        gpus=[
            Gpus(type=pool.type, total=pool.total, used=pool.used, free=pool.free, simulated=pool.simulated)
            for pool in seen.gpus
        ],
        free_counts_others=seen.sees_all_pods,
        cpu_slots=Slots(total=seen.cpu_slots, free=seen.cpu_slots_free) if seen.cpu_slots is not None else None,
    )
