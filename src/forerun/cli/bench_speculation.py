"""``forerun bench offline MODEL --speculation JSON``: speculation on real prompts, with and without in turns."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from typing import Any

from forerun.bench.datasets import DATASETS, Request, make_sessions
from forerun.bench.sonnets import SEED, Lengths
from forerun.checkpoint.tokenizer import Tokenizer
from forerun.cli.model_flags import prepare_model
from forerun.engine.engine_settings import EngineSettings
from forerun.engine.params import SamplingParams
from forerun.errors import ConfigError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which prompts, and how they are answered."""
    add = parser.add_argument_group("with --speculation").add_argument
    add("--prompts", metavar="FILE", help='a {"prompt": "..."} a line; through the chat template if there is one')
    add("--dataset-name", default="sonnet", metavar="NAME", help=f"instead: {', '.join(DATASETS)} (default sonnet)")
    add("--dataset-path", metavar="FILE", help="of humaneval and sharegpt")
    add("--num-prompts", type=int, default=8, metavar="N", help="how many (default 8)")
    add("--input-len", type=int, default=1000, metavar="N", help="tokens of a sonnet prompt (default 1000)")
    add("--new-tokens", type=int, default=256, metavar="N", help="longest answer (default 256)")
    add("--temperature", type=float, default=0.0, metavar="T", help="0 (default) is greedy")


def run_speculation(args: argparse.Namespace) -> int:
    """Measure and print. 1 when speculation changed a token."""
    from forerun.measure.speculation import compare

    for name in ("num_prompts", "new_tokens", "input_len", "batch"):
        if not 1 <= getattr(args, name) <= 1 << 20:
            raise ConfigError(f"--{name.replace('_', '-')} must be within 1..{1 << 20}")
    if args.batch_size is None:
        args.batch_size = max(4, args.batch)
    prepared = prepare_model(args)
    tokenizer = prepared.tokenizer
    prompts = _prompts(args, tokenizer)
    params = SamplingParams(temperature=args.temperature, seed=1, max_tokens=args.new_tokens)
    model = prepared.load()
    try:
        found = compare(
            model.executor, prompts, params, model.engine.speculative_config or args.speculative_config,
            settings=EngineSettings(), draft=model.draft, eos_token_ids=tokenizer.eos_token_ids,
            together=args.batch, say=_say,
        )  # fmt: skip
    finally:
        model.executor.close()
    found = {"model": args.model, "isa": model.isa, "threads": model.threads, "together": args.batch, **found}
    print(json.dumps(found) if args.json else _lines(found))
    return 0 if found["same_tokens"] else 1


def _prompts(args: argparse.Namespace, tokenizer: Tokenizer) -> list[list[int]]:
    request = Request(
        number=args.num_prompts,
        lengths=Lengths(args.input_len, 0, args.new_tokens, 0),
        count=lambda text: len(tokenizer.encode(text)),
        seed=SEED,
        path=args.prompts or args.dataset_path,
    )
    sessions = make_sessions("custom" if args.prompts else args.dataset_name, request)
    texts = [session.turns[0].content for session in sessions]
    if not tokenizer.has_chat_template:
        return [tokenizer.encode(text) for text in texts]
    chats = [tokenizer.apply_chat_template([{"role": "user", "content": text}]) for text in texts]
    return [tokenizer.encode(chat, add_special_tokens=False) for chat in chats]


def _say(done: int, total: int) -> None:
    print(f"{done} of {total} groups", file=sys.stderr, flush=True)


def _lines(found: Mapping[str, Any]) -> str:
    low, high = found["speedup_min_max"]
    acceptance = "nothing drafted" if found["acceptance"] is None else f"{found['acceptance']:.0%} accepted"
    return "\n".join(
        [
            f"{found['isa']}, {found['threads']} threads, {found['groups']} groups of {found['together']}",
            f"TPOT P50 {found['tpot_ms']['off']:.2f} ms without, {found['tpot_ms']['on']:.2f} ms with drafts",
            f"speedup {found['speedup']:.2f}x over all, median {found['speedup_median']:.2f}x ({low:.2f}-{high:.2f})",
            f"{found['tokens_per_step']:.2f} tokens a step, {found['drafted']} drafted, {acceptance}",
            f"TTFT {found['ttft_ratio']:.3f}x; the tokens are {'the same' if found['same_tokens'] else 'NOT THE SAME'}",
        ]
    )
