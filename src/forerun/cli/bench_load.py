"""``forerun bench load``: the load test, with LLMPerf's flags; also installed as ``token_benchmark_ray``."""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from forerun.bench import llmperf, metrics
from forerun.bench.client import Target, base_urls
from forerun.bench.datasets import DATASETS, FROM_FILES, Request, make_sessions, shared_share
from forerun.bench.load import Plan, Result, run
from forerun.bench.records import Session
from forerun.bench.server_facts import server_facts
from forerun.bench.sonnets import SEED, Lengths
from forerun.bench.tokens import token_counter
from forerun.cli.ending import INTERRUPTED
from forerun.errors import ConfigError
from forerun.host.machine import read_host
from forerun.progress import progress, say

CONCURRENT = 10
"""Requests at the same time in a closed loop, where nothing else is said."""
MOST_EVEN = 1e6
"""Burstiness beyond which moments are as even as they can be."""
SHORT_PROMPT = 40
"""LLMPerf warns below this mean: its instruction alone is about as long."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """LLMPerf's flags under their own names and defaults (two have vLLM's name too), then what it lacks."""
    add = parser.add_argument_group("as LLMPerf's").add_argument
    add("--model", required=True, help="the name that the server knows the model by")
    add("--mean-input-tokens", type=int, default=550, metavar="N", help="of a prompt (default 550)")
    add("--stddev-input-tokens", type=int, default=150, metavar="N", help="of a prompt (default 150)")
    add("--mean-output-tokens", type=int, default=150, metavar="N", help="of an answer (default 150)")
    add("--stddev-output-tokens", type=int, default=80, metavar="N", help="of an answer (default 80)")
    add("--num-concurrent-requests", "--max-concurrency", type=int, metavar="N", help="at the same time (default 10; "
        "with --request-rate it is a bound, by default none)")  # fmt: skip
    add("--timeout", type=float, default=90, metavar="S", help="no request begins after so many seconds (default 90)")
    add("--max-num-completed-requests", "--num-prompts", type=int, default=10, metavar="N", help="sessions in all: "
        "requests, or chats of several (default 10)")  # fmt: skip
    add("--additional-sampling-params", type=_object, default={}, metavar="JSON", help="fields of every body")
    add("--results-dir", default="", metavar="DIR", help="write summary and single requests there, as JSON")
    add("--llm-api", default="openai", help="only 'openai'")
    add("--metadata", type=_pairs, default={}, metavar="K=V,K=V", help="fields of the summary")
    add("--tokenizer", metavar="PATH", help="folder with tokenizer.json, or a hub id; otherwise the server counts")
    _add_server_flags(parser.add_argument_group("the server"))
    _add_load_flags(parser.add_argument_group("what LLMPerf lacks"))


def _add_server_flags(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--base-url", metavar="URL", help="http://HOST:PORT/v1; several, used in turns, separated by ';' (default: "
        "$OPENAI_API_BASE)")  # fmt: skip
    add("--api-key", metavar="KEY", help="default: $OPENAI_API_KEY")
    add("--endpoint", choices=("chat", "completions"), default="chat", help="which route (default chat)")
    add("--request-timeout", type=float, default=3600, metavar="S", help="give an answer up after so many seconds "
        "without news (default 3600)")  # fmt: skip


def _add_load_flags(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--dataset-name", default="sonnet", metavar="NAME", help=f"the prompts: {', '.join(DATASETS)}")
    add("--dataset-path", metavar="FILE", help="of humaneval, sharegpt and custom")
    add("--lines", metavar="FILE", help="the text of sonnet prompts, a line each (default: 83 lines of verse)")
    add("--seed", type=int, default=SEED, metavar="N", help=f"of prompts and moments (default {SEED})")
    add("--output-len", type=int, metavar="N", help="tokens of every answer of a dataset other than sonnet")
    add("--turns", type=int, default=4, metavar="N", help="of a chat at most (default 4; chats, sharegpt)")
    add("--think-time", type=float, default=0, metavar="S", help="between an answer and the next turn (default 0)")
    add("--num-prefixes", type=int, default=10, metavar="N", help="of prefix-repetition (default 10)")
    add("--prefix-len", type=int, default=256, metavar="N", help="of prefix-repetition (default 256)")
    add("--suffix-len", type=int, default=256, metavar="N", help="of prefix-repetition (default 256)")
    add("--request-rate", type=float, metavar="R", help="open loop: sessions per second")
    add("--burstiness", type=float, default=1, metavar="B", help="of the moments: 1 Poisson, below burstier, inf "
        "even (default 1)")  # fmt: skip
    add("--num-warmups", type=int, default=0, metavar="N", help="sessions sent before that do not count (default 0)")
    add("--cancel-share", type=float, default=0, metavar="P", help="of the requests whose client hangs up (0..1)")
    add("--cancel-after", type=float, default=1, metavar="S", help="when it hangs up (default 1)")
    add("--goodput", nargs="+", default=[], metavar="NAME:MS", help="goals: ttft:MS tpot:MS e2el:MS")
    add("--json", action="store_true", help="print the summary as one JSON object instead of LLMPerf's lines")


def run_load(args: argparse.Namespace) -> int:
    """Make the prompts, send them, print and write what came of them. 1: nothing completed; 130: Ctrl-C."""
    prepared = prepare(args)
    with progress("Requests") as bar:
        result = run(prepared.target, prepared.sessions, prepared.plan, lambda done, total: bar("", done, total))
    return _tell(args, result, prepared)


@dataclass(frozen=True)
class Prepared:
    """A load that is ready to be sent; ``request`` makes its prompts again, with another seed others. ``server``: what
    it said of itself before."""

    target: Target
    request: Request
    sessions: list[Session]
    plan: Plan
    goals: Mapping[str, float]
    server: Mapping[str, Any]


def prepare(args: argparse.Namespace) -> Prepared:
    """Check every flag and make the prompts. Raises ForerunError before anything is sent."""
    args.dataset_name = args.dataset_name.replace("_", "-")
    plan, urls, goals = _check(args)
    for flag in _unread(args):
        say(f"{flag} changes nothing here: {args.dataset_name} prompts do not read it")
    if args.results_dir:
        llmperf.make_folder(args.results_dir)
    key = args.api_key if args.api_key is not None else os.environ.get("OPENAI_API_KEY", "")
    count = token_counter(args.tokenizer, args.model, urls, key, say)
    request = Request(
        number=args.max_num_completed_requests + args.num_warmups,
        lengths=_lengths(args),
        count=count,
        seed=args.seed,
        path=args.dataset_path,
        lines=args.lines,
        output=args.output_len,
        turns=args.turns,
        think_seconds=args.think_time,
        prefixes=args.num_prefixes,
        prefix_tokens=args.prefix_len,
        suffix_tokens=args.suffix_len,
        say=lru_cache(say),  # once, however often a sweep makes its prompts
    )
    say(f"making {request.number} prompts ({args.dataset_name})")
    sessions = make_sessions(args.dataset_name, request)
    if args.mean_input_tokens < SHORT_PROMPT and args.dataset_name == "sonnet":
        say("the instruction of a sonnet prompt alone has about 40 tokens: shorter draws are drawn again")
    target = Target(
        urls, args.model, key, args.endpoint == "chat", args.additional_sampling_params, args.request_timeout
    )
    return Prepared(target, request, sessions, plan, goals, server_facts(urls[0], key))


def _tell(args: argparse.Namespace, result: Result, prepared: Prepared) -> int:
    if result.interrupted:
        say(f"interrupted: these are the figures of the {len(result.outcomes)} requests that had ended")
    if result.timed_out:
        say("Test timed out before all requests could be completed.")
    each = llmperf.individual(result, prepared.request.count)
    summary = metrics.summary(result, prepared.goals)
    figures = llmperf.results(each, result.seconds)
    extra = {
        **summary,
        "dataset": {"name": args.dataset_name, "seed": args.seed, "shared_share": shared_share(prepared.sessions)},
        "warmups": [metrics.true_metrics(outcome) for outcome in result.warmups],
        "server": _facts_now(prepared, result),
        "client_machine": client_machine(),
        "command": shown_command(sys.argv),
    }
    wrote: Sequence[Path] = ()
    if args.results_dir:  # first of all: whoever reads what is printed may be gone
        wrote = llmperf.write(args.results_dir, _settings(args), figures, args.metadata, each, extra)
    if args.json:
        print(json.dumps({**_settings(args), "results": figures, "forerun": extra}))
    else:
        print(llmperf.printed(figures, args.model, args.llm_api))
    for line in _remarks(summary):
        say(line)
    for path in wrote:
        say(f"wrote {path}")
    if result.interrupted:
        return INTERRUPTED
    return 0 if figures["num_completed_requests"] else 1


def _remarks(summary: Mapping[str, Any]) -> Iterator[str]:
    """What LLMPerf's report has no line for."""
    if goodput := summary.get("goodput"):
        goals = ", ".join(f"{name} {seconds * 1000:g} ms" for name, seconds in goodput["goals_s"].items())
        met, rate = goodput["requests"], goodput["requests_per_s"]
        yield f"goodput: {met} of {summary['completed']} answers within {goals}: {rate:.2f} requests/s"
    if summary["cancelled"]:
        yield f"{summary['cancelled']} of {summary['requests']} requests were cancelled, as asked"
    for error in summary["errors"]:
        yield f"{error['count']} x {error['message']}"


