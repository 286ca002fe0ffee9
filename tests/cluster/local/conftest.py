from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.local.machine import Machine

if sys.platform != "linux":
    collect_ignore_glob = ["*"]  # the cluster `this-machine` exists on Linux only


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    machine = Machine(tmp_path)
    yield machine
    machine.clean_up()
