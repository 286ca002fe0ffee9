"""Stored credentials: sealed, write-only, and moved to a new key without being lost."""

from __future__ import annotations

import pytest

from app.clusters import service as clusters
from app.database import transaction
from app.installation import sealing
from app.installation import service as installation
from tests.conftest import Portal

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
