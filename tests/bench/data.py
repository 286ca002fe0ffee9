"""A portal with a history: 100,000 jobs in one org, a million in the table."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

from app import create_app
from app.accounts import service as accounts
from app.clusters.models import ClusterKind, ClusterRow
from app.config import Config
from app.database import db, transaction
from app.firstrun import furnish
from app.installation import service as installation
from app.orgs import service as orgs
from app.presets import service as presets

PER_ORG = 100_000
ORGS = 10
PEOPLE = 10  # of the org that is asked about: each has a tenth of its jobs
ACTIVE = 40  # jobs that wait or run, on a cluster that no worker reaches
ENDS = ("succeeded",) * 17 + ("failed",) * 2 + ("cancelled",)
COLUMNS = (
    *("uid", "org_id", "user_id", "name", "preset_version_id", "cluster_id", "spec", "gpus", "nodes", "state"),
    *("reason_code", "reason_text", "reason_raw", "wish", "settled", "attempt", "created_at", "started_at"),
    *("finished_at", "exit_code", "version"),
)
SPEC = json.dumps(
    {
        "image": "python:3.13-slim",
        "command": "python train.py",
        "gpus": 0,
        "nodes": 1,
        "max_runtime": 600,
        "cpu": "1",
        "memory": "1Gi",
        "shm": "",
        "gpu_types": [],
        "env": {},
        "volumes": [],
    }
)


def fill(config: Config, jobs_per_org: int = PER_ORG, other_orgs: int = ORGS - 1) -> None:
    """Make the portal and write its jobs straight into the table: a million launches would take all day."""
    app = create_app(config)
    with app.app_context():
        installation.prepare()
        furnish(config)
        with transaction():
            lab = orgs.by_slug("lab")
            people = [accounts.by_email(installation.operator_email())]
            for number in range(PEOPLE - 1):
                user, _ = accounts.create(f"person-{number}@example.org")
                orgs.join(lab, user.id, orgs.Role.MEMBER)
                people.append(user)
            user_ids = [user.id for user in people if user is not None]
            org_ids = [lab.id] + [orgs.create(f"org-{number}").id for number in range(other_orgs)]
            elsewhere = ClusterRow(name="elsewhere", kind=ClusterKind.KUBERNETES)
            db.session.add(elsewhere)
            db.session.flush()
            clusters = db.session.query(ClusterRow).order_by(ClusterRow.id).first(), elsewhere
            here, there = (row.id for row in clusters if row is not None)
            version = presets.of_org(lab.id)[0].version_id
        connection = db.engine.raw_connection()
        try:
            _write(connection, db.engine.dialect.name, _rows(jobs_per_org, org_ids, user_ids, version, here, there))
        finally:
            connection.close()
        db.engine.dispose()


def _rows(
    count: int, org_ids: list[int], user_ids: list[int], version: int, here: int, there: int
) -> Iterator[tuple[Any, ...]]:
    begin = datetime.now(UTC) - timedelta(minutes=12 * count)
    for number in range(count):
        at = begin + timedelta(minutes=12 * number)
        state = ENDS[number % len(ENDS)]
        code = {"succeeded": 0, "failed": 1}.get(state)
        for place, org_id in enumerate(org_ids):
            active = place == 0 and number >= count - ACTIVE
            yield (
                f"{chr(97 + place)}{number:07d}",
                org_id,
                user_ids[number % len(user_ids)] if place == 0 else user_ids[0],
                f"run-{number:06d}-{'abcdefgh'[number % 8]}",
                version,
                there if active else here,
                SPEC,
                0,
                1,
                "running" if active else state,
                "running" if active else "exit_code",
                "It runs." if active else f"It ended with exit code {code}.",
                "",
                "run",
                not active,
                1,
                at,
                at + timedelta(seconds=2),
                None if active else at + timedelta(minutes=9),
                None if active else code,
                5,
            )


def _write(connection: Any, dialect: str, rows: Iterator[tuple[Any, ...]]) -> None:
    cursor = connection.cursor()
    if dialect == "postgresql":
        cursor.execute("SET statement_timeout = 0")
        with cursor.copy(f"COPY jobs ({', '.join(COLUMNS)}) FROM STDIN") as copy:
            for row in rows:
                copy.write_row(row)
        connection.commit()
        connection.driver_connection.autocommit = True
        cursor.execute("VACUUM ANALYZE")
        return
    cursor.execute("PRAGMA synchronous = OFF")
    cursor.execute("BEGIN")
    plain = (
        tuple(f"{each.replace(tzinfo=None)}" if isinstance(each, datetime) else each for each in row) for row in rows
    )
    cursor.executemany(f"INSERT INTO jobs ({', '.join(COLUMNS)}) VALUES ({', '.join('?' * len(COLUMNS))})", plain)
    cursor.execute("COMMIT")
    cursor.execute("ANALYZE")
