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
- *200 people, one web process*, and *a poll with nothing new on PostgreSQL*: reached while the machine is as fast as
  this kind of machine can be, and missed while it is not. It is shared, and its speed changed by half from one run to
  the next: `/healthz`, which does nothing, took 0.5 ms of processor in one and 0.9 ms in another an hour later. At 0.5
  ms a poll with nothing new took 1.5 ms (2.2 ms on PostgreSQL), and the crowd had a p95 of 37 ms on SQLite; on
  PostgreSQL 45 ms in 40 seconds of it (2026-11-24). At 0.9 ms the same polls keep a core busy for 80 to 90 %, and
  whoever comes in a queue waits. A poll is 2.7 to 3.2 × `/healthz` now (4 to 5 × on PostgreSQL), after 5.6 × and 6.5 ×.
  `WEB_WORKERS=2` takes the crowd off one core: with the slower code of before it had a p95 of 79 ms on SQLite. The
  default stays 1 so that an idle portal stays under 200 MB.
- *50 launches at once on Kubernetes* go out one after the other, each with two commits, so that the order in which
  people came is kept: 0.1 s each, while their pods start on the same two cores.

`make soak` and what one portal holds: [scaling.md](scaling.md).
"""


def page(how: str, tables: list[str]) -> str:
    return "\n".join(["# Benchmarks", "", INTRODUCTION, how, "", *tables, EXPLANATION])
