"""Replicas that fail and leave, under a running front: how soon clients hear of it, what is lost, when all are back.

    forerun serve default --data-parallel-size 2 --port 8000 &
    python benchmarks/replicas.py --base-url http://localhost:8000

Kills a replica in the middle of streams, stops one, and (with --leave) asks each to end under load. The numbers of the
processes come from /server_info, so the front and its replicas must be on this machine.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import threading
import time
from typing import Any

import httpx

TOKENS = 1500


class Stream(threading.Thread):
    """A streamed completion; ``ended``: when, ``error``: what the stream said."""

    def __init__(self, url: str, number: int) -> None:
        super().__init__(daemon=True)
        prompt = f"{number}. A long story about the number {number}, told slowly:"
        self.url, self.body = url, {"prompt": prompt, "max_tokens": TOKENS, "ignore_eos": True, "stream": True}
        self.count, self.ended, self.error = 0, 0.0, ""
        self.start()

    def run(self) -> None:
        """Read it to its end."""
        try:
            with httpx.stream("POST", f"{self.url}/v1/completions", json=self.body, timeout=600) as response:
                for line in response.iter_lines():
                    self.count += bool(line)
                    if '"error"' in line:
                        self.error = json.loads(line.removeprefix("data: "))["error"]["code"]
        except httpx.TransportError as error:
            self.error = type(error).__name__
        self.ended = time.monotonic()


def replicas(url: str) -> list[dict[str, Any]]:
    """What the front says of each."""
    found: list[dict[str, Any]] = httpx.get(f"{url}/server_info", timeout=60).json()["replicas"]
    return found


def pids(url: str) -> set[int]:
    """Of those that are there."""
    return {each["pid"] for each in replicas(url) if each["pid"] and each.get("ready", True)}


def lose(url: str, how: signal.Signals, count: int) -> None:
    """End one of ``count`` replicas in the middle of a stream on each; print what became of all."""
    streams = [Stream(url, os.getpid() * 100 + number) for number in range(count)]
    while not all(stream.count > 5 for stream in streams):
        time.sleep(0.01)
    victim = min(pids(url))
    os.kill(victim, how)
    at = time.monotonic()
    while not any(stream.error for stream in streams) and any(stream.is_alive() for stream in streams):
        time.sleep(0.005)
    told, statuses = time.monotonic() - at, []
    while len(pids(url)) < count or victim in pids(url):
        body = {"prompt": f"{len(statuses)} and more", "max_tokens": 4}
        statuses.append(httpx.post(f"{url}/v1/completions", json=body, timeout=60).status_code)
    back = time.monotonic() - at
    for stream in streams:
        stream.join()
    errors = [stream.error for stream in streams if stream.error]
    print(
        f"{how.name}: {len(errors)} of {count} streams failed ({', '.join(errors)}) after {told:.2f} s; "
        f"{len(statuses)} new requests meanwhile, {sum(status != 200 for status in statuses)} not answered; "
        f"all replicas back after {back:.1f} s"
    )


def leave(url: str, clients: int) -> None:
    """Ask each replica to end, one after the other, while ``clients`` send requests; print how many were lost."""
    stop, statuses = threading.Event(), list[Any]()

    def ask(number: int) -> None:
        while not stop.is_set():
            body = {"prompt": f"{number}: once upon a time", "max_tokens": 32, "ignore_eos": True}
            try:
                statuses.append(httpx.post(f"{url}/v1/completions", json=body, timeout=600).status_code)
            except httpx.TransportError as error:
                statuses.append(type(error).__name__)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    at = time.monotonic()
    for victim in sorted(pids(url)):
        count = len(pids(url))
        os.kill(victim, signal.SIGTERM)
        while victim in pids(url) or len(pids(url)) < count:
            time.sleep(0.1)
    seconds = time.monotonic() - at
    stop.set()
    for thread in threads:
        thread.join()
    lost = [status for status in statuses if status != 200]
    print(f"SIGTERM to each in turn, {seconds:.1f} s: {len(statuses)} requests, {len(lost)} lost {lost[:5]}")


def main() -> None:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base-url", default="http://localhost:8000")
    parser.add_argument(
        "--leave", action="store_true", help="also ask replicas to end (not on Ray, which does it itself)"
    )
    parser.add_argument("--clients", type=int, default=6)
    args = parser.parse_args()
    count = len(pids(args.base_url))
    for how in (signal.SIGKILL, signal.SIGSTOP):
        lose(args.base_url, how, count)
    if args.leave:
        leave(args.base_url, args.clients)


if __name__ == "__main__":
    main()
