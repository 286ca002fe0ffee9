"""Stored credentials: sealed, write-only, and moved to a new key without being lost."""

from __future__ import annotations

import base64
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from nacl.public import PrivateKey

from app.clusters import service as clusters
from app.config import REPOSITORY, Config
from app.database import db, transaction
from app.installation import keys, sealing
from app.installation import service as installation
from tests.conftest import Portal, make_portal

CANARY = "a token that must never be read back: 5f2e0c"


@pytest.fixture
def berlin(portal: Portal) -> Portal:
    """A portal with a cluster whose credential is the canary."""
    with portal.app.app_context(), transaction():
        clusters.add_kubernetes("berlin", {"namespace": "lab", "gpus": {}}, CANARY, [])
    return portal


def credential(portal: Portal) -> bytes:
    found = portal.read(lambda: clusters.by_name("berlin").credential)  # type: ignore[union-attr]
    assert isinstance(found, bytes)
    return found


def opened(portal: Portal) -> str:
    return portal.read(lambda: installation.unseal(clusters.by_name("berlin").credential).decode())  # type: ignore[union-attr, arg-type, no-any-return]


def test_a_credential_stands_nowhere_in_the_clear(berlin: Portal) -> None:
    for path in berlin.config.data_dir.rglob("*"):
        if path.is_file() and not path.is_fifo():
            assert CANARY.encode() not in path.read_bytes(), path
    assert opened(berlin) == CANARY


def test_no_answer_of_the_api_holds_a_credential(berlin: Portal) -> None:
    answer = berlin.api("alice").get("/api/clusters")
    assert "berlin" in answer.text
    assert CANARY not in answer.text and "credential" not in answer.text


def test_rotating_seals_with_a_new_key_and_loses_nothing(berlin: Portal) -> None:
    before, keys = credential(berlin), sealing.read(berlin.config)
    result = berlin.command("keys", "rotate")
    assert result.exit_code == 0, result.output
    after = sealing.read(berlin.config)
    assert after[1:] == keys and len(after) == 2
    assert sealing.key_file(berlin.config).stat().st_mode & 0o777 == 0o600
    assert opened(berlin) == CANARY
    with pytest.raises(sealing.CannotOpen):
        sealing.unseal(keys, credential(berlin))
    assert sealing.unseal(keys, before).decode() == CANARY


def test_a_rotation_that_was_killed_between_key_and_credentials_is_finished_by_the_next(berlin: Portal) -> None:
    sealing.add(berlin.config)  # and then nothing more happened
    assert opened(berlin) == CANARY
    assert berlin.command("keys", "rotate").exit_code == 0
    assert opened(berlin) == CANARY
    assert sealing.unseal(sealing.read(berlin.config)[:1], credential(berlin)).decode() == CANARY


def test_without_its_key_a_credential_is_refused_with_the_place_of_the_key(berlin: Portal) -> None:
    sealing.key_file(berlin.config).unlink()
    with berlin.app.app_context(), pytest.raises(installation.NotReady, match=r"seal\.keys"):
        installation.unseal(clusters.by_name("berlin").credential)  # type: ignore[union-attr, arg-type]


# kills, and what may go afterwards


