"""``forerun train-draft TARGET --out FOLDER``"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from forerun.engine.engine_settings import EngineSettings
from forerun.engine.speculation.config import SpeculativeConfig
from forerun.engine.speculation.table import learn_table
from forerun.errors import ConfigError
from forerun.opening import ModelRequest, open_model
from forerun.opening.tables import vocabulary_mark
from forerun.progress import base_name, progress
from forerun.runtime.loader import RunSettings

if TYPE_CHECKING:
    from forerun.checkpoint import Checkpoint
    from forerun.checkpoint.tokenizer import Tokenizer
    from forerun.training.recipe import CollectRecipe
    from forerun.training.shape import DraftShape, Float32
    from forerun.training.shards import Document

PARTS = ("collect", "train", "report")
_QUESTION_ROOM = 256


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of the command."""
    parser.add_argument(
        "model", metavar="TARGET", help="checkpoint: Hugging Face folder, .gguf file, hub id, 'default'"
    )
    parser.add_argument("--out", "-o", required=True, metavar="FOLDER", help="the draft, a Hugging Face folder")
    parser.add_argument("--until", choices=PARTS, default=PARTS[-1], help="the last part that is done (default report)")
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="of all random numbers (default 1)")
    parser.add_argument("--threads", type=int, default=0, help="threads (default: physical cores)")
    add = parser.add_argument_group("text that the target writes").add_argument
    add("--text", metavar="FOLDER", help="where it is kept, for several drafts (default: text in --out)")
    add("--tokens", type=int, default=2_000_000, metavar="N", help="how much of it (default 2000000)")
    add("--answer-tokens", type=int, default=320, metavar="N", help="longest answer (default 320)")
    add("--batch", type=int, default=32, metavar="N", help="documents at once (default 32)")
    add("--table", metavar="FILE", help="count its frequent continuations, for the key table of --speculative-config")
    add = parser.add_argument_group("shape").add_argument
    add("--layers", type=int, metavar="N", help="(default 2)")
    add("--hidden-size", type=int, metavar="N", help="the target's (default), whose layers are copied, or less")
    add("--vocab-size", type=int, metavar="N", help="the target's first tokens, which are drafted (default 8192)")
    add = parser.add_argument_group("training").add_argument
    add("--begin-with", metavar="DRAFT", help="an earlier draft of the same shape instead of the target's layers")
    add("--passes", type=float, default=3.0, metavar="X", help="over the text (default 3)")
    add("--minutes", type=float, metavar="X", help="of training at most, the rate falling faster")
    add("--documents", type=int, default=8, metavar="N", help="that a step learns from (default 8)")
    add("--learning-rate", type=float, default=3e-3, metavar="X", help="the highest (default 0.003)")
    add = parser.add_argument_group("report").add_argument
    add("--quantization", choices=("int8", "int4"), default="int4", help="the draft's weights (default int4)")
    add("--prompts", type=int, default=8, metavar="N", help="held-out questions (default 8)")
    add("--num-speculative-tokens", type=int, default=6, metavar="N", help="longest draft (default 6)")


def run(args: argparse.Namespace) -> int:
    """Collect, train, report; each goes on where it was stopped."""
    from forerun.checkpoint import open_checkpoint
    from forerun.opening.cache import is_artifact
    from forerun.training.files import make_folder
    from forerun.training.recipe import CollectRecipe
    from forerun.training.shape import shape_for

    _check(args)
    if is_artifact(args.model):
        raise ConfigError(f"{args.model} is an artifact: give the checkpoint, whose weights the draft begins with")
    target = open_checkpoint(args.model)
    recipe = CollectRecipe(target.fingerprint, args.seed, answer_tokens=args.answer_tokens)
    shape = shape_for(target.config, layers=args.layers, hidden=args.hidden_size, vocabulary=args.vocab_size)
    out = make_folder(Path(args.out).expanduser())
    documents = _collect(args, recipe, make_folder(Path(args.text).expanduser() if args.text else out / "text"))
    if args.until != "collect":
        _train(args, target, shape, documents, out)
    if args.until == "report":
        _report(args, shape, documents, out)
    return 0


def _check(args: argparse.Namespace) -> None:
    bounds = {"tokens": 1 << 40, "batch": 512, "documents": 4096, "prompts": 4096, "num_speculative_tokens": 64}
    for name, high in bounds.items():
        if not 1 <= getattr(args, name) <= high:
            raise ConfigError(f"--{name.replace('_', '-')} must be within 1..{high}")
    if args.threads < 0:
        raise ConfigError(f"--threads {args.threads} must not be negative")
    for name, most in (("passes", 1e6), ("minutes", 1e6), ("learning_rate", 1.0)):
        value = getattr(args, name)
        if value is not None and not 0 < value <= most:
            raise ConfigError(f"--{name.replace('_', '-')} must be above 0 and at most {most:g}")
    if args.until != "collect":
        from forerun.training.torch_module import need_torch

        need_torch()


