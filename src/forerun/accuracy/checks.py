"""Token matching and logit matching of a loaded model as a whole."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from forerun.accuracy.compare import (
    StepResult,
    TokenMatch,
    logit_report,
    match_step,
    match_tokens,
    token_report,
)
from forerun.accuracy.golden import load_golden
from forerun.accuracy.huggingface import HuggingFaceModel
from forerun.accuracy.reference import Answer, Reference
from forerun.accuracy.rollout import rollout
from forerun.accuracy.tolerances import DEFAULT_TOLERANCES, DIVERGENCE_DIFFERENCE, Tolerances
from forerun.checkpoint import Tokenizer, open_checkpoint
from forerun.compiler.buckets import check_prompt_length
from forerun.config import NeuronConfig
from forerun.errors import AccuracyError
from forerun.runtime.step import Executor

MODES = ("token-matching", "logit-matching")
DRAFT_MODE = "draft-logit-matching"
"""Logit matching of a draft model by itself."""


@dataclass(frozen=True)
class CheckOptions:
    """What one check asks for. ``num_tokens`` None checks everything up to ``max_length`` tokens, prompt included."""

    mode: str
    max_length: int
    num_tokens: int | None = None
    tolerances: Tolerances = field(default_factory=lambda: DEFAULT_TOLERANCES)
    divergence_difference: float = DIVERGENCE_DIFFERENCE


@dataclass(frozen=True)
class CheckOutcome:
    """Whether the check passed, and its report as text."""

    passed: bool
    report: str


def check_accuracy(
    executor: Executor,
    tokenizer: Tokenizer,
    config: NeuronConfig,
    prompts: Sequence[str],
    options: CheckOptions,
    model_path: str,
    expected_outputs_path: Path | None = None,
) -> CheckOutcome:
    """Compare the loaded model with a saved reference, or with transformers run on ``model_path``.

    Prompts are cut as ``config`` cuts them. Raises AccuracyError when no reference can be had or it belongs to another
    model or prompt, ConfigError for prompts that are too long.
    """
    check_mode(options.mode)
    encoded = [tokenizer.encode(prompt) for prompt in prompts]
    ids = [each[: check_prompt_length(len(each), config)] if each else each for each in encoded]
    return check_ids(executor, tokenizer, ids, options, open_reference(model_path, expected_outputs_path))


def check_mode(mode: str) -> None:
    """Raise AccuracyError for modes that cannot be checked."""
    if mode == DRAFT_MODE:
        raise AccuracyError(f"{mode} checks a draft model: give inference_demo one with --draft-model-path")
    if mode not in MODES:
        raise AccuracyError(f"accuracy mode '{mode}' is unknown; known: {', '.join(MODES)}")


def open_reference(model_path: str, expected_outputs_path: Path | None) -> Reference:
    """The saved reference, which must come from the same checkpoint, or the model in transformers."""
    if expected_outputs_path is None:
        return HuggingFaceModel.open(model_path)
    golden = load_golden(expected_outputs_path)
    if golden.fingerprint:
        golden.require_fingerprint(open_checkpoint(model_path).fingerprint)
    return golden


def check_ids(
    executor: Executor,
    tokenizer: Tokenizer,
    prompts: Sequence[Sequence[int]],
    options: CheckOptions,
    reference: Reference,
) -> CheckOutcome:
    """The check on token ids."""
    check_mode(options.mode)
    want_logits = options.mode == "logit-matching"
    ends = frozenset(tokenizer.eos_token_ids)
    known: dict[tuple[int, ...], Answer] = {}
    for number, ids in enumerate(prompts):
        if tuple(ids) not in known:
            steps = answer_length(number, ids, executor, options)
            known[tuple(ids)] = reference.answer(number, ids, steps, ends, want_logits)
            _check_answer(number, known[tuple(ids)], executor.vocab_size)
    answers = [known[tuple(ids)] for ids in prompts]
    if want_logits:
        results = match_logits(executor, answers, options)
        return CheckOutcome(all(result.passed for result in results), logit_report(results, reference.name))
    matches = match_answers(executor, answers, options, ends, tokenizer.pad_token_id)
    return CheckOutcome(all(match.passed for match in matches), token_report(matches, tokenizer.decode, reference.name))


def answer_length(number: int, ids: Sequence[int], executor: Executor, options: CheckOptions) -> int:
    """How many tokens of an answer are checked. Raises AccuracyError when the prompt leaves no room for one."""
    room = min(options.max_length, executor.max_model_len) - len(ids)
    if not ids or room < 1:
        raise AccuracyError(f"prompt {number} has {len(ids)} tokens; from 1 to {room + len(ids) - 1} can be checked")
    return room if options.num_tokens is None else min(room, options.num_tokens)


def match_answers(
    executor: Executor,
    answers: Sequence[Answer],
    options: CheckOptions,
    end_ids: Collection[int],
    pad_token_id: int | None,
) -> list[TokenMatch]:
    """Answer the prompts freely and compare the tokens.

    Each answer may become as long as its limit, not only as long as the expected one: a missing end shows.
    """
    prompts = [answer.prompt_ids.tolist() for answer in answers]
    steps = [answer_length(number, ids, executor, options) for number, ids in enumerate(prompts)]
    tokens: list[list[int]] = [[] for _ in answers]
    ended = [bool(len(answer.tokens)) and int(answer.tokens[-1]) in end_ids for answer in answers]
    limits = [
        count if end else min(count, len(answer.tokens))
        for count, end, answer in zip(steps, ended, answers, strict=True)
    ]
    for drawn in rollout(executor, prompts, limits, end_ids=end_ids, want_logits=False):
        tokens[drawn.prompt].append(drawn.token)
    pairs = zip(tokens, answers, strict=True)
    return [match_tokens(actual, answer.tokens.tolist(), pad_token_id=pad_token_id) for actual, answer in pairs]


def match_logits(executor: Executor, answers: Sequence[Answer], options: CheckOptions) -> list[StepResult]:
    """Compare logits step by step; where the greedy tokens part, the expected token goes on (teacher forcing).

    Results are ordered by prompt and step. Raises AccuracyError when an answer has no logits.
    """
    for number, answer in enumerate(answers):
        if answer.logits is None:
            raise AccuracyError(f"the reference has no logits for prompt {number}; logit matching needs them")
    prompts = [answer.prompt_ids.tolist() for answer in answers]
    forced = [answer.tokens.tolist() for answer in answers]
    results = []
    for drawn in rollout(executor, prompts, [len(tokens) for tokens in forced], forced=forced):
        expected = answers[drawn.prompt].logits
        assert expected is not None and drawn.logits is not None
        results.append(
            match_step(
                drawn.logits,
                np.asarray(expected[drawn.step]),
                forced[drawn.prompt][drawn.step],
                prompt=drawn.prompt,
                step=drawn.step,
                tolerances=options.tolerances,
                divergence_difference=options.divergence_difference,
            )
        )
    return sorted(results, key=lambda result: (result.prompt, result.step))


def _check_answer(number: int, answer: Answer, vocab_size: int) -> None:
    """Raise AccuracyError for an answer that checks nothing or belongs to another vocabulary."""
    if not len(answer.tokens):
        raise AccuracyError(f"the reference's answer to prompt {number} is empty: nothing can be compared")
    ids = np.concatenate([answer.prompt_ids, answer.tokens])
    if ids.min() < 0 or ids.max() >= vocab_size:
        raise AccuracyError(f"the reference holds token {int(ids.max())}, the model has {vocab_size} tokens")
    if answer.logits is not None and answer.logits.shape[1] != vocab_size:
        raise AccuracyError(f"the reference has logits of {answer.logits.shape[1]} tokens, the model of {vocab_size}")
