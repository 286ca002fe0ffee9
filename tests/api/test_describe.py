"""Who the caller is and what may be used."""

from __future__ import annotations

from datetime import timedelta

import pytest

from app.accounts.models import ApiToken
from app.cluster.protocol import Capacity, GpuPool
from app.clusters import service as clusters
from app.database import db, now, transaction
from tests.api.conftest import in_two_orgs, problem, wrong
from tests.conftest import Api, Portal
from tests.jobs.conftest import World


def test_me_is_the_person_with_orgs_roles_and_scopes(portal: Portal, bob: Api) -> None:
    in_two_orgs(portal)
    assert bob.get("/api/me").json == {
        "email": "bob@example.org",
        "name": "bob",
        "admin": False,
        "orgs": [
            {"org": "lab", "name": "lab", "role": "member"},
            {"org": "rivals", "name": "rivals", "role": "member"},
        ],
        "scopes": ["read", "write"],
    }


def test_presets_come_with_their_limits_and_versions(bob: Api, world: World) -> None:
    world.import_presets("{name: digits, image: 'y:2', gpus: {default: 0, max: 1}}")
    listed = bob.get("/api/presets").json["presets"]  # type: ignore[index]
    assert [(each["name"], each["version"]) for each in listed] == [("digits", 2), ("plain", 1)]
    plain = listed[1]
    assert plain["gpus"] == {"default": 0, "max": 8}
    assert plain["nodes"] == {"default": 1, "max": 4}
    assert (plain["max_runtime"], plain["kind"], plain["image"]) == ("1h", "training", "registry.example/plain:1")


def test_clusters_come_with_what_is_free(portal: Portal, bob: Api) -> None:
    with portal.app.app_context(), transaction():
        seen = Capacity(
            gpus=(GpuPool("H100", 8, 5, 3, 3, simulated=True),), cpu_slots=4, cpu_slots_free=1, sees_all_pods=False
        )
        clusters.record(1, now() - timedelta(hours=1), "", seen)
    (machine,) = bob.get("/api/clusters").json["clusters"]  # type: ignore[index]
    assert machine["name"] == "this-machine"
    assert machine["kind"] == "local"
    assert machine["takes_jobs"] is True
    assert machine["gpus"] == [{"type": "H100", "total": 8, "used": 5, "free": 3, "simulated": True}]
    assert machine["free_counts_others"] is False
    assert machine["cpu_slots"] == {"total": 4, "free": 1}


def test_a_cluster_that_takes_no_jobs_says_why(bob: Api, world: World) -> None:
    world.refuse_machine("It is switched off.")
    (machine,) = bob.get("/api/clusters").json["clusters"]  # type: ignore[index]
    assert (machine["takes_jobs"], machine["refused"]) == (False, "It is switched off.")


@pytest.mark.parametrize("call", ["presets", "clusters", "jobs", "jobs/x", "jobs/x/logs"])
def test_with_several_orgs_the_org_has_to_be_named(portal: Portal, bob: Api, call: str) -> None:
    in_two_orgs(portal)
    assert wrong(bob.get(f"/api/{call}")) == {"org": "Say which org: lab, rivals."}
    assert bob.get(f"/api/{call}?org=lab").status_code in (200, 404)
    problem(bob.get(f"/api/{call}?org=nowhere"), 404, "not-found")


@pytest.mark.parametrize("call", ["me", "presets", "clusters", "jobs", "jobs/x", "jobs/x/logs"])
def test_what_is_not_understood_in_the_address_is_refused(bob: Api, call: str) -> None:
    assert "nonsense" in wrong(bob.get(f"/api/{call}?nonsense=1"))
    if call != "me":
        assert wrong(bob.get(f"/api/{call}?org=lab&org=lab")) == {"org": "This parameter stands in the address twice."}


def test_a_token_for_reading_cannot_write(portal: Portal, bob: Api) -> None:
    portal.launch("job")
    with portal.app.app_context(), transaction():
        db.session.query(ApiToken).update({"scopes": "read"})
    assert bob.get("/api/jobs").status_code == 200
    problem(bob.post("/api/jobs", json={"preset": "plain"}), 403, "scope")
    problem(bob.delete("/api/jobs/job"), 403, "scope")
    assert bob.get("/api/me").json["scopes"] == ["read"]  # type: ignore[index]
