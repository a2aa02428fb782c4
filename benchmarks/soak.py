"""Random requests with random cancels against a running server; at the end every block must be free and counts agree.

Run: python benchmarks/soak.py --url http://127.0.0.1:8000 --minutes 10
Exit status 1 and a list of what is wrong when anything is.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import re
import sys
import time
from collections import Counter
from typing import Any

import httpx
from report import run

from forerun.bench.client import Client, Target
from forerun.bench.exchange import STAY, Leave

IDLE_SECONDS = 1.5
REFUSED = {"max_tokens": -1}  # status 400
_RESIDENT = "process_resident_memory_bytes"
WORDS = (
    "the",
    "of",
    "and",
    "a",
    "to",
    "in",
    "is",
    "you",
    "that",
    "it",
    "he",
    "was",
    "for",
    "on",
    "are",
    "as",
    "with",
    "his",
)


class Soak:
    """``clients`` tasks that each send one request after the other until the time is over."""

    def __init__(self, url: str, seconds: float, clients: int, cancels: float, seed: int, key: str | None) -> None:
        self._client = Client(Target((f"{url}/v1",), api_key=key or "", timeout=300))
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._http = httpx.AsyncClient(base_url=url, timeout=300, headers=headers)  # for what the server says of itself
        self._seconds = seconds
        self._end = 0.0  # when the clients stop; set when they start
        self._clients = clients
        self._cancels = cancels
        self._seed = seed
        self._prefixes = [""]
        self.seen: Counter[str] = Counter()
        self.wrong: list[str] = []
        self._known: dict[str, str] = {}

    async def run(self) -> None:
        """Send until the time is over, then check."""
        context = (await self._http.get("/v1/models")).json()["data"][0]["max_model_len"]
        sizes = [min(60 + 40 * n, context // 16) for n in range(4)]
        self._prefixes = [" ".join(random.Random(n).choices(WORDS, k=size)) for n, size in enumerate(sizes)]
        before = await self._settled()
        memory: list[float] = []
        watcher = asyncio.create_task(self._watch(memory))
        async with self._client:
            await asyncio.gather(*(self._ask_on(random.Random(self._seed + n)) for n in range(self._clients)))
        watcher.cancel()
        await self._check(before, memory)
        await self._http.aclose()

    async def _settled(self) -> dict[str, float]:
        """The totals once the server has taken its memory, which it does in pauses like this one; then time starts."""
        before = await self._totals()
        while True:
            await asyncio.sleep(2)
            now = await self._totals()
            if now.get(_RESIDENT) == before.get(_RESIDENT):
                self._end = time.monotonic() + self._seconds
                return now
            before = now

    async def _ask_on(self, rng: random.Random) -> None:
        while time.monotonic() < self._end:
            body = self._body(rng)
            leaves = rng.random() < self._cancels
            leave = Leave(rng.uniform(0.001, 2.0), rng.randrange(1, 20)) if leaves else STAY
            path = "/chat/completions" if "messages" in body else "/completions"
            answer = await self._client.post(path, body, leave)
            if answer.left:
                self.seen["left"] += 1
            elif answer.failure:
                self.wrong.append(answer.failure)
            else:
                self._judge(body, answer.status, answer.text)

    def _body(self, rng: random.Random) -> dict[str, Any]:
        text = rng.choice(self._prefixes) if rng.random() < 0.6 else ""
        text += " " + " ".join(rng.choices(WORDS, k=rng.randrange(1, 40)))
        body: dict[str, Any] = {"max_tokens": rng.choice((1, 5, 20, 60)), "stream": rng.random() < 0.6}
        chat = rng.random() < 0.5
        body |= {"messages": [{"role": "user", "content": text}]} if chat else {"prompt": text}
        if rng.random() < 0.5:
            body["temperature"] = 0
        else:
            body |= {"temperature": 0.8, "top_p": 0.9, "seed": rng.randrange(1000)}
        extras: list[dict[str, Any]] = [
            {"n": 2},
            {"stop": ["e ", "zz"]},
            {"logprobs": True, "top_logprobs": 2} if chat else {"logprobs": 2},
            {"presence_penalty": 0.5},
            {"ignore_eos": True},
            {"cache_salt": rng.choice("ab")},
            {"min_tokens": 1},
            REFUSED,
        ]
        for extra in rng.sample(extras, rng.randrange(3)):
            body |= extra
        return body

    def _judge(self, body: dict[str, Any], status: int, text: str) -> None:
        self.seen[str(status)] += 1
        expected = 400 if REFUSED.items() <= body.items() else 200
        if status not in (expected, 429):
            self.wrong.append(f"status {status} instead of {expected}: {text[:200]}")
        if status != 200:
            return
        if body["stream"]:
            if not text.endswith("data: [DONE]\n\n") or '"error"' in text:
                self.wrong.append(f"a stream ended with {text[-200:]!r}")
            return
        if body["temperature"] == 0 or "seed" in body:  # the same request must have the same answer, always
            key = repr(sorted((k, repr(v)) for k, v in body.items() if k not in ("cache_salt", "stream")))
            answer = text[text.index('"choices"') : text.index('"usage"')]
            if self._known.setdefault(key, answer) != answer:
                self.wrong.append(f"another answer to the same request: {key[:200]}")

    async def _watch(self, memory: list[float]) -> None:
        while True:
            await asyncio.sleep(2)
            memory.append((await self._totals()).get(_RESIDENT, 0.0))

    async def _totals(self) -> dict[str, float]:
        """Every metric, summed over its labels."""
        found: dict[str, float] = {}
        for line in (await self._http.get("/metrics")).text.splitlines():
            match = re.match(r"([a-zA-Z0-9_:]+)(?:\{(.*)\})? (\S+)$", line)
            if match:
                reason = re.search(r'finished_reason="(\w+)"', match[2] or "")
                name = f"{match[1]}.{reason[1]}" if reason else match[1]
                found[name] = found.get(name, 0.0) + float(match[3])
        return found

    async def _check(self, before: dict[str, float], memory: list[float]) -> None:
        for _ in range(200):
            load = (await self._http.get("/load")).json()
            if not (load["num_requests_running"] or load["num_requests_waiting"] or load["server_load"]):
                break
            await asyncio.sleep(0.05)
        await asyncio.sleep(IDLE_SECONDS)  # the engine checks its KV memory when it has nothing else to do
        after = await self._totals()
        if after["forerun:engine_failures_total"] != before.get("forerun:engine_failures_total", 0.0):
            self.wrong.append("the engine found a defect; see the server's log")
        for name in ("vllm:num_requests_running", "vllm:num_requests_waiting", "vllm:kv_cache_usage_perc"):
            if after[name] != 0:
                self.wrong.append(f"{name} is {after[name]} at the end")
        change = {name: value - before.get(name, 0.0) for name, value in after.items()}
        success = "vllm:request_success_total"
        ended = change[f"{success}.stop"] + change[f"{success}.length"]
        if ended != change["vllm:e2e_request_latency_seconds_count"]:
            self.wrong.append(
                f"{ended} answers ended, but {change['vllm:e2e_request_latency_seconds_count']} were timed"
            )
        if change[f"{success}.error"]:
            self.wrong.append(f"{change[f'{success}.error']} answers failed")
        aborted = change[f"{success}.abort"]
        if aborted > 2 * self.seen["left"]:
            self.wrong.append(f"{aborted} answers were aborted, but only {self.seen['left']} clients left")
        split = change["vllm:prompt_tokens_by_source_total"]
        if split != change["vllm:prompt_tokens_total"]:
            self.wrong.append(f"prompt tokens by source are {split} of {change['vllm:prompt_tokens_total']}")
        if (await self._http.get("/health")).status_code != 200:
            self.wrong.append("the server is not healthy at the end")
        self._report(change, memory)

    def _report(self, change: dict[str, float], memory: list[float]) -> None:
        quarter = memory[len(memory) // 4 :] or [0.0]
        growth = (quarter[-1] - quarter[0]) / 2**20
        hits, queries = change["vllm:prefix_cache_hits_total"], change["vllm:prefix_cache_queries_total"]
        print(f"responses: {dict(sorted(self.seen.items()))}")
        print(
            f"tokens generated: {change['vllm:generation_tokens_total']:.0f}; prefix hits: {hits / max(queries, 1):.1%}"
        )
        print(f"preemptions: {change['vllm:num_preemptions_total']:.0f}; memory growth: {growth:.1f} MiB")
        if growth > 64:
            self.wrong.append(f"memory grew by {growth:.0f} MiB")


def main() -> int:
    """Run and report; 0 when nothing was wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:8000", help="of the server (default http://127.0.0.1:8000)")
    parser.add_argument("--minutes", type=float, default=10.0, help="how long (default 10)")
    parser.add_argument("--clients", type=int, default=16, help="at the same time (default 16)")
    parser.add_argument("--cancels", type=float, default=0.3, help="share of requests left early (default 0.3)")
    parser.add_argument("--seed", type=int, default=0, help="of everything random (default 0)")
    parser.add_argument("--api-key", help="if the server wants one")
    args = parser.parse_args()
    soak = Soak(args.url, args.minutes * 60, args.clients, args.cancels, args.seed, args.api_key)
    try:
        asyncio.run(soak.run())
    except httpx.TransportError as error:
        print(f"error: {args.url} does not answer ({error or type(error).__name__})", file=sys.stderr)
        return 1
    for line in soak.wrong[:20]:
        print(f"wrong: {line}")
    print("ok" if not soak.wrong else f"{len(soak.wrong)} things are wrong")
    return 1 if soak.wrong else 0


if __name__ == "__main__":
    run(main)