def _facts_now(prepared: Prepared, result: Result) -> Mapping[str, Any]:
    """What the server says of itself after the run; what it said before, where it is gone or somebody hurries."""
    if result.interrupted:
        return prepared.server
    try:
        return server_facts(prepared.target.base_urls[0], prepared.target.api_key) or prepared.server
    except KeyboardInterrupt:
        return prepared.server


def shown_command(words: Sequence[str]) -> list[str]:
    """The command without what only its sender may know: keys, and passwords in addresses."""
    shown = [re.sub(r"//[^/@;]*@", "//***@", word) for word in words]
    for place, word in enumerate(words):
        if word.startswith("--api-key="):
            shown[place] = "--api-key=***"
        elif place and words[place - 1] == "--api-key":
            shown[place] = "***"
    return shown


def client_machine() -> dict[str, Any]:
    """Processor and usable processors of the machine that the load came from."""
    host = read_host()
    return {"cpu": host.cpu_model, "processors": len(host.pin_cpus())}


def _settings(args: argparse.Namespace) -> dict[str, Any]:
    """The settings that LLMPerf's summary names."""
    names = (
        "model", "mean_input_tokens", "stddev_input_tokens", "mean_output_tokens", "stddev_output_tokens",
        "num_concurrent_requests", "additional_sampling_params",
    )  # fmt: skip
    return {name: getattr(args, name) for name in names}


