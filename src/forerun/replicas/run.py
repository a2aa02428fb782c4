"""Runs a front: replicas first, then the public address, until a signal."""

from __future__ import annotations

import asyncio
import logging.config
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from forerun.replicas.front import Front
from forerun.replicas.group import Group
from forerun.replicas.local import LocalReplicas
from forerun.server.address import Address
from forerun.server.banner import address_lines
from forerun.server.run import Server, abrupt, log_config
from forerun.server.server_settings import ServerSettings


def run(group: Group, address: Address) -> int:
    """Start the replicas of ``group``, then serve at ``address``. Returns the exit status: 1 when all replicas were
    lost. Raises ConfigError when a replica does not start, or somebody else has the address."""
    logging.config.dictConfig(log_config(address.settings.log_level))
    return asyncio.run(_run(group, address))


@contextmanager
def leaving_at_sigterm() -> Iterator[None]:
    """Before the server handles signals, SIGTERM raises SystemExit: replicas that are starting are ended, and folders
    removed. The status is 0, as later."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(0))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


async def _run(group: Group, address: Address) -> int:
    front = Front(address.settings, LocalReplicas(group))
    try:
        await group.start()
        print(banner(address.settings, group), flush=True)
        server = Server(front, front.app())
        group.on_lost = lambda: front.when_lost()
        address.listen()
        try:
            with abrupt():
                await server.serve(address.sockets)
        except SystemExit:  # uvicorn could not start, and has said why
            return 1
        return 0 if server.started and not server.lost else 1
    finally:
        await group.close(0.0)


def banner(settings: ServerSettings, group: Group) -> str:
    """Model, replicas, KV capacity and address, one line each."""
    facts = group.replicas[0].facts
    threads = [replica.facts.get("threads") for replica in group.replicas]
    blocks, size = facts.get("num_gpu_blocks", 0), facts.get("block_size", 0)
    lines = [
        f"Forerun {facts.get('version')}",
        f"  model     {', '.join(settings.served_names)}",
        f"  replicas  {len(threads)}, on {facts.get('isa')}, with {', '.join(map(str, threads))} threads",
        f"  KV cache  {blocks * size} tokens in {blocks} blocks of {size} for each replica",
        *address_lines(settings),
    ]
    return "\n".join(lines)
