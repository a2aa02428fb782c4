"""One plain server that tests share when they need nothing special of it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.server.harness import Running, running


@pytest.fixture(scope="package")
def server() -> Iterator[Running]:
    with running() as found:
        yield found
