"""A portal with a history: 100,000 jobs in one org, a million in the table."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

from app import create_app
from app.accounts import service as accounts
from app.config import Config
from app.database import db, sqlite_module, transaction
from app.firstrun import furnish
from app.installation import service as installation
from app.orgs import service as orgs

PER_ORG = 100_000
ORGS = 10
ENDS = ("succeeded",) * 17 + ("failed",) * 2 + ("cancelled",)


def fill(folder: Path, jobs_per_org: int = PER_ORG, other_orgs: int = ORGS - 1) -> None:
    """Make the portal and write its jobs straight into the table: a million launches would take all day."""
    config = Config(data_dir=folder)
    app = create_app(config)
    with app.app_context():
        installation.prepare()
        furnish(config)
        with transaction():
            user = accounts.by_email(installation.operator_email())
            assert user is not None
            user_id = user.id
            org_ids = [orgs.by_slug("lab").id] + [orgs.create(f"org-{number}").id for number in range(other_orgs)]
        db.engine.dispose()
    connection = sqlite_module().connect(str(folder / "portal.db"))
    spec = json.dumps(
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
    begin = datetime.now(UTC).replace(tzinfo=None) - timedelta(days=900)
    columns = (
        "uid, org_id, user_id, name, preset_version_id, cluster_id, spec, gpus, nodes, state, reason_code, "
        "reason_text, reason_raw, wish, settled, attempt, created_at, started_at, finished_at, exit_code, version"
    )
    insert = f"INSERT INTO jobs ({columns}) VALUES ({', '.join('?' * 21)})"

    def rows() -> object:
        for number in range(jobs_per_org):
            at = begin + timedelta(minutes=12 * number)
            state = ENDS[number % len(ENDS)]
            code = {"succeeded": 0, "failed": 1}.get(state)
            for place, org_id in enumerate(org_ids):
                yield (
                    f"{chr(97 + place)}{number:07d}", org_id, user_id, f"run-{number:06d}-{'abcdefgh'[number % 8]}",
                    1, 1, spec, 0, 1, state, "exit_code", f"It ended with exit code {code}.", "", "run", 1, 1,
                    f"{at}", f"{at + timedelta(seconds=2)}", f"{at + timedelta(minutes=9)}", code, 5,
                )  # fmt: skip

    connection.execute("PRAGMA synchronous = OFF")
    connection.execute("BEGIN")
    connection.executemany(insert, rows())
    connection.execute("COMMIT")
    connection.execute("ANALYZE")
    connection.commit()
    connection.close()
