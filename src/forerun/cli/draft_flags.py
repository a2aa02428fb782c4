"""Draft models by single flags: the original's names and vLLM's, both with their own way of counting."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from forerun.engine.speculation.config import MOST_TOKENS, SpeculativeConfig
from forerun.errors import ConfigError

_LOOKUP = "[ngram]"
_OVERRIDES = ("enable_fused_speculation", "speculation_length")
"""Keys of --override-neuron-config that are about drafts."""


def drafts_of_length(
    model: str | None, length: int | None, *, compiled: str | None = None, fused: bool = False
) -> SpeculativeConfig | None:
    """Drafts in the original's words: a ``length`` of tokens a step, drafted ones and one. None: no drafts. Raises
    ConfigError."""
    if model is None:
        if compiled is not None:
            raise ConfigError("--compiled-draft-model-path needs --draft-model-path")
        return None
    if length is None:
        raise ConfigError("--draft-model-path needs --speculation-length: drafted tokens and one, such as 7")
    if not 0 <= length <= MOST_TOKENS + 1:
        raise ConfigError(f"--speculation-length must be within 0..{MOST_TOKENS + 1}, not {length}")
    if length < 2:
        return None
    return SpeculativeConfig(
        "draft_model", num_speculative_tokens=length - 1, model=model, compiled=compiled, fused=fused
    )


def length_line(name: str, length: int) -> str:
    """What a length in the original's words comes to."""
    return f"{name} {length}: up to {length - 1} drafted tokens + 1 a step"


def add_draft_flags(group: argparse._ArgumentGroup) -> None:
    """The flags of ``forerun serve``."""
    add = group.add_argument
    add(
        "--speculative-model", "--spec-model", "--draft-model-path", metavar="MODEL",
        help="draft model: checkpoint or artifact; [ngram] looks drafts up in the text",
    )  # fmt: skip
    add(
        "--num-speculative-tokens", "--spec-tokens", type=int, metavar="N",
        help="most drafted tokens; with enable_fused_speculation drafted ones and one, as in the original",
    )  # fmt: skip
    add("--speculation-length", type=int, metavar="N", help="the original's: drafted tokens and one")
    add("--compiled-draft-model-path", metavar="PATH", help="folder of the draft's artifact (default: the cache)")
    add("--enable-fused-speculation", action="store_true", help="draft and verify in one native call")
    add("--speculative-model-quantization", metavar="FORM", help="weight format of the draft: int8 or int4")
    add("--ngram-prompt-lookup-max", type=int, metavar="N", help="longest context of [ngram] (default 8)")
    add("--ngram-prompt-lookup-min", type=int, metavar="N", help="shortest context of [ngram] (default 2)")


def drafts_of(args: argparse.Namespace, override: Mapping[str, Any]) -> SpeculativeConfig | None:
    """What flags and --override-neuron-config ask for together. Raises ConfigError."""
    model = args.speculative_model
    given: SpeculativeConfig | None = args.speculative_config
    if given is not None:
        if model is not None:
            raise ConfigError("--speculative-config and --speculative-model are two ways to say one thing: give one")
        return given
    if model == _LOOKUP:
        keys = {
            "num_speculative_tokens": args.num_speculative_tokens,
            "prompt_lookup_min": args.ngram_prompt_lookup_min,
            "prompt_lookup_max": args.ngram_prompt_lookup_max,
        }
        return SpeculativeConfig.from_dict(
            {"method": "ngram", **{key: value for key, value in keys.items() if value is not None}}
        )
    fused = _fused(args, override)
    if (length := _length(args, override)) is not None or model is None:
        drafts = drafts_of_length(model, length, compiled=args.compiled_draft_model_path, fused=fused)
        return drafts and drafts.with_quantization(args.speculative_model_quantization)
    keys = {
        "model": model,
        "num_speculative_tokens": args.num_speculative_tokens,
        "compiled": args.compiled_draft_model_path,
        "quantization": args.speculative_model_quantization,
        "fused": fused,
    }
    return SpeculativeConfig.from_dict({key: value for key, value in keys.items() if value is not None})


def draft_notices(args: argparse.Namespace, override: Mapping[str, Any]) -> list[str]:
    """How lengths are counted, and what has no draft model to work on."""
    if args.speculative_model is None:
        asked = [name for name in _OVERRIDES if override.get(name)]
        flags = {
            "--num-speculative-tokens": args.num_speculative_tokens,
            "--speculation-length": args.speculation_length,
            "--enable-fused-speculation": args.enable_fused_speculation,
            "--speculative-model-quantization": args.speculative_model_quantization,
        }
        asked += [flag for flag, value in flags.items() if value]
        return [f"{', '.join(asked)}: no effect without --speculative-model"] if asked else []
    length = _length(args, override)
    if length is None or length < 2 or args.speculative_model == _LOOKUP:
        return []
    by = "--num-speculative-tokens" if length == args.num_speculative_tokens else "--speculation-length"
    return [length_line(by, length)]


def _fused(args: argparse.Namespace, override: Mapping[str, Any]) -> bool:
    return bool(args.enable_fused_speculation or override.get("enable_fused_speculation"))


def _length(args: argparse.Namespace, override: Mapping[str, Any]) -> int | None:
    """Tokens a step, drafted ones and one, where somebody counts so."""
    if args.speculation_length is not None:
        return int(args.speculation_length)
    if args.num_speculative_tokens is not None:
        return int(args.num_speculative_tokens) if override.get("enable_fused_speculation") else None
    length = override.get("speculation_length")
    return length if type(length) is int else None
