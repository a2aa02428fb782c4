"""Flags of the commands that answer: how tokens are drawn."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from forerun.engine.params import SamplingParams


def add_sampling_flags(parser: argparse.ArgumentParser, *, seed: str) -> None:
    """``seed``: where the random seed comes from by default."""
    parser.add_argument("--temperature", type=float, default=0.0, help="0 (default) is greedy")
    parser.add_argument("--top-k", type=int, default=0, help="0 or -1: off")
    parser.add_argument("--top-p", type=float, default=1.0)
    parser.add_argument("--min-p", type=float, default=0.0)
    parser.add_argument("--seed", type=int, default=None, help=f"random seed (default: {seed})")


def sampling_params(args: argparse.Namespace) -> SamplingParams:
    """What these flags, and --max-new-tokens, say. Raises RequestError for values out of range."""
    from forerun.engine.params import SamplingParams

    return SamplingParams(
        max_tokens=args.max_new_tokens,
        temperature=args.temperature,
        top_k=max(0, args.top_k),
        top_p=args.top_p,
        min_p=args.min_p,
        seed=args.seed,
    )
