"""The Ray Serve application: replicas with an engine each, and a front that routes to them by prefix."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ray import serve
from ray.serve.config import RequestRouterConfig

from forerun.cli.serve import model_request, parse, say, server_settings
from forerun.host.machine import read_host
from forerun.opening import prepare
from forerun.ray.arguments import Arguments
from forerun.ray.deployments import Ingress, Replica

_HEALTH_PERIOD = 1.0
_HEALTH_TIMEOUT = 1.0
"""Seconds. Ray ends a replica after three questions without an answer, so one that is stopped is found within 5 s."""
_MOST_REQUESTS = 4096
"""Of one replica, for Ray; the engine's own bounds are lower, and answer with 429."""
_SPARE_SECONDS = 5.0


def build_app(args: Mapping[str, Any]) -> Any:
    """The application for ``serve run forerun.ray:build_app model=... num_replicas=2``; ``args``: see ``Arguments``.

    The model is compiled here first, so that a mistake is known at once; replicas on other machines do it themselves.
    Raises ForerunError.
    """
    given = Arguments.of(args)
    flags = parse(given.flags)
    settings = server_settings(flags)
    prepare(model_request(flags), say)
    cpus = given.num_cpus or _share(given.num_replicas)
    stop = {
        "graceful_shutdown_timeout_s": settings.timeouts.shutdown + _SPARE_SECONDS,
        "graceful_shutdown_wait_loop_s": 0.5,
    }
    health = {"health_check_period_s": _HEALTH_PERIOD, "health_check_timeout_s": _HEALTH_TIMEOUT}
    scale = {"num_replicas": given.num_replicas, "autoscaling_config": given.autoscaling}
    replica = serve.deployment(Replica).options(
        name="Replica",
        **{name: value for name, value in scale.items() if value is not None},
        ray_actor_options={"num_cpus": cpus},
        max_ongoing_requests=_MOST_REQUESTS,
        request_router_config=RequestRouterConfig(
            request_router_class="forerun.ray.router:PrefixRouter",
            request_router_kwargs={"max_num_seqs": flags.max_num_seqs or 0},
        ),
        **stop,
        **health,
    )
    ingress = serve.deployment(Ingress).options(
        name="Ingress", ray_actor_options={"num_cpus": 0}, max_ongoing_requests=_MOST_REQUESTS, **stop
    )
    return ingress.bind(given.flags, replica.bind(given.flags, cpus))


def _share(num_replicas: int | str | None) -> int:
    """Cores of each replica when nobody said how many."""
    return max(1, read_host().default_threads() // num_replicas) if isinstance(num_replicas, int) else 1
