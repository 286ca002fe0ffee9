"""The operator's commands for clusters."""

from __future__ import annotations

from datetime import UTC, datetime

from app.clusters import service as clusters
from app.clusters.models import ClusterRow
from app.database import db, transaction
from tests.conftest import Portal


def change(portal: Portal, **values: object) -> None:
    with portal.app.app_context(), transaction():
        db.session.query(ClusterRow).update(values)  # type: ignore[arg-type]


def listed(portal: Portal) -> str:
    said = portal.command("clusters", "list")
    assert said.exit_code == 0, said.output
    return said.stdout


def test_the_list_tells_name_kind_and_state(portal: Portal) -> None:
    assert listed(portal).startswith("this-machine\tlocal\t")
    assert "not looked at yet" in listed(portal)
    change(portal, answered_at=datetime(2026, 1, 1, tzinfo=UTC))
    assert "answered" in listed(portal)
    change(portal, error="It is on fire.")
    assert "It is on fire." in listed(portal)
    change(portal, refused="No jobs here.")
    assert "No jobs here." in listed(portal)


def test_this_machine_is_there_once_and_says_when_it_is_refused(portal: Portal) -> None:
    for refused in ("Not today.", "Not today.", ""):
        with portal.app.app_context(), transaction():
            clusters.ensure_this_machine(refused)
        rows = portal.read(lambda: [(row.name, row.refused) for row in clusters.everything()])
        assert rows == [("this-machine", refused)]


def test_a_cluster_that_is_not_for_every_org_is_seen_by_its_orgs_alone(portal: Portal) -> None:
    from app.clusters.models import ClusterKind, ClusterOrg
    from app.orgs import service as orgs

    with portal.app.app_context(), transaction():
        row = ClusterRow(name="berlin", kind=ClusterKind.KUBERNETES, for_every_org=False)
        db.session.add(row)
        db.session.flush()
        db.session.add(ClusterOrg(cluster_id=row.id, org_id=orgs.by_slug("lab").id))
    for person, names in (("bob", ["this-machine", "berlin"]), ("mallory", ["this-machine"])):
        seen = portal.api(person).get("/api/clusters").get_json()["clusters"]
        assert [each["name"] for each in seen] == names
    refused = portal.api("mallory").post("/api/jobs", json={"preset": "plain", "command": "true", "cluster": "berlin"})
    unknown = portal.api("mallory").post("/api/jobs", json={"preset": "plain", "command": "true", "cluster": "athens"})
    assert refused.status_code == unknown.status_code == 422
    assert refused.text.replace("berlin", "…") == unknown.text.replace("athens", "…")


def test_this_machine_is_not_added_as_a_cluster_and_says_why(portal: Portal) -> None:
    said = portal.command("clusters", "add", "this-machine", "--in-cluster", "--namespace", "x")
    assert said.exit_code == 1
    assert "this-machine is the portal's own machine" in said.stderr
