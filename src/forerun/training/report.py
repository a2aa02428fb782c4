"""How often a draft is right on prompts that it never saw, and what that is worth in tokens per second."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from forerun.engine import Engine, EngineSettings, SamplingParams
from forerun.engine.request import Request
from forerun.engine.speculation.config import SpeculativeConfig
from forerun.engine.speculation.costs import LearntCosts
from forerun.engine.speculation.model_drafter import ModelDrafter
from forerun.errors import ForerunError
from forerun.measure.speculation import compare
from forerun.opening import OpenedModel
from forerun.training.shards import Document

TEMPERATURES = (0.0, 0.7)
Tell = Callable[[str, int, int], None]


def held_out_prompts(documents: Sequence[Document], count: int) -> list[list[int]]:
    """Questions of documents that are held out of training. Raises ForerunError when there are none."""
    prompts = [[int(token) for token in each.tokens[: each.answer]] for each in documents if each.held_out]
    if not prompts:
        raise ForerunError("no document is held out yet: collect more --tokens")
    return prompts[:count]


def draft_report(
    model: OpenedModel, prompts: Sequence[Sequence[int]], new_tokens: int, seed: int, tell: Tell
) -> dict[str, Any]:
    """For each temperature: acceptance by position with drafts of full length, and decoding with the rule's lengths
    against plain decoding in turns: with the draft, with words that were said before, with both. ``model`` is opened
    with the draft."""
    config = model.engine.speculative_config
    assert config is not None and model.draft is not None
    found: dict[str, Any] = {}
    for place, temperature in enumerate(TEMPERATURES):
        tell(f"drafts at {temperature:g}", place, len(TEMPERATURES))
        params = SamplingParams(temperature=temperature, seed=seed, max_tokens=new_tokens)
        by_position = acceptance(model, config, prompts, params)
        timed = {
            name: compare(
                model.executor, prompts, params, sources,
                settings=EngineSettings(), draft=model.draft, eos_token_ids=model.tokenizer.eos_token_ids,
            )
            for name, sources in _sources(config).items()
        }  # fmt: skip
        found[f"{temperature:g}"] = {
            "acceptance_by_position": by_position,
            "expected": expected(by_position, timed["draft"]["tpot_ms"]["off"] / 1e3, config),
            "measured": timed,
        }
    return found


def _sources(config: SpeculativeConfig) -> dict[str, SpeculativeConfig]:
    lookup = SpeculativeConfig(table=config.table, row_costs=config.row_costs)
    return {"draft": replace(config, lookup=False), "lookup": lookup, "both": replace(config, lookup=True)}


def acceptance(
    model: OpenedModel, config: SpeculativeConfig, prompts: Sequence[Sequence[int]], params: SamplingParams
) -> list[float]:
    """How often the token at each place of a draft is right when those before it are; every draft is as long as it may
    be."""
    assert model.draft is not None
    drafter = _AtFullLength(config, model.draft, model.executor.vocab_size)
    settings = EngineSettings(enable_prefix_caching=False)
    engine = Engine(model.executor, settings=settings, eos_token_ids=model.tokenizer.eos_token_ids, drafter=drafter)
    for number, prompt in enumerate(prompts):
        engine.add(str(number), prompt, params)
        while engine.unfinished:
            engine.step()
    counts = engine.counters.accepted_by_position
    reached, chances = engine.counters.drafts, []
    for place in range(config.num_speculative_tokens):
        if not reached:
            break
        chances.append(counts.get(place, 0) / reached)
        reached = counts.get(place, 0)
    return chances


def expected(chances: Sequence[float], seconds: float, config: SpeculativeConfig) -> dict[str, Any]:
    """Tokens per second with always 0, 1, 2 ... drafted tokens, from the measured costs of rows and of the draft's
    runs; ``seconds`` is a token's time without drafts. Which length is the best, and how much faster it is."""
    rows = LearntCosts.measured(config.row_costs)
    rows.observe(1, seconds)
    run = dict(config.draft_costs).get(1, 0.0)
    speeds, tokens, reached = [1 / seconds], 1.0, 1.0
    for drafted, chance in enumerate(chances, 1):
        reached *= chance
        tokens += reached
        speeds.append(tokens / (rows(1 + drafted) + drafted * run))
    best = max(range(len(speeds)), key=speeds.__getitem__)
    return {
        "tokens_per_second_by_length": speeds,
        "best_length": best,
        "speedup": speeds[best] * seconds,
        "draft_ms": run * 1e3,
    }


class _AtFullLength(ModelDrafter):
    """Drafts as many tokens as it may, whether they pay or not."""

    def __init__(self, config: SpeculativeConfig, executor: Any, vocab_size: int) -> None:
        super().__init__(replace(config, fused=False), executor, vocab_size)

    def lengths(self, requests: Sequence[Request], limits: Sequence[int], most: int) -> Sequence[int]:
        super().lengths(requests, limits, most)
        return [min(limit, self._cap) for limit in limits]
