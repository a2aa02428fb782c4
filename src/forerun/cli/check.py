"""``forerun check ARTIFACT --text FILE``: how far an artifact is from the float32 weights of its checkpoint."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from forerun.accuracy.divergence import Divergence, measure
from forerun.accuracy.scoring import ExecutorScorer
from forerun.checkpoint import Tokenizer
from forerun.errors import AccuracyError
from forerun.progress import Progress, base_name, progress
from forerun.runtime.step import Executor

CONTEXT = 1024
_MOST_CHARS = 64 << 20
_CHARS_PER_TOKEN = 32
"""More than any text has on average."""


@dataclass(frozen=True)
class Models:
    """Two executors for the same token ids. ``same_checkpoint``: the artifact was compiled from the reference."""

    artifact: Executor
    reference: Executor
    same_checkpoint: bool


@dataclass(frozen=True)
class Subject:
    """An artifact whose executors are not open yet: its tokenizer, its longest context, the name of the reference, and
    what opens both executors for (context, progress)."""

    tokenizer: Tokenizer
    max_context: int
    reference: str
    open: Callable[[int, Progress], Models]


Open = Callable[[argparse.Namespace], Subject]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's flags."""
    parser.add_argument("artifact", help="artifact folder, or a checkpoint: what is cached of it")
    parser.add_argument(
        "--reference", metavar="MODEL", help="checkpoint (default: the one the artifact was compiled from)"
    )
    parser.add_argument("--text", required=True, metavar="FILE", help="UTF-8 text to predict")
    parser.add_argument("--tokens", type=int, help="read only that many tokens (default: the whole text)")
    parser.add_argument("--context", type=int, default=CONTEXT, help=f"tokens read in one piece (default {CONTEXT})")
    parser.add_argument(
        "--threads", type=int, default=0, help="threads (default: physical cores within affinity and quota)"
    )
    parser.add_argument("--isa", default="", help="force a lower instruction set: portable, avx2, avx512, amx")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")


def run(args: argparse.Namespace, open_subject: Open | None = None) -> int:
    """Measure and print. ``open_subject`` replaces the loading of artifact and reference. Raises ForerunError."""
    for name in ("tokens", "context"):
        value = getattr(args, name)
        if value is not None and value < 2:
            raise AccuracyError(f"--{name} {value}: at least 2 are needed")
    text = read_text(Path(args.text))
    subject = (open_subject or open_native)(args)
    ids = token_ids(subject.tokenizer, text, args.tokens)
    context = min(args.context, len(ids))
    if context > subject.max_context:
        raise AccuracyError(f"--context {context}: the artifact was compiled for {subject.max_context} tokens")
    with progress(f"Reading {base_name(subject.reference)}") as tell:
        models = subject.open(context, tell)
    try:
        with progress(f"Comparing {len(ids)} tokens") as tell:
            found = compare(models, ids, context, tell)
    finally:
        models.artifact.close()
        models.reference.close()
    facts = describe(args, subject.reference, models.same_checkpoint, context, found)
    print(json.dumps(facts, indent=2) if args.json else table(facts))
    return 0


def compare(models: Models, ids: Sequence[int], context: int, tell: Progress) -> Divergence:
    """The figures over ``ids``, read in pieces of ``context``."""
    done = 0

    def advance(rows: int) -> None:
        nonlocal done
        done += rows
        tell("", done, len(ids))

    return measure(ExecutorScorer(models.reference), ExecutorScorer(models.artifact), ids, context, advance)


def read_text(path: Path) -> str:
    """The file's text. Raises AccuracyError with one line."""
    try:
        with path.open(encoding="utf-8") as file:
            text = file.read(_MOST_CHARS + 1)
        if len(text) > _MOST_CHARS:
            raise AccuracyError(f"--text {path}: it has more than {_MOST_CHARS} characters; give a part of it")
        return text
    except OSError as error:
        raise AccuracyError(f"--text {path}: it cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise AccuracyError(f"--text {path}: it is not UTF-8 text") from None


def token_ids(tokenizer: Tokenizer, text: str, most: int | None) -> list[int]:
    """The text's first ``most`` tokens. Raises AccuracyError when there are not as many, or fewer than two."""
    ids = tokenizer.encode(text if most is None else text[: _CHARS_PER_TOKEN * most])
    if most is not None and len(ids) <= most < len(text):  # a text of few, long tokens, or a short one
        ids = tokenizer.encode(text)
    if most is not None and len(ids) < most:
        raise AccuracyError(f"--tokens {most}: the text has only {len(ids)} tokens")
    if len(ids) < 2:
        raise AccuracyError(f"--text has {len(ids)} tokens; at least 2 are needed")
    return ids[:most]


def describe(
    args: argparse.Namespace, reference: str, same_checkpoint: bool, context: int, found: Divergence
) -> dict[str, Any]:
    """Everything as plain JSON values."""
    return {
        "artifact": args.artifact,
        "reference": reference,
        "same_checkpoint": same_checkpoint,
        "text": args.text,
        "context": context,
        **asdict(found),
    }


def table(facts: dict[str, Any]) -> str:
    """Aligned lines of what was compared and what came out."""
    origin = "float32" if facts["same_checkpoint"] else "float32; not the checkpoint that the artifact comes from"
    lines = [
        ("artifact", facts["artifact"]),
        ("reference", f"{facts['reference']} ({origin})"),
        ("text", f"{facts['text']}: {facts['tokens']} tokens in pieces of {facts['context']}"),
        ("perplexity", f"{facts['perplexity']:.4f} (reference {facts['reference_perplexity']:.4f})"),
        ("mean KL", f"{facts['mean_kl']:.6f} nats per token"),
        ("99th percentile KL", f"{facts['kl_p99']:.6f} nats"),
        ("top-1 agreement", f"{facts['agreement']:.2%}"),
    ]
    width = max(len(name) for name, _ in lines)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in lines)


def open_native(args: argparse.Namespace) -> Subject:
    """Artifact and checkpoint for the native executor; the reference has every weight in float32, in memory alone."""
    from forerun.checkpoint import open_checkpoint
    from forerun.opening import ModelRequest, prepare
    from forerun.runtime.loader import RunSettings

    request = ModelRequest(args.artifact, run=RunSettings.of(vars(args)))
    with progress(f"Compiling {base_name(args.artifact)}") as tell:
        prepared = prepare(request, progress=tell)
    manifest = prepared.artifact.manifest
    source = args.reference or str(manifest["source"])
    checkpoint = open_checkpoint(source)

    def open_both(context: int, tell: Progress) -> Models:
        from forerun.accuracy.in_memory import float32_config, open_in_memory

        reference = open_in_memory(
            checkpoint,
            float32_config(context),
            threads=args.threads,
            isa=args.isa,
            progress=lambda done, total: tell("in float32", done, total),
        )
        return Models(
            artifact=prepared.executor(),
            reference=reference,
            same_checkpoint=checkpoint.fingerprint == manifest["source_fingerprint"],
        )

    return Subject(prepared.tokenizer, prepared.config.max_length, source, open_both)
