"""docs/benchmarks.md as a whole: the tables, and what they mean."""

from __future__ import annotations

INTRODUCTION = """\
`make bench` prints these tables, measured in one run; `.venv/bin/python -m tests.bench --write` keeps them here. Each
figure that has a floor stands beside it: something that does the least that could be done, measured in the same run,
so that the ratio says something about the portal and not about the machine. ✓ and ✗ say whether the portal reaches what
it promises. A part that could not be measured says why.
"""

EXPLANATION = """\
## How to read them
- *p50 / p95*: half, and nineteen of twenty, took less.
- *Server time* of a list is measured in one process: from the request that the application gets to the answer that it
  gives, sign-in, templates and database included. *Over HTTP* adds gunicorn, the network of this machine and a client.
- *Processor time of the web process* is what the kernel counted for it over hundreds of requests. With PostgreSQL the
  server's own share is not in it.
- The people of the crowd are threads of the measuring program, on the same cores as the portal: what they wait for is
  theirs too.
- PostgreSQL runs on this machine with its defaults for durability (`fsync` on), reached by a socket.
- A search for a name that nothing matches reads the whole range of the org in one index, and nothing of other orgs.
- The Kubernetes of the tests runs on this machine as well: its API server, its node and its pods take the cores that
  the portal would have. The bare client does the same requests with nothing around them.

`make soak` and what one portal holds: [scaling.md](scaling.md).
"""


def page(how: str, tables: list[str]) -> str:
    return "\n".join(["# Benchmarks", "", INTRODUCTION, how, "", *tables, EXPLANATION])
