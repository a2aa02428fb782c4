"""What the load test itself costs: its client against a server that sends tokens at moments that it notes.

The server is a process of its own, so that both may have a processor. Its first piece of an answer and the client's
time of it are readings of one clock; their difference is the client's error of a time to the first token. The whole
time to the first token, less the pause that the server makes before it, has in it what either of them needs besides.

Run: PYTHONPATH=src python benchmarks/client_overhead.py [--clients 32] [--tokens-per-s 2000]
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from mock_server import Script, mock_server
from report import output_file, run, run_facts, say, write_json

from forerun.bench import load
from forerun.bench.client import Target
from forerun.bench.metrics import statistics
from forerun.bench.records import Session, Turn


def _serve(pipe: Connection, script: Script) -> None:
    with mock_server(lambda body: script) as mock:
        pipe.send(mock.url)
        pipe.recv()
        pipe.send([(body["messages"][0]["content"], moment) for body, moment in mock.firsts])


@contextmanager
def serving(script: Script, firsts: dict[str, float]) -> Iterator[str]:
    """The server's URL; afterwards ``firsts`` has the moment of every prompt's first piece."""
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe()
    process = spawn.Process(target=_serve, args=(theirs, script), daemon=True)
    process.start()
    yield ours.recv()
    ours.send("end")
    firsts.update(ours.recv())
    process.join(60)


def measure(clients: int, rate: float, tokens: int, requests: int) -> dict[str, Any]:
    """Errors of the first token's time, and the processor's share that the client needs."""
    script = Script(pieces=[f" w{n}" for n in range(tokens)], pause=clients / rate, usage={"completion_tokens": tokens})
    sessions = [Session((Turn(str(n), tokens),)) for n in range(requests)]
    firsts: dict[str, float] = {}
    with serving(script, firsts) as url:
        result = load.run(Target((url,), "mock"), sessions, load.Plan(concurrency=clients))
    beyond = [outcome.ttft - script.pause for outcome in result.outcomes]
    late = [result.began + outcome.events[0] - firsts[str(outcome.session)] for outcome in result.outcomes]
    sent = sum(len(outcome.events) for outcome in result.outcomes)
    return {
        "clients": clients,
        "pieces_per_s": sent / result.seconds,
        "ttft_error_s": statistics(late),
        "ttft_beyond_pause_s": statistics(beyond),
        "cpu_share": result.cpu_share,
        "event_loop_lag_s": statistics(result.lag),
    }


def main() -> int:
    """Measure, print a line, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=32, help="at the same time (default 32)")
    parser.add_argument("--tokens-per-s", type=float, default=2000, help="of all together (default 2000)")
    parser.add_argument("--tokens", type=int, default=128, help="of an answer (default 128)")
    parser.add_argument("--requests", type=int, default=128, help="in all (default 128)")
    parser.add_argument("--json", type=output_file, help="write the figures there")
    args = parser.parse_args()
    say(f"about {args.requests * args.tokens / args.tokens_per_s:.0f} s")
    found = measure(args.clients, args.tokens_per_s, args.tokens, args.requests)
    write_json(args.json, {**run_facts(), **found})
    error, beyond = found["ttft_error_s"]["quantiles"], found["ttft_beyond_pause_s"]["quantiles"]
    print(
        f"{found['pieces_per_s']:.0f} pieces/s to {args.clients} clients: TTFT error P50 {error['p50'] * 1e3:.2f} ms, "
        f"P99 {error['p99'] * 1e3:.2f} ms; TTFT beyond the server's pause P50 {beyond['p50'] * 1e3:.2f} ms; "
        f"{found['cpu_share']:.2f} of a processor"
    )
    return 0


if __name__ == "__main__":
    run(main)
