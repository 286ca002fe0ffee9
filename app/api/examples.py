"""Lines for a terminal and a script, ready to be copied: they use nothing but curl, or Python's standard library."""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Examples:
    """What the examples speak of: this portal, one org, and the job that they launch."""

    base: str  # of the portal, without a slash at the end
    org: str
    job: str
    wish: dict[str, Any]  # the body of a launch
    key: str  # an idempotency key that nobody has used

    @property
    def me(self) -> str:
        return self._curl("/api/me")

    @property
    def launch(self) -> str:
        return self._curl(
            "/api/jobs",
            f"-H 'Idempotency-Key: {self.key}'",
            "-H 'Content-Type: application/json'",
            f"-d {shlex.quote(json.dumps(self.wish, ensure_ascii=False))}",
        )

    @property
    def watch(self) -> str:
        return self._curl(self._of_job())

    @property
    def log(self) -> str:
        return self._curl(self._of_job("/logs"))

    @property
    def tail(self) -> str:
        """A loop of a POSIX shell. The reply's head goes to a file, and says where to go on and whether it was all."""
        return _TAIL.format(bearer=_BEARER, address=f"{self.base}{self._of_job('/logs')}").rstrip()

    @property
    def stop(self) -> str:
        return self._curl(self._of_job(), "-X DELETE")

    @property
    def script(self) -> str:
        wish = json.dumps({name: value for name, value in self.wish.items() if name != "name"}, ensure_ascii=False)
        return _SCRIPT.format(base=json.dumps(f"{self.base}/api"), org=json.dumps(self.org), wish=wish)

    def _of_job(self, part: str = "") -> str:
        return f"/api/jobs/{self.job}{part}?org={self.org}"

    def _curl(self, path: str, *more: str) -> str:
        return " \\\n  ".join((f'curl -sS "{self.base}{path}"', _BEARER, *more))


_BEARER = '-H "Authorization: Bearer $SIMPLETRAIN_TOKEN"'

_TAIL = """\
head=$(mktemp); since=
until grep -qi '^log-complete: true' "$head"; do
  curl -fsS -D "$head" {bearer} \\
    "{address}$since" || break
  since="&since=$(awk 'tolower($1) == "log-cursor:" {{ print $2 }}' "$head" | tr -d '\\r')"
  sleep 1
done; rm "$head"
"""

_SCRIPT = '''\
import json
import os
import sys
import time
import uuid
from urllib.error import HTTPError
from urllib.request import Request, urlopen

API = {base}
ORG = {org}


def call(method, path, body=None, key=None):
    """One call; when there are too many, or the portal is away for a moment, it waits and asks again."""
    headers = {{"Authorization": "Bearer " + os.environ["SIMPLETRAIN_TOKEN"]}}
    if body is not None:
        headers["Content-Type"] = "application/json"
    if key is not None:
        headers["Idempotency-Key"] = key
    data = json.dumps(body).encode() if body is not None else None
    while True:
        try:
            return urlopen(Request(API + path, data, headers, method=method), timeout=60)
        except HTTPError as error:
            if error.code not in (429, 503):
                sys.exit(error.read().decode())  # problem+json: which field is wrong, and why
            time.sleep(int(error.headers.get("Retry-After", 5)))


print("I am", json.load(call("GET", "/me"))["email"])

wish = {wish}
job = json.load(call("POST", "/jobs", wish, key=str(uuid.uuid4())))
print("launched", job["name"], flush=True)

here = f"/jobs/{{job['name']}}"
since = ""
try:
    while True:  # the log, as it is printed
        answer = call("GET", f"{{here}}/logs?org={{ORG}}{{since}}")
        sys.stdout.buffer.write(answer.read())
        sys.stdout.flush()
        if answer.headers["Log-Complete"] == "true":
            break
        since = "&since=" + answer.headers["Log-Cursor"]
        time.sleep(int(answer.headers.get("Log-Poll", 1)))
except KeyboardInterrupt:  # Ctrl-C stops the job
    call("DELETE", f"{{here}}?org={{ORG}}")

job = json.load(call("GET", f"{{here}}?org={{ORG}}"))
print(f"\\n{{job['state']}}: {{job['reason']['text'] or 'no reason was given'}}")
'''
