"""``forerun generate MODEL --prompt TEXT``: streams an answer to the terminal."""

from __future__ import annotations

import argparse
import io
import sys
import time
from typing import TYPE_CHECKING

from forerun.cli.model_flags import add_model_flags, add_run_flags, prepare_model
from forerun.cli.sampling_flags import add_sampling_flags, sampling_params
from forerun.errors import ConfigError

if TYPE_CHECKING:
    from forerun.checkpoint.tokenizer import Tokenizer

_MOST_CHARS = 64 << 20
"""What standard input may have; any context has fewer."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of the command."""
    parser.add_argument("model", help="artifact folder, Hugging Face folder, .gguf file, hub id, or 'default'")
    parser.add_argument("text", nargs="?", metavar="PROMPT", help="the prompt ('-' reads standard input)")
    parser.add_argument("--prompt", "-p", help="the same, as a flag")
    parser.add_argument(
        "--chat",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="use the chat template (default: when the model has one)",
    )
    parser.add_argument("--system", default=None, help="system message for the chat template")
    parser.add_argument("--max-new-tokens", type=int, help="longest answer in tokens (default 256, or as many as fit)")
    add_sampling_flags(parser, seed="drawn")
    parser.add_argument(
        "--stats", action=argparse.BooleanOptionalAction, default=True, help="print speed to stderr at the end"
    )
    add_model_flags(parser)
    add_run_flags(parser)


def run(args: argparse.Namespace) -> int:
    """Load, stream, report speed."""
    from forerun.engine.generator import Generator
    from forerun.library import fitting

    started = time.perf_counter()
    prompt = _prompt(args)
    params = sampling_params(args)
    prepared = prepare_model(args)
    text = _standard_input() if prompt == "-" else prompt
    ids = prompt_ids(prepared.tokenizer, text, args.chat, args.system)
    model = prepared.load()
    with Generator(model.executor, model.tokenizer, settings=model.engine, draft=model.draft) as llm:
        loaded = time.perf_counter()
        _check_room(args.max_new_tokens, len(ids), llm.engine.admission.max_total)
        params = fitting(params, len(ids), llm)
        llm.engine.add("cli", ids, params)
        tokens, first, error, reason = 0, loaded, None, None
        while llm.engine.unfinished:
            for delta in llm.engine.step():
                if delta.token_ids and not tokens:
                    first = time.perf_counter()
                tokens += len(delta.token_ids)
                error, reason = delta.error or error, delta.finish_reason
                sys.stdout.write(delta.text)
                sys.stdout.flush()
        ended = time.perf_counter()
    sys.stdout.write("\n")
    if error:
        raise ConfigError(error)
    if reason == "length":
        print(f"[cut at {tokens} tokens: --max-new-tokens N allows longer answers]", file=sys.stderr)
    if args.stats:
        print(_stats(len(ids), tokens, loaded - started, first - loaded, ended - first), file=sys.stderr)
    return 0


def _check_room(asked: int | None, prompt: int, room: int) -> None:
    if asked is not None and prompt < room < prompt + asked:
        raise ConfigError(
            f"--max-new-tokens {asked}: {prompt} prompt tokens leave {room - prompt} of {room}; ask for less, or raise "
            "--seq-len as far as the model's context goes"
        )


def _prompt(args: argparse.Namespace) -> str:
    if (args.text is None) == (args.prompt is None):
        raise ConfigError("give one prompt: forerun generate MODEL PROMPT, or --prompt PROMPT")
    return str(args.prompt if args.text is None else args.text)


def _standard_input() -> str:
    """As UTF-8, in every locale; what is none becomes replacement characters, as it does in an argument."""
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(encoding="utf-8", errors="replace")
    text = sys.stdin.read(_MOST_CHARS + 1)
    if len(text) > _MOST_CHARS:
        raise ConfigError(f"standard input has more than {_MOST_CHARS} characters")
    return text


def prompt_ids(tokenizer: Tokenizer, text: str, chat: bool | None, system: str | None) -> list[int]:
    """Token ids of the prompt, through the chat template when there is one and it is not switched off."""
    if chat is None:
        chat = tokenizer.has_chat_template
    if not chat:
        if system is not None:
            raise ConfigError("--system needs the chat template: add --chat")
        return tokenizer.encode(text)
    messages = [{"role": "system", "content": system}] if system is not None else []
    messages.append({"role": "user", "content": text})
    return tokenizer.encode(tokenizer.apply_chat_template(messages), add_special_tokens=False)


def _stats(prompt: int, tokens: int, load: float, prefill: float, decode: float) -> str:
    speed = f", {(tokens - 1) / decode:.1f} tokens/s" if tokens > 1 and decode > 0 else ""
    return f"[load {load:.2f} s, {prompt} prompt tokens in {prefill * 1e3:.0f} ms, {tokens} tokens{speed}]"
