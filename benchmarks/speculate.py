"""Speculation without a draft model beside llama.cpp's prompt lookup: the same GGUF file, prompts, threads, greedy.

Each prompt is answered by all four in turns: Forerun plain, Forerun with {"method": "suffix"}, llama.cpp plain and with
LlamaPromptLookupDecoding (llama-cpp-python). What counts are the tokens after the first, per second.

Run: python benchmarks/speculate.py default --peer-python PATH/TO/python --prompts FILE
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from report import output_file, run, run_facts, say, write_json

from forerun.bench.files import json_lines
from forerun.checkpoint.default_model import default_model_path, is_default_name
from forerun.engine import Engine, EngineSettings, SamplingParams
from forerun.engine.speculation.config import SpeculativeConfig
from forerun.errors import ForerunError
from forerun.host.machine import read_host
from forerun.opening import ModelRequest, OpenedModel, open_model
from forerun.runtime.loader import RunSettings

PEER = Path(__file__).resolve().parent / "peers" / "speculate_llama_cpp.py"
SETTLE = 0.5
"""Seconds before each answer, in which the threads of the program before stop spinning."""
WAYS = ("Forerun", "Forerun suffix", "llama.cpp", "llama.cpp lookup")


class Peer:
    """The measuring process, see peers/speculate_llama_cpp.py."""

    def __init__(self, python: str, job: dict[str, Any]) -> None:
        self._process = subprocess.Popen(
            [python, str(PEER), json.dumps(job)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.version = self._read()["version"]

    def rate(self, prompt: Sequence[int], tokens: int, drafts: bool) -> float:
        """Tokens per second after the first."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"prompt": list(prompt), "tokens": tokens, "drafts": drafts}) + "\n")
        self._process.stdin.flush()
        done = self._read()
        return done["tokens"] / done["seconds"] if done["tokens"] else 0.0

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(30)

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise ForerunError(f"llama.cpp's process ended with {self._process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        return answer


def main() -> int:
    """Measure, print a table, write JSON."""
    args = _arguments()
    path = default_model_path() if is_default_name(args.model) else Path(args.model)
    drafts = SpeculativeConfig(num_speculative_tokens=args.drafted, table=args.table)
    settings = EngineSettings(max_num_seqs=1, max_model_len=args.longest, speculative_config=drafts)
    model = open_model(ModelRequest(str(path), engine=settings, run=RunSettings(args.threads)))
    job = {"model": str(path), "threads": args.threads, "longest": args.longest, "drafted": args.drafted}
    peer = Peer(args.peer_python, job)
    rates: dict[str, list[float]] = {way: [] for way in WAYS}
    try:
        prompts = tokens_of(args, model)
        for number, prompt in enumerate([prompts[0], *prompts]):  # the first warms up
            say(f"prompt {number} of {len(prompts)}")
            for way in WAYS[number % 4 :] + WAYS[: number % 4]:
                time.sleep(SETTLE)
                rate = one(way, model, peer, prompt, args.tokens)
                if number:
                    rates[way].append(round(rate, 2))
    finally:
        peer.close()
        model.executor.close()
    write_json(args.json, {**run_facts(), "model": path.name, "llama_cpp": peer.version, "rates": rates})
    print(table(rates))
    return 0


def one(way: str, model: OpenedModel, peer: Peer, prompt: Sequence[int], tokens: int) -> float:
    """Tokens per second of one answer."""
    if way.startswith("llama.cpp"):
        return peer.rate(prompt, tokens, way != "llama.cpp")
    settings = EngineSettings(
        enable_prefix_caching=False, speculative_config=model.engine.speculative_config if way != "Forerun" else None
    )
    engine = Engine(model.executor, settings=settings, eos_token_ids=model.tokenizer.eos_token_ids)
    engine.add("one", prompt, SamplingParams(temperature=0, max_tokens=tokens))
    came = first = 0
    began = time.perf_counter()
    while engine.unfinished:
        came += sum(len(delta.token_ids) for delta in engine.step())
        if came and not first:
            first, began = came, time.perf_counter()
    return (came - first) / (time.perf_counter() - began)


def tokens_of(args: argparse.Namespace, model: OpenedModel) -> list[list[int]]:
    """The prompts through the chat template."""
    texts = json_lines(args.prompts)[: args.num_prompts]
    chats = [model.tokenizer.apply_chat_template([{"role": "user", "content": text}]) for text in texts]
    return [model.tokenizer.encode(chat, add_special_tokens=False) for chat in chats]


def table(rates: dict[str, list[float]]) -> str:
    """Markdown: tokens per second, median (least-most), and over Forerun's plain decoding, the median of prompts."""
    lines = ["| program | tokens/s | min-max | over Forerun plain |", "|---|---:|---:|---:|"]
    plain = rates[WAYS[0]]
    for way, found in rates.items():
        ratio = statistics.median(a / b for a, b in zip(found, plain, strict=True) if b)
        spread = f"{min(found):.1f}-{max(found):.1f}"
        lines.append(f"| {way} | {statistics.median(found):.1f} | {spread} | {ratio:.2f}x |")
    return "\n".join(lines)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cores = len(read_host().pin_cpus()) or 1
    parser.add_argument("model", help="a GGUF file, or 'default'")
    parser.add_argument("--peer-python", required=True, help="interpreter that has llama-cpp-python")
    parser.add_argument("--prompts", required=True, metavar="FILE", help='a {"prompt": "..."} a line')
    parser.add_argument("--num-prompts", type=int, default=8, metavar="N", help="how many (default 8)")
    parser.add_argument("--tokens", type=int, default=200, metavar="N", help="of an answer (default 200)")
    parser.add_argument("--drafted", type=int, default=10, metavar="N", help="tokens of a draft at most (default 10)")
    parser.add_argument("--table", metavar="FILE", help='of continuations; "none": none (default: the model\'s own)')
    parser.add_argument("--longest", type=int, default=4096, metavar="N", help="tokens of a sequence (default 4096)")
    parser.add_argument("--threads", type=int, default=cores, help=f"of both programs (default {cores})")
    parser.add_argument("--json", type=output_file, help="write the figures there")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(run(main))
