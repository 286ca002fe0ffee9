from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import click
from flask.cli import AppGroup

from app.clusters import service
from app.clusters.settings import SettingsError, from_options
from app.database import transaction
from app.installation import service as installation
from app.orgs import service as orgs
from app.presets.service import NAME, NAME_RULE

if TYPE_CHECKING:
    from app.cluster.kubernetes.probe import Check

clusters = AppGroup("clusters", help="Places where jobs run.")


@clusters.command("add")
@click.argument("name")
@click.option("--kubeconfig", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="How to sign in.")
@click.option("--in-cluster", is_flag=True, help="The cluster that the portal itself runs in.")
@click.option("--namespace", required=True, help="Where the jobs run.")
@click.option("--gpus", multiple=True, metavar="TYPE=COUNT", help="GPUs that there are in all. May be repeated.")
@click.option("--gpu-label", multiple=True, metavar="TYPE:LABEL=VALUE", help="A label of the nodes with that type.")
@click.option("--queue", default="", help="A LocalQueue of Kueue in the namespace.")
@click.option("--org", multiple=True, help="An org that may use it; every org if left out. May be repeated.")
def add(
    name: str,
    kubeconfig: Path | None,
    in_cluster: bool,
    namespace: str,
    gpus: tuple[str, ...],
    gpu_label: tuple[str, ...],
    queue: str,
    org: tuple[str, ...],
) -> None:
    """Register a Kubernetes cluster after testing it. The same name again gives it new settings."""
    installation.ready()
    if (kubeconfig is None) == (not in_cluster):
        raise click.UsageError("Give either --kubeconfig FILE or --in-cluster.")
    if name == service.THIS_MACHINE:
        raise click.ClickException(f"{name} is the portal's own machine. Give the cluster another name.")
    if not NAME.fullmatch(name):
        raise click.ClickException(f"{name} cannot be the name of a cluster: it is {NAME_RULE}.")
    from app.cluster.kubernetes.kubeconfig import Unusable
    from app.worker import registry

    try:
        settings = from_options(namespace, gpus, gpu_label, queue)
        credential = registry.credential(kubeconfig.read_text(encoding="utf-8") if kubeconfig else None)
        allowed = [orgs.by_slug(slug).id for slug in org]
    except (SettingsError, Unusable, orgs.UnknownOrg, UnicodeDecodeError) as error:
        raise click.ClickException(str(error)) from error
    if not _passes(registry.checks(settings, credential)):
        raise click.ClickException(f"{name} was not added: mend what is named above, and try again.")
    with transaction():
        service.add_kubernetes(name, settings, credential, allowed)
    click.echo(f"{name} is there. Presets may name it, and the worker begins to look at it by itself.")


@clusters.command("test")
@click.argument("name")
def test(name: str) -> None:
    """Try whether a cluster answers and lets the portal do its work."""
    installation.ready()
    row = service.by_name(name)
    if row is None:
        raise click.ClickException(f"There is no cluster {name}.")
    if row.kind is not service.ClusterKind.KUBERNETES:
        click.echo(row.refused or "It is this machine: there is nothing to test.")
        return
    from app.worker import registry

    if not _passes(registry.checks(row.settings, registry.stored_credential(row))):
        raise click.ClickException(f"No job can run on {name} like this.")


def _passes(checks: Iterable[Check]) -> bool:
    """Print each check; whether all that is needed is well."""
    good = True
    for check in checks:
        mark = "ok" if not check.problem else "FAILED" if check.needed else "note"
        click.echo(f"{mark:7}{check.text if not check.problem else check.problem}")
        good = good and not (check.problem and check.needed)
    return good


@clusters.command("list")
def list_() -> None:
    """Name, kind and state of every cluster."""
    installation.ready()
    for row in service.everything():
        state = row.refused or row.error or ("answered" if row.answered_at else "not looked at yet")
        click.echo(f"{row.name}\t{row.kind.value}\t{state}")
