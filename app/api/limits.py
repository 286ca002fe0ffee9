"""How many requests a token may make, and how many an address may make without a valid one.

Both are buckets of one minute's requests that fill up steadily: a minute's worth may come at once, and then as many as
the rate allows. They live in the memory of one web process, so an installation allows that much for each of its
processes: what is guarded are the threads of a process, and a limit kept in the database would cost more than most
requests that it refuses.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Hashable
from hashlib import sha256
from ipaddress import IPv6Address, IPv6Network
from threading import Lock
from time import monotonic

from flask import Flask, Response, g, request

from app.accounts import access
from app.config import Config
from app.errors import Problem

MINUTE = 60.0
KEPT = 10_000  # buckets of one kind; the one that was used longest ago goes first
LITTLE = 0.25  # of a bucket: below it every answer says what is left


class Buckets:
    """One bucket for each key. A key that is not kept has a full one. 0 a minute: no limit, and keys are kept still."""

    def __init__(self, per_minute: int, kept: int = KEPT) -> None:
        self._every = MINUTE / per_minute if per_minute else 0.0
        self._kept = kept
        self._full_at: OrderedDict[Hashable, float] = OrderedDict()  # when each will be full again
        self._lock = Lock()

    def __contains__(self, key: Hashable) -> bool:
        return key in self._full_at

    def take(self, key: Hashable) -> float:
        """Take one request out of the bucket: 0, or the seconds until there is one to take."""
        now = monotonic()
        with self._lock:
            full_at = max(self._full_at.get(key, now), now) + self._every
            if (wait := full_at - now - MINUTE) > 1e-6:  # sums of floats are not exact
                return wait
            self._full_at[key] = full_at
            self._full_at.move_to_end(key)
            if len(self._full_at) > self._kept:
                self._full_at.popitem(last=False)
        return 0.0

    def wait(self, key: Hashable) -> float:
        """The seconds until there is one to take; nothing is taken."""
        return max(0.0, self._full_at.get(key, 0.0) + self._every - monotonic() - MINUTE)

    def left(self, key: Hashable) -> tuple[int, float]:
        """How many can be taken now, and the seconds until the bucket is full."""
        until_full = max(0.0, self._full_at.get(key, 0.0) - monotonic())
        return int((MINUTE - until_full + 1e-6) / self._every), until_full

    def forget(self, key: Hashable) -> None:
        with self._lock:
            self._full_at.pop(key, None)


class Limits:
    """The gate before the API. It knows the tokens that were good here: those never wait for others' failures."""

    def __init__(self, config: Config) -> None:
        self.rate, self.failure_rate = config.api_rate, config.api_failure_rate
        self.tokens = Buckets(self.rate)
        self.failures = Buckets(self.failure_rate)

    def admit(self) -> None:
        """Raises Problem, 429, for a request that comes too early. Asks no database."""
        token = access.bearer(request)
        g.api_key = key = sha256(token.encode()).digest() if token else None
        if key in self.tokens:
            if wait := self.tokens.take(key):
                raise self._refusal(wait, f"This token may make {self.rate:,} requests a minute.", self._standing(key))
        elif wait := self.failures.wait(_address()):
            told = f"Your address may make {self.failure_rate:,} requests a minute without a valid token."
            raise self._refusal(wait, told, {})

    def note(self, answer: Response) -> None:
        """Count a failure against the address, and tell the token's owner how the token stands."""
        key = g.api_key
        if answer.status_code == 401:
            self.tokens.forget(key)  # it was good once, and has been revoked or has expired since
            self.failures.take(_address())
        elif "api_token" in g:
            if key not in self.tokens:
                self.tokens.take(key)
            answer.headers.extend(self._standing(key))

    def _standing(self, key: Hashable) -> dict[str, str]:
        """The fields of draft-ietf-httpapi-ratelimit-headers-10. What is left is told only when it is little.

        An answer that tells nothing new stays the same, byte for byte, however often it is asked for.
        """
        if not self.rate:
            return {}
        told = {"RateLimit-Policy": f'"token";q={self.rate};w={MINUTE:.0f}'}
        left, until_full = self.tokens.left(key)
        if left < self.rate * LITTLE:
            told["RateLimit"] = f'"token";r={left};t={math.ceil(until_full)}'
        return told

    @staticmethod
    def _refusal(wait: float, rule: str, headers: dict[str, str]) -> Problem:
        seconds = math.ceil(wait)
        return Problem(
            429,
            "too-many-requests",
            "Too many requests",
            f"{rule} Try again in {seconds} s.",
            {"Retry-After": str(seconds), **headers},
        )


def _address() -> str:
    """Whom a failure counts against. Whoever has one IPv6 address has the 2⁶⁴ beside it."""
    address = request.remote_addr or ""
    if ":" not in address:
        return address
    try:
        parsed = IPv6Address(address)
    except ValueError:
        return address
    return address if parsed.ipv4_mapped else str(IPv6Network((int(parsed), 64), strict=False))


def install(app: Flask, config: Config) -> None:
    limits = Limits(config)

    @app.before_request
    def _admit() -> None:
        # pages and their polls pass by at the price of this comparison
        if request.path.startswith("/api/") and request.endpoint and not access.is_public(request.endpoint):
            limits.admit()

    @app.after_request
    def _note(answer: Response) -> Response:
        if "api_key" in g:
            limits.note(answer)
        return answer