def _lengths(args: argparse.Namespace) -> Lengths:
    return Lengths(args.mean_input_tokens, args.stddev_input_tokens, args.mean_output_tokens, args.stddev_output_tokens)


_BOUNDS = {
    "mean_input_tokens": (1, 1 << 20),
    "stddev_input_tokens": (0, 1 << 20),
    "mean_output_tokens": (1, 1 << 20),
    "stddev_output_tokens": (0, 1 << 20),
    "max_num_completed_requests": (1, 1_000_000),
    "num_concurrent_requests": (0, 10_000),
    "timeout": (0.001, math.inf),
    "request_timeout": (0.001, 1e6),
    "output_len": (1, 1 << 20),
    "turns": (1, 1000),
    "think_time": (0, 86_400),
    "num_prefixes": (1, 100_000),
    "prefix_len": (1, 1 << 20),
    "suffix_len": (1, 1 << 20),
    "num_warmups": (0, 100_000),
    "request_rate": (1e-6, 1e6),
    "cancel_share": (0, 1),
    "cancel_after": (0.001, 86_400),
}


def _check(args: argparse.Namespace) -> tuple[Plan, tuple[str, ...], dict[str, float]]:
    """Every flag within its bounds, before anything is sent."""
    for name, (low, high) in _BOUNDS.items():
        value = getattr(args, name)
        if value is not None and not low <= value <= high:
            raise ConfigError(f"--{name.replace('_', '-')} must be within {low}..{high}, not {value}")
    if not (0.001 <= args.burstiness <= MOST_EVEN or args.burstiness == math.inf):
        raise ConfigError(f"--burstiness must be within 0.001..{MOST_EVEN:g}, or inf, not {args.burstiness}")
    if args.num_concurrent_requests is None:
        args.num_concurrent_requests = CONCURRENT if args.request_rate is None else 0
    if args.request_rate is None and not args.num_concurrent_requests:
        raise ConfigError("--num-concurrent-requests 0 needs --request-rate")
    if not args.model.isprintable() or not args.model:
        raise ConfigError("--model must be a name of printable characters")
    if args.llm_api != "openai":
        raise ConfigError(f"--llm-api {args.llm_api}: only openai is spoken here")
    urls = base_urls(os.environ.get("OPENAI_API_BASE", "") if args.base_url is None else args.base_url)
    plan = Plan(
        args.num_concurrent_requests, args.request_rate, args.burstiness, args.timeout, args.num_warmups,
        args.cancel_share, args.cancel_after, args.seed,
    )  # fmt: skip
    return plan, urls, metrics.parse_goodput(args.goodput)


def _object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text or "{}")
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, RecursionError) as error:
        raise argparse.ArgumentTypeError(f"'{text:.60}' is not JSON ({error})") from None
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f"'{text}' is not a JSON object")
    return value


_CHATS = ("chats", "sharegpt")
_READERS: Mapping[str, tuple[Any, tuple[str, ...]]] = {
    "dataset_path": (None, FROM_FILES),
    "lines": (None, ("sonnet", *(name for name in DATASETS if name.startswith("dynamic-sonnet")))),
    "output_len": (None, tuple(name for name in DATASETS if name != "sonnet")),
    "turns": (4, _CHATS),
    "think_time": (0, _CHATS),
    "num_prefixes": (10, ("prefix-repetition",)),
    "prefix_len": (256, ("prefix-repetition",)),
    "suffix_len": (256, ("prefix-repetition",)),
}
"""Flags that not every dataset reads: their default, and who does."""


def _unread(args: argparse.Namespace) -> Iterator[str]:
    for name, (default, readers) in _READERS.items():
        if getattr(args, name) != default and args.dataset_name in DATASETS and args.dataset_name not in readers:
            yield f"--{name.replace('_', '-')}"


def _pairs(text: str) -> dict[str, str]:
    pairs = [part.partition("=") for part in text.split(",") if part]
    if not all(name and sign for name, sign, _ in pairs):
        raise argparse.ArgumentTypeError(f"'{text}' is not k=v,k=v")
    if taken := [name for name, _, _ in pairs if name.startswith("results_") or name in llmperf.KEYS]:
        raise argparse.ArgumentTypeError(f"'{taken[0]}' is a field of the summary itself: choose another name")
    return {name: value for name, _, value in pairs}


def entry() -> int:
    """``token_benchmark_ray ...``: LLMPerf's command line, answered by ``forerun bench load``."""
    from forerun.cli.main import main

    return main(["bench", "load", *sys.argv[1:]])