def command(portal: Portal, *arguments: str, fault: str = "", **settings: str) -> subprocess.CompletedProcess[str]:
    """One of the operator's commands as a process of its own, which may be made to die at a named point."""
    environment = {
        **os.environ,
        "DATA_DIR": str(portal.config.data_dir),
        "DATABASE_URL": portal.config.database_url,
        "SECRET_KEY": portal.config.secret_key,
        **settings,
        **({"SIMPLETRAIN_FAULT": fault} if fault else {}),
    }
    return subprocess.run(
        [sys.executable, "-m", "flask", "--app", "wsgi", *arguments],
        cwd=REPOSITORY,
        env=environment,
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.parametrize("point", ["keys.after_key", "keys.after_public", "keys.before_reseal", "keys.after_reseal"])
def test_a_rotation_killed_anywhere_loses_nothing_and_the_next_one_ends_it_without_another_key(
    berlin: Portal, point: str
) -> None:
    before = sealing.read(berlin.config)
    assert command(berlin, "keys", "rotate", fault=point).returncode == -signal.SIGKILL
    assert opened(berlin) == CANARY, "the portal goes on meanwhile"
    halfway = sealing.read(berlin.config)
    assert halfway[1:] == before
    with berlin.app.app_context(), transaction():  # and what is sealed in between is not lost either
        clusters.add_kubernetes("paris", {"namespace": "lab", "gpus": {}}, CANARY, [])
    done = command(berlin, "keys", "rotate")
    assert done.returncode == 0, done.stderr
    known = sealing.read(berlin.config)
    assert known[-len(halfway) :] == halfway
    assert len(known) == len(halfway) + (point == "keys.after_reseal"), "a finished rotation is not gone on with"
    assert berlin.read(clusters.sealed_with_older_keys) == 0
    done = command(berlin, "keys", "rotate", "--drop-old")
    assert done.returncode == 0, done.stderr
    assert sealing.read(berlin.config) == known[:1]
    assert opened(berlin) == CANARY


def test_old_keys_are_not_removed_while_something_is_sealed_with_them(berlin: Portal) -> None:
    sealing.add(berlin.config)
    said = berlin.command("keys", "rotate", "--drop-old")
    assert said.exit_code == 1 and "Run `keys rotate` first" in said.stderr
    assert len(sealing.read(berlin.config)) == 2


def test_keys_in_a_setting_are_rotated_by_putting_a_new_one_in_front(berlin: Portal) -> None:
    old = sealing.read(berlin.config)[0]
    new = bytes(PrivateKey.generate())
    both = ",".join(base64.b64encode(key).decode() for key in (new, old))
    said = command(berlin, "keys", "rotate", SEAL_KEYS=base64.b64encode(old).decode())
    assert said.returncode == 1 and "put a new key of 32 random bytes in base64 in front of it" in said.stderr
    said = command(berlin, "keys", "rotate", SEAL_KEYS=both)
    assert said.returncode == 0, said.stderr
    assert sealing.unseal([new], credential(berlin)).decode() == CANARY
    assert "Take the others out yourself" in command(berlin, "keys", "rotate", "--drop-old", SEAL_KEYS=both).stderr
    assert command(berlin, "keys", "rotate", "--drop-old", SEAL_KEYS=base64.b64encode(new).decode()).returncode == 1


def test_a_new_secret_key_is_accepted_only_by_its_command_and_signs_everybody_out(berlin: Portal) -> None:
    browser, token = berlin.browser("bob"), berlin.token("bob")
    other = "another key of 32 characters and more: 0987654321"
    refused = command(berlin, "clusters", "list", SECRET_KEY=other)
    assert refused.returncode == 1 and "is not the key that this database began with" in refused.stderr
    same = command(berlin, "keys", "rotate-session", "--yes")
    assert same.returncode == 1 and "belongs to this SECRET_KEY already" in same.stderr
    done = command(berlin, "keys", "rotate-session", "--yes", SECRET_KEY=other)
    assert done.returncode == 0, done.stderr
    assert command(berlin, "clusters", "list", SECRET_KEY=other).returncode == 0
    assert command(berlin, "clusters", "list").returncode == 1, "the old one is refused from now on"
    assert browser.get("/orgs/lab/jobs").status_code == 302
    answer = berlin.app.test_client().get("/api/me", headers={"Authorization": f"Bearer {token}"})
    assert answer.status_code == 200, "tokens stay"
    assert opened(berlin) == CANARY, "stored credentials have keys of their own"


@pytest.mark.parametrize("point", ["keys.after_session_key", "keys.after_session_accepted"])
def test_a_killed_change_of_the_session_key_in_the_file_is_ended_by_the_next(tmp_path: Path, point: str) -> None:
    portal = make_portal(Config(data_dir=tmp_path / "var"))
    with portal.app.app_context():
        db.session.remove()
        db.engine.dispose()
    old = keys.read(portal.config)
    killed = command(portal, "keys", "rotate-session", "--yes", fault=point)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    if point == "keys.after_session_accepted":
        said = command(portal, "clusters", "list")
        assert said.returncode == 1
        assert "A change of the session key was interrupted. Run: flask --app wsgi keys rotate-session" in said.stderr
    else:
        assert command(portal, "clusters", "list").returncode == 0
    done = command(portal, "keys", "rotate-session", "--yes")
    assert done.returncode == 0, done.stderr
    assert keys.read(portal.config) != old
    assert not list(keys.key_file(portal.config).parent.glob("*.next"))
    assert command(portal, "clusters", "list").returncode == 0
    assert keys.key_file(portal.config).stat().st_mode & 0o777 == 0o600
