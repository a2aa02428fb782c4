"""``python -m forerun.accuracy.record``: answer prompts with transformers and save the reference as .npz."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from forerun.accuracy.golden import Golden, save_golden
from forerun.accuracy.huggingface import HuggingFaceModel
from forerun.checkpoint import open_checkpoint
from forerun.checkpoint.safe_tokenizer import SafeTokenizer
from forerun.errors import ForerunError, one_line


def record(model_path: str, prompts: Sequence[str], tokens: int, with_logits: bool = True) -> Golden:
    """Greedy answers of at most ``tokens`` tokens, as the checks expect them."""
    checkpoint = open_checkpoint(model_path)
    tokenizer = SafeTokenizer(checkpoint.tokenizer_files, checkpoint.config.vocab_size)
    model = HuggingFaceModel.open(model_path)
    ends = frozenset(tokenizer.eos_token_ids)
    ids = [tokenizer.encode(prompt) for prompt in prompts]
    answers = [model.answer(number, each, tokens, ends, with_logits) for number, each in enumerate(ids)]
    return Golden(tuple(answers), checkpoint.fingerprint)


def main(argv: Sequence[str] | None = None) -> int:
    """Read the command line, record, save."""
    parser = argparse.ArgumentParser(prog="python -m forerun.accuracy.record", description=__doc__)
    parser.add_argument("--model-path", required=True, help="checkpoint: a folder, a GGUF file, a hub id or 'default'")
    parser.add_argument("--prompt", action="append", required=True, help="a prompt; may be repeated")
    parser.add_argument("--tokens", type=int, default=64, help="most tokens of an answer (default: 64)")
    parser.add_argument("--no-logits", action="store_true", help="save the tokens alone: enough for token matching")
    parser.add_argument("--output", type=Path, required=True, help="the .npz file to write")
    args = parser.parse_args(argv)
    try:
        golden = record(args.model_path, args.prompt, args.tokens, not args.no_logits)
        save_golden(args.output, golden)
    except ForerunError as error:
        print(f"error: {one_line(str(error))}", file=sys.stderr)
        return 1
    print(f"{args.output}: {sum(len(answer.tokens) for answer in golden.answers)} tokens of {len(args.prompt)} prompts")
    return 0


if __name__ == "__main__":
    sys.exit(main())