def _collect(args: argparse.Namespace, recipe: CollectRecipe, text: Path) -> list[Document]:
    from forerun.training.collect import Collector, read_documents

    settings = EngineSettings(max_num_seqs=args.batch, max_model_len=recipe.answer_tokens + _QUESTION_ROOM)
    model = open_model(ModelRequest(args.model, engine=settings, run=RunSettings.of(vars(args))))
    try:
        with progress(f"{base_name(args.model)} writes") as tell:
            done = Collector(model.executor, model.tokenizer, recipe, text).run(args.tokens, tell)
    finally:
        model.executor.close()
    print(f"{text}: {done} tokens")
    documents = read_documents(text, args.tokens)
    if args.table:
        _write_table(Path(args.table).expanduser(), documents, model.tokenizer)
    return documents


def _write_table(path: Path, documents: list[Document], tokenizer: Tokenizer) -> None:
    """Of the answers, each with the token before it; held out ones are left out here too."""
    from forerun.training.files import write_whole

    answers = [each.tokens[each.answer - 1 :] for each in documents if not each.held_out]
    streams = [np.asarray(answer, np.int32) for answer in answers]
    table = learn_table(streams, tokenizer.vocab_size, vocabulary_mark(tokenizer))
    write_whole(path, table.to_bytes())
    print(f"{path}: {len(table.best)} contexts of {sum(map(len, streams))} tokens")


def _train(
    args: argparse.Namespace, target: Checkpoint, shape: DraftShape, documents: list[Document], out: Path
) -> None:
    from forerun.checkpoint import open_checkpoint
    from forerun.training.batches import Batches
    from forerun.training.folder import write_draft
    from forerun.training.recipe import keep_recipe
    from forerun.training.shape import first_weights, weights_of
    from forerun.training.train import Trainer, TrainSettings

    batches = Batches(documents, shape.vocab_size, args.documents, args.seed)
    steps = max(1, round(args.passes * batches.in_all))
    settings = TrainSettings(steps, args.minutes, args.learning_rate, threads=args.threads)
    recipe = {"target": target.fingerprint, "seed": args.seed, "steps": steps, "learning_rate": args.learning_rate}
    recipe |= {"documents": args.documents, "tokens": args.tokens, "parameters": shape.parameters}
    earlier = open_checkpoint(args.begin_with) if args.begin_with else None
    recipe["begin_with"] = earlier and earlier.fingerprint

    def first() -> dict[str, Float32]:
        return first_weights(target, shape, args.seed) if earlier is None else weights_of(earlier, shape)

    keep_recipe(out / "training" / "recipe.json", recipe)
    trainer = Trainer(shape, first, batches, out / "training" / "state.safetensors")
    with progress("Training") as tell:
        trainer.run(settings, tell)
    write_draft(out, target, shape, trainer.state)
    print(f"{out}: {shape.parameters / 1e6:.1f} million parameters after {trainer.state.step} steps")


def _report(args: argparse.Namespace, shape: DraftShape, documents: list[Document], out: Path) -> None:
    from forerun.training.agreement import agreement
    from forerun.training.chart import report_chart
    from forerun.training.files import write_whole
    from forerun.training.folder import read_network
    from forerun.training.report import draft_report, held_out_prompts

    prompts = held_out_prompts(documents, args.prompts)
    drafts = SpeculativeConfig(
        "draft_model", args.num_speculative_tokens, model=str(out), quantization=args.quantization
    )
    engine = EngineSettings(
        max_num_seqs=1, max_model_len=args.answer_tokens + _QUESTION_ROOM, speculative_config=drafts
    )
    with progress("Measuring") as tell:
        model = open_model(ModelRequest(args.model, engine=engine, run=RunSettings.of(vars(args))), progress=tell)
        try:
            found = draft_report(model, prompts, args.answer_tokens, args.seed, tell)
        finally:
            model.executor.close()
    facts = {"target": args.model, "prompts": len(prompts), "isa": model.isa, "threads": model.threads}
    facts |= {"agreement": agreement(read_network(out, shape), documents), "temperatures": found}
    write_whole(out / "report.json", json.dumps(facts, indent=1).encode())
    write_whole(out / "report.png", report_chart(found))
    for line in _lines(facts):
        print(line)


def _lines(found: dict[str, Any]) -> list[str]:
    agreed = ", ".join(f"{name} {share:.2f}" for name, share in found["agreement"].items() if share is not None)
    lines = [f"agreement with the target's own text: {agreed}"]
    for temperature, each in found["temperatures"].items():
        chances = ", ".join(f"{chance:.2f}" for chance in each["acceptance_by_position"])
        measured, best = each["measured"], each["expected"]
        faster = ", ".join(f"{name} {timed['speedup']:.2f}" for name, timed in measured.items())
        lines.append(f"temperature {temperature}: acceptance by position {chances}")
        lines.append(
            f"  times as fast as plain decoding ({measured['draft']['tpot_ms']['off']:.2f} ms a token): {faster}; "
            f"expected with always {best['best_length']} drafted tokens {best['speedup']:.2f}"
        )
    return lines
