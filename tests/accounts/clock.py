"""A clock that tests turn forward, in the places that decide what has expired."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest

from app.accounts import access, service
from app.database import now


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ahead = timedelta()
        for module in (service, access):
            monkeypatch.setattr(module, "now", self.now)

    def now(self) -> datetime:
        return now() + self.ahead

    def forward(self, **length: float) -> None:
        self.ahead += timedelta(**length)
