"""Known secrets go through a portal of real processes that writes everything down: none may be found afterwards."""

from __future__ import annotations

import base64
import json
import os
import re
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from app.clusters import service as clusters
from app.database import transaction
from app.worker import registry
from tests.conftest import KEY
from tests.crash.portals import Served, arguments_of, wait_for

KUBECONFIG = """
apiVersion: v1
kind: Config
current-context: c
clusters: [{name: c, cluster: {server: "https://127.0.0.1:1"}}]
users: [{name: u, user: {token: %s}}]
contexts: [{name: c, context: {cluster: c, user: u}}]
"""


def page(opener: Any, url: str, data: dict[str, str] | None = None) -> str:
    body = urllib.parse.urlencode(data).encode() if data is not None else None
    with opener.open(url, body, timeout=30) as answer:
        return str(answer.read().decode())


def form(opener: Any, served: Served, path: str, fields: dict[str, str]) -> str:
    at = f"http://127.0.0.1:{served.port}"
    found = re.search(r'name="csrf-token" content="([^"]+)"', page(opener, f"{at}/account"))
    assert found is not None
    return page(opener, at + path, {"csrf_token": found[1], **fields})


def sid_of(cookie: str) -> str:
    """The secret that stands in a session's cookie."""
    payload = cookie.split(".")[0]
    found: str = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))["sid"]
    return found


def files(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob("*")) if path.is_file() and not path.is_fifo())


def found_in(secrets: dict[str, str], text: bytes) -> list[str]:
    return [name for name, secret in secrets.items() if secret.encode() in text]


def test_no_secret_is_written_down(furnish: Callable[..., Served]) -> None:
    metrics = "metrics-canary-0123456789abcdef"
    served = furnish(LOG_LEVEL="DEBUG", LOG_FORMAT="json", METRICS_TOKEN=metrics)
    secrets = {
        "key of sessions": KEY,
        "token of metrics": metrics,
        "password": "canary password Xq7",
        "wrong password": "canary wrong guess Xq7",
        "token in an address": "st_000000000000_in-an-address-canary",
        "token of a cluster": "kubeconfig-canary-0123456789",
        "token": served.token,
        "variable of a job": "variable-canary-0123456789",
    }
    with served.portal.app.app_context():
        credential = registry.credential(KUBECONFIG % secrets["token of a cluster"])
        with transaction():
            clusters.add_kubernetes("far", {"namespace": "n", "gpus": {}, "queue": ""}, credential, [])
    served.serve()
    made = served.command("users", "link", "alice@example.org").stdout
    link = made.removeprefix("Sign in: ").strip()
    secrets["sign-in link"] = link.rsplit("/", 1)[1]
    alice = served.sign_in(link)
    jar = next(each for each in alice.handlers if hasattr(each, "cookiejar")).cookiejar
    cookie = next(each.value for each in jar if each.name.startswith("simpletrain"))
    secrets["cookie"], secrets["secret of the session"] = cookie, sid_of(cookie)
    password = secrets["password"]
    assert "Your password is set" in form(alice, served, "/account/password", {"password": password, "again": password})
    stranger = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPCookieProcessor())
    at = f"http://127.0.0.1:{served.port}"
    csrf = re.search(r'name="csrf-token" content="([^"]+)"', page(stranger, f"{at}/sign-in"))
    assert csrf is not None
    fields = {"csrf_token": csrf[1], "email": "alice@example.org"}
    with pytest.raises(urllib.error.HTTPError, match="422") as refused:
        page(stranger, f"{at}/sign-in", {**fields, "password": secrets["wrong password"]})
    refused.value.close()
    page(stranger, f"{at}/sign-in", {**fields, "password": password})
    assert served.request("GET", f"/api/me?token={secrets['token in an address']}").status in (200, 422)
    served.launch("canary", "sleep 1; echo done", cluster="this-machine", env={"CANARY": secrets["variable of a job"]})
    shown = served.command("tokens", "create", "bob@example.org").stdout.strip()
    secrets["token by command"] = shown
    served.until("canary", "succeeded")

    def tried() -> bool:
        row = served.portal.read(lambda: clusters.by_name("far"))
        return bool(row.error)

    wait_for(tried, lambda: f"a try to reach the cluster\n{served.said()}")
    lines = [arguments_of(pid) for pid in served.portal_processes()]
    assert lines
    assert not found_in(secrets, json.dumps(lines).encode())
    served.kill_all()

    said = b"".join(process.log.read_bytes() for process in served.processes if "serve" in process.log.name)
    assert b"POST /account/password" in said
    assert b'"uid"' in said
    assert not found_in(secrets, said)
    # what a job's variables are stands in its row, and in the folder of its attempt: the form says so
    kept = {name: secret for name, secret in secrets.items() if name != "variable of a job"}
    looked_at = 0
    for file in files(served.data):
        if file.parent.name == "keys":
            continue
        looked_at += 1
        assert not found_in(kept, file.read_bytes()), file
    assert looked_at > 2


def test_the_password_of_a_database_is_not_told(fresh: Callable[..., Served]) -> None:
    served = fresh(LOG_LEVEL="DEBUG", SECRET_KEY=KEY, DATABASE_URL="postgresql://portal:canary-Xq7@127.0.0.1:1/portal")
    for command in (["migrate"], ["web"], ["worker"], ["clusters", "list"]):
        said = served.command(*command)
        assert said.returncode != 0
        assert "canary-Xq7" not in said.stdout + said.stderr
        assert "database" in said.stderr.lower()
    assert os.path.isdir(served.data) is False or not [
        file for file in files(served.data) if b"canary-Xq7" in file.read_bytes()
    ]
