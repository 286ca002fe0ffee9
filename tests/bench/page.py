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
- A poll with new lines that somebody else asked for in the same two seconds is answered with the same words, made once:
  the row of 20 new lines is of such polls.

## What is missed, and why
- *200 people, one web process*: 200 polls a second of 4 ms each keep the one Python process busy for 80 to 100 % of a
  core, and whoever comes in a queue waits. The poll was profiled (no part of it stands out: a session, a membership, a
  job, its attempt with the log, a cluster, at 0.3 ms each and the frame around them) and went from 15 statements to
  5. With that and with shared words the p95 on SQLite is 0.45 s, after 1.8 s on the machine at load 8. With
  `WEB_WORKERS=2` the same crowd on SQLite had p50 4.3 ms and p95 79 ms, 0 errors (2026-11-24, same machine); the
  default stays 1 so that an idle portal stays under 200 MB.
- *A poll on PostgreSQL*: each statement crosses a socket, and the pool asks a connection whether it lives before it is
  used, which is what lets a portal survive its server's restart without one lost request. `WEB_WORKERS` is the way here
  too; it was not measured with PostgreSQL.
- *50 launches at once on Kubernetes* go out one after the other, each with two commits, so that the order in which
  people came is kept: 0.1 s each.

`make soak` and what one portal holds: [scaling.md](scaling.md).
"""


def page(how: str, tables: list[str]) -> str:
    return "\n".join(["# Benchmarks", "", INTRODUCTION, how, "", *tables, EXPLANATION])
