"""Many clients at the same moment on a server that runs few sequences: nobody is lost, memory stays flat.

First ``--clients`` requests at once, in several waves, all of which fit into the queue; then as many on a server whose
queue is shorter: what is beyond it gets status 429 with Retry-After, and everybody else an answer.

Run: PYTHONPATH=src python benchmarks/burst.py [MODEL]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections import Counter
from pathlib import Path

import httpx

sys.path.insert(0, str(Path(__file__).parent))
from report import run
from serving import forerun_server, resident_bytes

from forerun.bench.client import Client, Target

SEQUENCES = 4
GROWTH = 32 << 20


async def wave(url: str, clients: int, tokens: int) -> Counter[str]:
    """Outcomes: "complete", "429", or what went wrong."""

    async def one(client: Client, number: int) -> str:
        body = {"prompt": f"Request number {number}:", "max_tokens": tokens, "temperature": 0, "ignore_eos": True}
        answer = await client.post("/completions", body)
        if answer.status == 429:
            return "429" if "retry-after" in answer.fields else "429 without Retry-After"
        if answer.error:
            return f"status {answer.status} {answer.failure}".rstrip()
        made = json.loads(answer.text)["usage"]["completion_tokens"]
        return "complete" if made == tokens else f"{made} of {tokens} tokens"

    async with Client(Target((f"{url}/v1",))) as client:
        return Counter(await asyncio.gather(*(one(client, number) for number in range(clients))))


def idle(url: str) -> bool:
    """Whether no request is left and every KV block is free, within some seconds."""
    for _ in range(100):
        load = httpx.get(f"{url}/load").json()
        if not load["num_requests_running"] + load["num_requests_waiting"] + load["kv_cache_usage"]:
            return True
        time.sleep(0.05)
    return False


def main() -> int:
    """Run both parts; 0 when nothing was wrong."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", default="default", help="what forerun serve takes (default 'default')")
    parser.add_argument("--clients", type=int, default=200, help="requests at once (default 200)")
    parser.add_argument("--tokens", type=int, default=16, help="tokens per answer (default 16)")
    parser.add_argument("--waves", type=int, default=4, help="how often they come (default 4)")
    parser.add_argument("--queue", type=int, default=50, help="--max-queued-requests of the second server (default 50)")
    args = parser.parse_args()
    wrong = []
    with forerun_server(args.model, "--max-num-seqs", str(SEQUENCES)) as url:
        memory = []
        for number in range(args.waves):
            start = time.perf_counter()
            found = asyncio.run(wave(url, args.clients, args.tokens))
            memory.append(resident_bytes(url))
            seconds = time.perf_counter() - start
            print(f"wave {number + 1}: {dict(found)} in {seconds:.1f} s; {memory[-1] >> 20} MiB resident", flush=True)
            wrong += [] if found == {"complete": args.clients} else [f"wave {number + 1}: {dict(found)}"]
        growth = memory[-1] - memory[0]
        wrong += [] if growth < GROWTH else [f"memory grew by {growth >> 20} MiB after the first wave"]
        wrong += [] if idle(url) else ["something is left after the last wave"]
    with forerun_server(args.model, "--max-num-seqs", str(SEQUENCES), "--max-queued-requests", str(args.queue)) as url:
        found = asyncio.run(wave(url, args.clients, args.tokens))
        print(f"a queue of {args.queue}: {dict(found)}", flush=True)
        if found["complete"] + found["429"] != args.clients or found["complete"] < SEQUENCES + args.queue:
            wrong.append(f"a queue of {args.queue}: {dict(found)}")
        wrong += [] if idle(url) else ["something is left after the full queue"]
    for line in wrong:
        print(f"wrong: {line}")
    print("ok" if not wrong else f"{len(wrong)} things are wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    run(main)
