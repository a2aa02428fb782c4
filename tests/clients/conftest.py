"""One server that other people's clients talk to; each of them is an optional package."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.server.harness import PacedExecutor, Running, running

os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # or importing litellm asks the network for prices


@pytest.fixture(scope="package")
def server() -> Iterator[Running]:
    with running() as found:
        yield found


@pytest.fixture
def stuck() -> Iterator[Running]:
    """A server whose model does not move before the test is over."""
    executor = PacedExecutor()
    with running(executor) as found:
        executor.gate.clear()
        yield found
        executor.gate.set()
