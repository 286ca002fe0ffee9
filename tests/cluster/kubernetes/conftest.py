from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from app.cluster.kubernetes.watch import Pace
from tests.cluster.kubernetes.fake import FakeKubernetes
from tests.cluster.kubernetes.site import Site


@pytest.fixture
def fake() -> Iterator[FakeKubernetes]:
    fake = FakeKubernetes().start()
    yield fake
    fake.close()


@pytest.fixture
def site(fake: FakeKubernetes) -> Iterator[Site]:
    """A cluster that is watched, with nothing on it."""
    site = Site(fake)
    site.wait_for_a_look()
    yield site
    site.close()


@pytest.fixture
def make_site(fake: FakeKubernetes) -> Iterator[Callable[[Pace], Site]]:
    sites: list[Site] = []

    def make(pace: Pace) -> Site:
        sites.append(Site(fake, pace))
        return sites[-1]

    yield make
    for site in sites:
        site.close()


@dataclass(frozen=True)
class Keys:
    """An authority, and a client's certificate that it signed; the paths of a server's."""

    ca: str
    certificate: str
    key: str
    server_certificate: Path
    server_key: Path


@pytest.fixture(scope="session")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl makes the certificates of this test")
    folder = tmp_path_factory.mktemp("keys")

    def run(*arguments: str) -> None:
        subprocess.run([openssl, *arguments], cwd=folder, check=True, capture_output=True)

    new = ("-newkey", "rsa:2048", "-nodes", "-days", "2")
    run("req", "-x509", *new, "-keyout", "ca.key", "-out", "ca.crt", "-subj", "/CN=authority")
    (folder / "san").write_text("subjectAltName=IP:127.0.0.1,DNS:localhost")
    for name in ("client", "server"):
        run("req", *new[:3], "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")
        run("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2",
            "-out", f"{name}.crt", "-extfile", "san")  # fmt: skip
    return Keys(
        ca=(folder / "ca.crt").read_text(),
        certificate=(folder / "client.crt").read_text(),
        key=(folder / "client.key").read_text(),
        server_certificate=folder / "server.crt",
        server_key=folder / "server.key",
    )
