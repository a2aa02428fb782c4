"""A cluster of one machine for all tests here; they need the extra ``ray``."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.tiny_checkpoints import write_tiny

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")


class Cluster:
    """``model``: a tiny one whose answers may be long; ``url``: where Serve listens."""

    def __init__(self, model: Path, port: int) -> None:
        self.model = model
        self.url = f"http://127.0.0.1:{port}"

    def run(self, **args: Any) -> None:
        """Deploy the application, or change the one that runs, and wait until it is there."""
        from ray import serve

        from forerun.ray import build_app

        serve.run(build_app({"model": str(self.model), "num_replicas": "2", "num_cpus": 1, **args}))


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    ray = pytest.importorskip("ray")
    from ray import serve

    folder = tmp_path_factory.mktemp("ray")
    os.environ["FORERUN_CACHE"] = str(folder / "cache")
    model = write_tiny(folder / "model", "llama", max_position_embeddings=16384, num_hidden_layers=24)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    ray.init(num_cpus=4, include_dashboard=False, logging_level="error", log_to_driver=False)
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    yield Cluster(model, port)
    serve.shutdown()
    ray.shutdown()
