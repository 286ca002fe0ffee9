"""Liveness asks nobody; readiness asks the database and nobody else."""

from __future__ import annotations

import pytest
from sqlalchemy import event, text
from sqlalchemy.exc import OperationalError

from app import create_app
from app.config import Config
from app.database import db, transaction
from app.installation import keys
from tests.conftest import Portal, make_portal


def test_liveness_does_no_database_input_or_output(portal: Portal) -> None:
    touched: list[str] = []
    with portal.app.app_context():
        event.listen(db.engine, "before_cursor_execute", lambda _c, _k, text, *_: touched.append(text))
        event.listen(db.engine, "checkout", lambda *_: touched.append("a connection"))
    browser = portal.browser("alice")
    touched.clear()
    for client in (portal.app.test_client(), browser.client):
        answer = client.get("/healthz")
        assert (answer.status_code, answer.text) == (200, "ok\n")
        assert client.head("/healthz").status_code == 200
    assert touched == []
    assert portal.app.test_client().get("/readyz").status_code == 200
    assert touched  # the listener works


def test_liveness_needs_no_database_at_all(tmp_path: object) -> None:
    from pathlib import Path

    portal = create_app(Config(data_dir=Path(f"{tmp_path}/nowhere")))
    assert portal.test_client().get("/healthz").status_code == 200
    assert portal.test_client().get("/readyz").status_code == 503
    assert not Path(f"{tmp_path}/nowhere").exists()


def ready(portal: Portal) -> int:
    answer = portal.app.test_client().get("/readyz")
    if answer.status_code == 503:
        assert answer.headers["Retry-After"] == "5"
        assert answer.text == "not ready\n"  # why is for the operator's log, not for strangers
    return answer.status_code


@pytest.mark.parametrize("revision", ["0000", "9999", None])
def test_a_portal_whose_schema_is_not_this_versions_is_not_ready(portal: Portal, revision: str | None) -> None:
    assert ready(portal) == 200
    with portal.app.app_context(), transaction() as session:
        session.execute(text("DELETE FROM alembic_version"))
        if revision is not None:
            session.execute(text("INSERT INTO alembic_version VALUES (:revision)"), {"revision": revision})
    assert ready(portal) == 503
    assert portal.app.test_client().get("/healthz").status_code == 200


def test_a_portal_whose_database_does_not_answer_is_not_ready(portal: Portal, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise OperationalError("SELECT 1", {}, Exception("unable to open database file"))

    with portal.app.app_context():
        monkeypatch.setattr(db.engine, "connect", broken)
    assert ready(portal) == 503


def test_a_portal_whose_key_is_gone_or_another_is_not_ready(tmp_path: object) -> None:
    from pathlib import Path

    portal = make_portal(Config(data_dir=Path(f"{tmp_path}/var")))
    assert ready(portal) == 200
    kept = keys.key_file(portal.config).read_text()
    keys.key_file(portal.config).write_text("another key, as long as it should be: 0123456789\n")
    assert ready(portal) == 503
    keys.key_file(portal.config).unlink()
    assert ready(portal) == 503
    keys.key_file(portal.config).write_text(kept)
    assert ready(portal) == 200
    with portal.app.app_context():
        db.engine.dispose()


def test_readiness_asks_no_cluster_and_writes_nothing(portal: Portal) -> None:
    statements: list[str] = []
    with portal.app.app_context():
        event.listen(db.engine, "before_cursor_execute", lambda _c, _k, text, *_: statements.append(text))
    assert ready(portal) == 200
    assert statements
    reading = ("SELECT", "PRAGMA", "BEGIN", "SHOW")
    assert not [text for text in statements if "clusters" in text or not text.lstrip().startswith(reading)]
