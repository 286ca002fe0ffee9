"""What the API server's audit log saw: every request once, with who asked for what and how it ended."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

POLICY = """
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
  - level: Metadata
"""


@dataclass(frozen=True)
class Entry:
    """One request."""

    user: str
    verb: str
    resource: str  # "pods", "pods/log"; the path where no object is asked for
    namespace: str
    name: str
    code: int
    raw: dict[str, Any]


def read(log: Path, since: int = 0, namespace: str | None = None, user: str | None = None) -> list[Entry]:
    """The requests that began to be answered after a mark, the oldest first.

    A watch stands in the log twice, when it starts and when it ends: it counts once, as it is last seen.
    """
    with log.open("rb") as file:
        file.seek(since)
        lines = file.read().splitlines(keepends=True)
    raw = (json.loads(line) for line in lines if line.endswith(b"\n"))
    entries = {each["auditID"]: _entry(each) for each in raw}.values()
    return [e for e in entries if namespace in (None, e.namespace) and user in (None, e.user)]


def _entry(raw: dict[str, Any]) -> Entry:
    thing = raw.get("objectRef", {})
    resource = "/".join(filter(None, (thing.get("resource"), thing.get("subresource"))))
    return Entry(
        user=raw["user"].get("username", ""),
        verb=raw["verb"],
        resource=resource or raw["requestURI"].split("?")[0],
        namespace=thing.get("namespace", ""),
        name=thing.get("name", ""),
        code=raw.get("responseStatus", {}).get("code", 0),
        raw=raw,
    )
