"""``forerun chat MODEL``: a conversation in the terminal."""

from __future__ import annotations

import argparse
from pathlib import Path

from forerun.cli.conversation import Conversation
from forerun.cli.model_flags import add_model_flags, add_run_flags, prepare_model
from forerun.cli.sampling_flags import add_sampling_flags, sampling_params
from forerun.errors import ConfigError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of the command."""
    parser.add_argument("model", help="artifact folder, Hugging Face folder, .gguf file, hub id, or 'default'")
    parser.add_argument("--system", default=None, help="system message (in the chat: /system TEXT)")
    parser.add_argument("--load", type=Path, metavar="FILE", help="go on with a conversation that /save wrote")
    parser.add_argument("--max-new-tokens", type=int, help="longest answer in tokens (default 1024, or as many as fit)")
    add_sampling_flags(parser, seed="drawn for every answer")
    parser.add_argument(
        "--stats", action=argparse.BooleanOptionalAction, default=True, help="speed and cache after every answer"
    )
    add_model_flags(parser)
    add_run_flags(parser)


def run(args: argparse.Namespace) -> int:
    """Load the model and talk until the input ends."""
    from forerun.cli.chat_loop import ChatLoop
    from forerun.engine.generator import Generator

    params = sampling_params(args)
    conversation = Conversation.load(args.load) if args.load else Conversation()
    if args.system is not None:
        conversation.system = args.system
    prepared = prepare_model(args)
    if not prepared.tokenizer.has_chat_template:
        raise ConfigError(f"{args.model} has no chat template; forerun generate continues plain text")
    model = prepared.load()
    with Generator(model.executor, model.tokenizer, settings=model.engine, draft=model.draft) as llm:
        ChatLoop(llm.engine, prepared.tokenizer, params, conversation, stats=args.stats).run()
    return 0
