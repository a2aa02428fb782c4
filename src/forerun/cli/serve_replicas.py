"""``forerun serve --data-parallel-size N``: the front, and what each of its replicas runs."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from forerun.errors import ConfigError
from forerun.progress import base_name, progress

if TYPE_CHECKING:
    from forerun.cli.serve import Open
    from forerun.opening import ModelRequest
    from forerun.replicas.lifeline import Lifeline
    from forerun.replicas.places import Order
    from forerun.server.server_settings import ServerSettings

MOST_REPLICAS = 64
_REPLICA = (sys.executable, "-m", "forerun.cli.serve_replicas")


def run_front(
    args: argparse.Namespace, request: ModelRequest, settings: ServerSettings, command: Sequence[str] | None
) -> int:
    """Compile the model if need be, start the replicas, serve until a signal. Returns the exit status.

    ``command`` starts a replica, which opens a model of its own; None: this module does, with what ``request`` asks
    for. Raises ForerunError for user mistakes.
    """
    from forerun.distributed import launched
    from forerun.host.machine import read_host
    from forerun.host.nodes import memory_nodes
    from forerun.replicas.group import Group
    from forerun.replicas.places import Order, places
    from forerun.replicas.process import Replica
    from forerun.replicas.run import leaving_at_sigterm, run
    from forerun.server.address import bound

    count = args.data_parallel_size
    if not 1 <= count <= MOST_REPLICAS:
        raise ConfigError(f"--data-parallel-size {count} must be 1 to {MOST_REPLICAS}")
    if launched() is not None:
        raise ConfigError("--data-parallel-size is for one process: start it without torchrun, or use 1")
    scratch = TemporaryDirectory(prefix="forerun-", ignore_cleanup_errors=True)
    with leaving_at_sigterm(), bound(settings) as address, scratch as folder:
        artifact = None if command is not None else _compiled(request)
        host = read_host()
        if count > len(host.cores):
            print(f"--data-parallel-size {count}: only {len(host.cores)} cores may be used here; more make it slower")
        key = next(iter((*settings.api_keys, settings.admin_api_key)), None)
        headers = None if key is None else {"Authorization": f"Bearer {key}"}
        replicas = [
            Replica(Order(args.words, place), command or _REPLICA, headers)
            for place in places(count, host, memory_nodes(), Path(folder), artifact)
        ]
        return run(Group(replicas), address)


def _compiled(request: ModelRequest) -> Path:
    """The artifact that all replicas open; so nothing is compiled twice, and mistakes are said once."""
    from forerun.cli.serve import say
    from forerun.opening import prepare

    with progress(f"Compiling {base_name(request.model)}") as tell:
        return prepare(request, say, tell).artifact.path


def replica_main(open_model: Open | None = None) -> int:
    """One replica, as the order on the standard input says; returns its exit status."""
    from forerun.cli.ending import run_command
    from forerun.replicas.lifeline import Lifeline

    lifeline = Lifeline()
    try:
        order = lifeline.read_order()
    except EOFError:
        return 1
    order.place.settle()
    return run_command(lambda: _run_replica(order, lifeline, open_model))


def _run_replica(order: Order, lifeline: Lifeline, open_model: Open | None) -> int:
    from forerun.cli.serve import model_request, parse, serve, server_settings
    from forerun.server.address import bound

    if open_model is None:
        from forerun import opening

        open_model = opening.open_model
    args, place = parse(order.flags), order.place
    args.recompile = False
    settings = _at(place.number, place.uds, server_settings(args))
    lifeline.hold(place.uds, settings.timeouts.shutdown)
    request = model_request(args)
    run = replace(request.run, threads=request.run.threads or place.threads, memory=place.memory)
    request = replace(request, run=run)
    if place.artifact is not None:
        request = replace(request, artifact=Path(place.artifact), compile="never")
    try:
        with bound(settings) as address:
            model = open_model(request, lambda line: None, lambda what, done, total: None)
            seed = None if args.seed is None else args.seed + place.number
            return serve(model, address, seed, lifeline.notice)
    except ConfigError:
        if Path(place.uds).parent.is_dir():
            raise
        return 1  # the front has gone, and its folder with it
    finally:
        lifeline.tidy(place.uds)


def _at(number: int, uds: str, settings: ServerSettings) -> ServerSettings:
    """The settings of one replica: all gates are as the front's, but for what only browsers meet."""
    quiet = "warning" if settings.log_level == "info" else settings.log_level
    return replace(settings, replica=number, uds=uds, cors=None, log_level=quiet)


if __name__ == "__main__":
    from forerun.cli import programs

    sys.exit(programs.serve_replica())
