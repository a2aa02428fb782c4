"""What a front needs to know of the replicas behind it, wherever they are."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from starlette.responses import Response

from forerun.replicas.errand import Errand

if TYPE_CHECKING:
    from prometheus_client.core import Metric


@dataclass(frozen=True)
class Told:
    """What one replica answered to a question that all got."""

    name: str
    status: int
    body: bytes

    def json(self) -> dict[str, Any]:
        """The object in it."""
        found: dict[str, Any] = json.loads(self.body)
        return found


class Backend(Protocol):
    """A group of replicas."""

    @property
    def ready(self) -> bool:
        """Whether one of them takes requests."""
        ...

    @property
    def unfinished(self) -> int:
        """Answers that have not ended."""
        ...

    def relay(self, errand: Errand) -> Response:
        """The response that one of them gives."""
        ...

    async def all(self, errand: Errand) -> list[Told]:
        """What each of them that is ready answers; one that is lost meanwhile is left out."""
        ...

    def forget(self) -> None:
        """Their prefix caches are empty now."""
        ...

    def describe(self, told: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
        """What each of them is doing; ``told``: their own /server_info."""
        ...

    def families(self) -> Iterable[Metric]:
        """Metrics of the group."""
        ...

    async def close(self, timeout: float) -> bool:
        """End all, after up to ``timeout`` seconds for what runs; whether all ended by themselves."""
        ...
