"""What a proxy says of the caller is believed only from the proxies that the operator named."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from app.accounts import service as accounts
from app.accounts.models import UserSession
from app.database import db
from tests.conftest import Browser, Portal

FORWARDED = {"X-Forwarded-For": "198.51.100.7"}


def address_after_signing_in(portal: Portal) -> str:
    with portal.app.app_context():
        user = accounts.by_email("bob@example.org")
        assert user is not None
        secret = accounts.make_link(user)
        db.session.commit()
    Browser(portal.app.test_client()).get(f"/sign-in/{secret}", headers=FORWARDED)
    return str(portal.read(lambda: db.session.query(UserSession).order_by(UserSession.id.desc()).first().address))  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("proxies", "address"), [("", "127.0.0.1"), ("192.0.2.1", "127.0.0.1"), ("192.0.2.1, 127.0.0.1", "198.51.100.7")]
)
def test_the_callers_address_is_the_proxys_word_only_where_it_is_trusted(
    make: Callable[..., Portal], proxies: str, address: str
) -> None:
    assert address_after_signing_in(make(trusted_proxies=proxies)) == address


def test_wrong_passwords_from_behind_a_trusted_proxy_do_not_lock_the_owner_out(make: Callable[..., Portal]) -> None:
    portal = make(trusted_proxies="127.0.0.1")
    for _ in range(accounts.TRIES):
        guesser = Browser(portal.app.test_client())
        guesser.post("/sign-in", {"email": "bob@example.org", "password": "a wrong guess"}, headers=FORWARDED)
    guesser = Browser(portal.app.test_client())
    fields = {"email": "bob@example.org", "password": "a wrong guess"}
    assert guesser.post("/sign-in", fields, headers=FORWARDED).status_code == 429
    assert Browser(portal.app.test_client()).post("/sign-in", fields).status_code == 422
