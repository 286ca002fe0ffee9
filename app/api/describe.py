"""Who the caller is, and what may be used: /api/me, /api/presets, /api/clusters."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, Response, g

from app.accounts.service import current_user
from app.api.request import member, needs_scope, query, reply
from app.clusters import service as clusters
from app.orgs import service as orgs
from app.presets import service as presets


def register(bp: Blueprint) -> None:
    bp.get("/me")(me)
    bp.get("/presets")(list_presets)
    bp.get("/clusters")(list_clusters)


def me() -> Response:
    query()
    user = current_user()
    return reply(
        {
            "email": user.email,
            "name": user.name,
            "admin": user.admin,
            "orgs": [
                {"org": each.org.slug, "name": each.org.name, "role": each.role.value} for each in orgs.of_user(user.id)
            ],
            "scopes": g.api_token.scopes.split(),
        }
    )


def list_presets() -> Response:
    needs_scope("read")
    org = member(query("org").get("org")).org
    found = presets.of_org(org.id)
    return reply({"presets": [{**each.content.model_dump(mode="json"), "version": each.number} for each in found]})


def list_clusters() -> Response:
    needs_scope("read")
    org = member(query("org").get("org")).org
    return reply({"clusters": [_cluster(row) for row in clusters.of_org(org.id)]})


def _cluster(row: clusters.ClusterRow) -> dict[str, Any]:
    seen = clusters.capacity(row)
    silent = clusters.silent_since(row)
    return {
        "name": row.name,
        "kind": row.kind.value,
        "takes_jobs": not row.refused,
        "refused": row.refused or None,
        "silent_since": silent.isoformat().replace("+00:00", "Z") if silent else None,
        "gpus": [
            {
                "type": pool.type,
                "total": pool.total,
                "used": pool.used,
                "free": pool.free,
                "simulated": pool.simulated,
            }
            for pool in (seen.gpus if seen else ())
        ],
        "free_counts_others": seen.sees_all_pods if seen else False,
        "cpu_slots": {"total": seen.cpu_slots, "free": seen.cpu_slots_free}
        if seen and seen.cpu_slots is not None
        else None,
    }
