"""Streaming clients with short prompts: tokens per second of all, time to the first token, and what the server adds.

Starts ``forerun serve``; with ``--against URL`` another OpenAI-compatible server (llama-server, vLLM) gets the same
load in turns (A B A B). Ends with the time per decode step inside and outside of the native step.

Run: PYTHONPATH=src python benchmarks/serve_load.py [MODEL] [--against http://127.0.0.1:8080]
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx

sys.path.insert(0, str(Path(__file__).parent))
from serving import forerun_server, stream

PROMPT = "Write a long story about a lighthouse keeper, number {number}:"


def load(url: str, model: str | None, clients: int, tokens: int, round_number: int) -> tuple[float, float]:
    """Tokens per second of all clients together, and the median of their times to the first token in seconds.

    ``ignore_eos`` makes every answer ``tokens`` long; servers that do not know it may answer less, and
    their own count is used.
    """
    ready = threading.Barrier(clients)

    def client(number: int) -> tuple[float, int, float, float]:
        prompt = PROMPT.format(number=100 * round_number + number)
        body: dict[str, Any] = {"prompt": prompt, "max_tokens": tokens, "temperature": 0, "ignore_eos": True}
        if model is not None:
            body["model"] = model
        with httpx.Client(timeout=600) as http:
            http.get(f"{url}/health")
            ready.wait()
            start = time.perf_counter()
            first, _, made = stream(http, url, body)
            return first, made, start, time.perf_counter()

    with ThreadPoolExecutor(clients) as pool:
        found = list(pool.map(client, range(clients)))
    seconds = max(end for *_, end in found) - min(start for _, _, start, _ in found)
    return sum(made for _, made, _, _ in found) / seconds, statistics.median(first for first, *_ in found)


def main() -> None:
    """Print a row per number of clients and server, then the time outside the native step."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", default="default")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 4, 8])
    parser.add_argument("--tokens", type=int, default=64, help="tokens per answer")
    parser.add_argument("--rounds", type=int, default=3, help="measured rounds, after one to warm up")
    parser.add_argument("--against", metavar="URL", help="another server's base URL, without /v1")
    parser.add_argument("--against-model", metavar="NAME", help="model name that the other server wants")
    args = parser.parse_args()
    here = Path(__file__).parent
    with tempfile.TemporaryDirectory() as folder:
        times = Path(folder) / "times.json"
        program = (str(here / "timed_server.py"), str(times))
        most = str(max(args.clients))
        with forerun_server(args.model, "--max-num-seqs", most, program=program) as url:
            servers: list[tuple[str, str, str | None]] = [("forerun", url, None)]
            if args.against:
                servers.append(("other", args.against.rstrip("/"), args.against_model))
            print(f"{'clients':>7} {'server':<8}{'tokens/s':>10}{'TTFT P50 ms':>13}", flush=True)
            for clients in args.clients:
                results: dict[str, list[tuple[float, float]]] = {name: [] for name, _, _ in servers}
                for number in range(args.rounds + 1):
                    for name, base, model in servers:
                        measured = load(base, model, clients, args.tokens, number)
                        if number:
                            results[name].append(measured)
                for name, found in results.items():
                    speed = statistics.median(speed for speed, _ in found)
                    first = statistics.median(first for _, first in found)
                    print(f"{clients:>7} {name:<8}{speed:>10.1f}{first * 1e3:>13.1f}", flush=True)
        print(f"\n{'decoding':>8}{'steps':>7}{'native step us':>16}{'outside us':>12}{'outside / step':>16}")
        for rows, (steps, step, outside) in sorted(json.loads(times.read_text()).items(), key=lambda row: int(row[0])):
            if int(rows) in args.clients:
                print(f"{rows:>8}{steps:>7}{step * 1e6:>16.0f}{outside * 1e6:>12.0f}{outside / step:>16.1%}")


if __name__ == "__main__":
    main()
