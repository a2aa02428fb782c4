"""``forerun bench load``: the load test, with LLMPerf's flags; also installed as ``token_benchmark_ray``."""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from forerun.bench import llmperf, metrics
from forerun.bench.client import Target, base_urls
from forerun.bench.datasets import DATASETS, Request, make_sessions, shared_share
from forerun.bench.load import Plan, Result, run
from forerun.bench.records import Session
from forerun.bench.server_facts import server_facts
from forerun.bench.sonnets import SEED, Lengths
from forerun.bench.tokens import token_counter
from forerun.cli.ending import INTERRUPTED
from forerun.errors import ConfigError
from forerun.host.machine import read_host
from forerun.progress import progress

SHORT_PROMPT = 40
"""LLMPerf warns below this mean: its instruction alone is about as long."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """LLMPerf's flags under their own names and defaults, then what it lacks."""
    add = parser.add_argument_group("as LLMPerf's").add_argument
    add("--model", required=True, help="the name that the server knows the model by")
    add("--mean-input-tokens", type=int, default=550, metavar="N", help="of a prompt (default 550)")
    add("--stddev-input-tokens", type=int, default=150, metavar="N", help="of a prompt (default 150)")
    add("--mean-output-tokens", type=int, default=150, metavar="N", help="of an answer (default 150)")
    add("--stddev-output-tokens", type=int, default=80, metavar="N", help="of an answer (default 80)")
    add("--num-concurrent-requests", type=int, default=10, metavar="N", help="at the same time (default 10)")
    add("--timeout", type=float, default=90, metavar="S", help="no request begins after so many seconds (default 90)")
    add("--max-num-completed-requests", type=int, default=10, metavar="N", help="requests in all (default 10)")
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
    add("--request-rate", type=float, metavar="R", help="open loop: sessions per second; --num-concurrent-requests "
        "is then a bound, 0 for none")  # fmt: skip
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
    """A load that is ready to be sent; ``request`` makes its prompts again, with another seed others."""

    target: Target
    request: Request
    sessions: list[Session]
    plan: Plan
    goals: Mapping[str, float]


def prepare(args: argparse.Namespace) -> Prepared:
    """Check every flag and make the prompts. Raises ForerunError before anything is sent."""
    plan, urls, goals = _check(args)
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
    return Prepared(target, request, sessions, plan, goals)


def _tell(args: argparse.Namespace, result: Result, prepared: Prepared) -> int:
    if result.interrupted:
        say(f"interrupted: these are the figures of the {len(result.outcomes)} requests that had ended")
    if result.timed_out:
        say("Test timed out before all requests could be completed.")
    each = llmperf.individual(result, prepared.request.count)
    figures = llmperf.results(each, result.seconds)
    extra = {
        **metrics.summary(result, prepared.goals),
        "dataset": {"name": args.dataset_name, "seed": args.seed, "shared_share": shared_share(prepared.sessions)},
        "warmups": [metrics.true_metrics(outcome) for outcome in result.warmups],
        "server": server_facts(prepared.target.base_urls[0], prepared.target.api_key),
        "client_machine": client_machine(),
        "command": sys.argv,
    }
    if args.json:
        print(json.dumps({**_settings(args), "results": figures, "forerun": extra}))
    else:
        print(llmperf.printed(figures, args.model, args.llm_api))
    for error in extra["errors"]:
        say(f"{error['count']} x {error['message']}")
    if args.results_dir:
        for path in llmperf.write(args.results_dir, _settings(args), figures, args.metadata, each, extra):
            say(f"wrote {path}")
    if result.interrupted:
        return INTERRUPTED
    return 0 if figures["num_completed_requests"] else 1


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
    "burstiness": (0.001, math.inf),
    "cancel_share": (0, 1),
    "cancel_after": (0.001, 86_400),
}


def _check(args: argparse.Namespace) -> tuple[Plan, tuple[str, ...], dict[str, float]]:
    """Every flag within its bounds, before anything is sent."""
    for name, (low, high) in _BOUNDS.items():
        value = getattr(args, name)
        if value is not None and not low <= value <= high:
            raise ConfigError(f"--{name.replace('_', '-')} must be within {low}..{high}, not {value}")
    if args.request_rate is not None and not 0 < args.request_rate < math.inf:
        raise ConfigError("--request-rate must be above 0 and finite; leave it out for a closed loop")
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


def _pairs(text: str) -> dict[str, str]:
    pairs = [part.partition("=") for part in text.split(",") if part]
    if not all(name and sign for name, sign, _ in pairs):
        raise argparse.ArgumentTypeError(f"'{text}' is not k=v,k=v")
    return {name: value for name, _, value in pairs}


def say(text: str) -> None:
    """A line of progress, on standard error."""
    print(text, file=sys.stderr, flush=True)


def entry() -> int:
    """``token_benchmark_ray ...``: LLMPerf's command line, answered by ``forerun bench load``."""
    from forerun.cli.main import main

    return main(["bench", "load", *sys.argv[1:]])
