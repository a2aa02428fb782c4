"""Speculation without a draft model beside llama.cpp's prompt lookup: the same GGUF file, prompts, threads, greedy.

Each prompt is answered by all four in turns: Forerun plain, Forerun with {"method": "suffix"}, llama.cpp plain and with
LlamaPromptLookupDecoding (llama-cpp-python). What counts are the tokens after the first, per second.

Run: python benchmarks/speculate.py default --peer-python PATH/TO/python --prompts FILE
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from compare import SETTLE, Contender, Process
from report import output_file, run, run_facts, say, write_json

from forerun.bench.files import json_lines
from forerun.checkpoint.default_model import default_model_path, is_default_name
from forerun.engine import Engine, EngineSettings, SamplingParams
from forerun.engine.speculation.config import SpeculativeConfig
from forerun.host.machine import read_host
from forerun.opening import ModelRequest, OpenedModel, open_model
from forerun.runtime.loader import RunSettings

WAYS = ("Forerun", "Forerun suffix", "llama.cpp", "llama.cpp lookup")


def main() -> int:
    """Measure, print a table, write JSON."""
    args = _arguments()
    path = default_model_path() if is_default_name(args.model) else Path(args.model)
    drafts = SpeculativeConfig(num_speculative_tokens=args.drafted, table=args.table)
    settings = EngineSettings(max_num_seqs=1, max_model_len=args.longest, speculative_config=drafts)
    model = open_model(ModelRequest(str(path), engine=settings, run=RunSettings(args.threads)))
    job = {"model": str(path), "threads": args.threads, "longest": args.longest, "drafted": args.drafted}
    contender = Contender("llama.cpp", "speculate_llama_cpp.py", "file", "", args.peer_python)
    peer = Process(contender, job, args.limit)
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
    write_json(args.json, {**run_facts(), "model": path.name, "llama_cpp": peer.facts["version"], "rates": rates})
    print(table(rates))
    return 0


def one(way: str, model: OpenedModel, peer: Process, prompt: Sequence[int], tokens: int) -> float:
    """Tokens per second of one answer."""
    if way.startswith("llama.cpp"):
        return peer.rate({"prompt": list(prompt), "tokens": tokens, "drafts": way != "llama.cpp"})
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
    parser.add_argument(
        "--limit", type=float, default=600, help="seconds that llama.cpp has for an answer (default 600)"
    )
    parser.add_argument("--json", type=output_file, help="write the figures there")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(run(main))
