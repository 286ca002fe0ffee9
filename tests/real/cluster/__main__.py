"""python -m tests.real.cluster COMMAND: a real Kubernetes on this machine, to play with. It needs root.

`make cluster` runs build, up and namespace; docs/testing-on-kubernetes.md tells the rest.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from tests.real.cluster import images, lifecycle, tenants
from tests.real.cluster.build import build
from tests.real.cluster.errors import ClusterError
from tests.real.cluster.place import Place


def main(arguments: list[str]) -> int:
    asked = _parser().parse_args(arguments)
    try:
        return int(asked.run(asked) or 0)
    except ClusterError as error:
        print(error, file=sys.stderr)
        return 1


def _build(_: argparse.Namespace) -> None:
    print(f"The cluster's commands are in {build()}")
    images.archive()


def _up(asked: argparse.Namespace) -> None:
    place = _place(asked)
    if lifecycle.status(place):
        print(f"There is a cluster in {place.folder}; `down` ends it.")
        return
    begun = time.monotonic()
    lifecycle.up(place, with_node=not asked.no_node, gpus=asked.gpus)
    print(f"The cluster is up after {time.monotonic() - begun:.0f} s.\nexport KUBECONFIG={place.kubeconfig}")


def _down(asked: argparse.Namespace) -> None:
    lifecycle.down(_place(asked))


def _gpus(asked: argparse.Namespace) -> None:
    lifecycle.set_gpus(_place(asked), asked.count)


def _namespace(asked: argparse.Namespace) -> None:
    place = _place(asked)
    path = place.folder / f"{asked.name}.kubeconfig"
    if not path.exists():
        path.touch(mode=0o600)
        path.write_text(tenants.create(lifecycle.admin(place), asked.name))
    print(f"For the portal: clusters add playground --kubeconfig {path} --namespace {asked.name}")


def _status(asked: argparse.Namespace) -> int:
    lines = lifecycle.status(_place(asked))
    print("\n".join(lines) or "No cluster runs.")
    return 0 if lines else 1


def _place(asked: argparse.Namespace) -> Place:
    return Place.of(asked.folder, asked.port)


def _parser() -> argparse.ArgumentParser:
    where = argparse.ArgumentParser(add_help=False)
    where.add_argument("--folder", type=Path, help="where the cluster lives (default: in the cache folder)")
    where.add_argument("--port", type=int, help="the first of its ten ports (default: 6443)")
    parser = argparse.ArgumentParser(prog="python -m tests.real.cluster", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, run: object, tells: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, parents=[where], help=tells, description=tells)
        added.set_defaults(run=run)
        return added

    command("build", _build, "compile what is not compiled yet: minutes, once")
    up = command("up", _up, "start a fresh cluster, after cleaning up what a killed one left")
    up.add_argument("--no-node", action="store_true", help="API server, controllers and scheduler only: no pod runs")
    up.add_argument("--gpus", type=int, default=0, help="how many the node has")
    command("down", _down, "end all of it; the logs stay")
    command("gpus", _gpus, "give the node so many GPUs").add_argument("count", type=int)
    command("namespace", _namespace, "make a namespace for the portal").add_argument("name")
    command("status", _status, "what runs")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
