"""The demo's benchmark with a draft model: whole generations through the engine."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from forerun.engine import Engine
from forerun.engine.params import SamplingParams
from forerun.errors import ForerunError
from forerun.measure.benchmark_report import Calls
from forerun.opening import OpenedModel


def speculated(model: OpenedModel, row: str, prompt: int, new: int, runs: int) -> Mapping[str, Calls]:
    """One warm-up and ``runs`` measured generations of ``new`` tokens behind random prompts of ``prompt`` tokens, as
    many together as the batch; decoding goes into ``row``. Raises ForerunError when one fails."""
    settings = replace(model.engine, enable_prefix_caching=False)
    engine = Engine(model.executor, settings=settings, draft=model.draft)
    e2e, prefill, decode = Timed(), Timed(), Timed()
    for run in range(runs + 1):
        if run == 1:
            e2e, prefill, decode = Timed(), Timed(), Timed()
        _generate(engine, _prompts(model, prompt, run), new, (e2e, prefill, decode))
    rows = {"e2e_model": e2e, "context_encoding_model": prefill, row: decode}
    return {name: Calls(tuple(timed.seconds), tuple(timed.tokens)) for name, timed in rows.items()}


class Timed:
    """Calls of one kind."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.tokens: list[int] = []

    def add(self, seconds: float, tokens: int) -> None:
        """One more."""
        self.seconds.append(seconds)
        self.tokens.append(tokens)


def _prompts(model: OpenedModel, length: int, seed: int) -> list[list[int]]:
    shape = (model.config.max_batch_size, length)
    ids: list[list[int]] = np.random.default_rng(seed).integers(0, model.executor.vocab_size, shape).tolist()
    return ids


def _generate(engine: Engine, prompts: list[list[int]], new: int, into: tuple[Timed, Timed, Timed]) -> None:
    e2e, prefill, decode = into
    params = SamplingParams(temperature=0.0, max_tokens=new, ignore_eos=True, detokenize=False)
    for number, prompt in enumerate(prompts):
        engine.add(str(number), prompt, params)
    begun: set[str] = set()
    began = time.perf_counter()
    before = began
    while engine.busy:
        deltas = engine.step()
        now = time.perf_counter()
        failed = next((delta.error for delta in deltas if delta.error), None)
        if failed:
            raise ForerunError(f"the benchmark failed: {failed}")
        if len(begun) < len(prompts):
            begun.update(delta.request_id for delta in deltas if delta.token_ids)
            if len(begun) == len(prompts):
                prefill.add(now - began, sum(map(len, prompts)))
        else:
            decode.add(now - before, sum(len(delta.token_ids) for delta in deltas))
        before = now
    e2e.add(before - began, new * len(prompts))
