"""What a proxy says of the caller is believed only from the proxies that the operator named."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from app.accounts import service as accounts
from app.accounts.models import UserSession
from app.config import Config
from app.database import db
from app.security import BehindProxies
from tests.conftest import Browser, Portal

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

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
    ("proxies", "address"),
    [
        ("", "127.0.0.1"),
        ("192.0.2.1", "127.0.0.1"),
        ("192.0.2.0/24", "127.0.0.1"),
        ("192.0.2.1, 127.0.0.1", "198.51.100.7"),
        ("192.0.2.0/24,127.0.0.0/8", "198.51.100.7"),
    ],
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


@pytest.mark.parametrize(
    ("sender", "forwarded", "address"),
    [
        ("10.0.0.1", "198.51.100.7", "198.51.100.7"),
        # behind two proxies of ours it is the one before them, and not what the caller put in front
        ("10.0.0.1", "198.51.100.7, 10.0.0.2", "198.51.100.7"),
        ("10.0.0.1", "203.0.113.9, 198.51.100.7, 10.0.0.2", "198.51.100.7"),
        ("10.0.0.1", "10.0.0.3, 10.0.0.2", "10.0.0.3"),  # a caller from among them
        ("10.0.0.1", "", "10.0.0.1"),
        ("::ffff:10.0.0.1", "198.51.100.7", "198.51.100.7"),
        ("fd00::1", "2001:db8::7", "2001:db8::7"),
        ("192.0.2.1", "198.51.100.7", "192.0.2.1"),
        ("", "198.51.100.7", ""),
    ],
)
def test_the_caller_is_the_last_address_that_no_proxy_of_ours_has(sender: str, forwarded: str, address: str) -> None:
    seen: list[str] = []

    def application(environ: WSGIEnvironment, _start: StartResponse) -> list[bytes]:
        seen.append(environ["REMOTE_ADDR"])
        return []

    behind = BehindProxies(application, Config(trusted_proxies="10.0.0.0/8, fd00::/8").proxies)
    environ = {"REMOTE_ADDR": sender, "wsgi.url_scheme": "http"}
    if forwarded:
        environ["HTTP_X_FORWARDED_FOR"] = forwarded
    list(behind(environ, lambda *_: lambda _: None))
    assert seen == [address]
