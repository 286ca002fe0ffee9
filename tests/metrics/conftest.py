from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import pytest

from app.metrics import figures, questions
from app.metrics.figures import Teller
from tests.conftest import Portal


@pytest.fixture
def told(portal: Portal) -> Iterator[Callable[[], str]]:
    """What the worker's figures and the database's are now, all in one."""
    from prometheus_client import CollectorRegistry, generate_latest

    figures.end()
    registry = CollectorRegistry()
    figures.begin(Teller.WORKER, registry)
    figures.begin(Teller.WEB, registry)
    registry.register(questions.Database(portal.app))
    yield lambda: generate_latest(registry).decode()
    figures.end()


def value(text: str, name: str) -> float | None:
    found = re.search(rf"^{re.escape(name)} (\S+)$", text, re.M)
    return float(found[1]) if found else None
