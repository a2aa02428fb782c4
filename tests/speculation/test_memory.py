"""Earlier answers as a source of drafts: bounded, and for requests of the same cache salt only."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from forerun._native import SUFFIX_BUCKETS, SuffixIndex, suffix_draft
from forerun.engine import Engine, SamplingParams
from forerun.engine.request import Request
from forerun.engine.speculation import memory
from forerun.engine.speculation.config import SpeculativeConfig
from forerun.engine.speculation.drafter import LookupDrafter
from forerun.engine.speculation.length import Choice
from forerun.engine.speculation.memory import Memory
from tests.engine.harness import ScriptedExecutor, run
from tests.speculation.test_lookup_drafter import FreeRows

EVERY, ONES = np.full(2 * SUFFIX_BUCKETS, 0.75, np.float32), np.ones(2, np.float32)
NONE = np.zeros(2 * SUFFIX_BUCKETS, np.float32)


def continues(words: SuffixIndex | None, *tokens: int) -> list[int]:
    own = SuffixIndex(8, 100)
    own.extend(np.array(tokens, np.int32))
    return suffix_draft([own, words], EVERY, NONE, NONE, ONES, 4.0, 3, 1, 0.0)[0]


def test_answers_are_known_to_their_salt_only() -> None:
    kept = Memory(10)
    kept.remember("a", [1, 2, 3, 4])
    assert continues(kept.words("a"), 1) == [2, 3, 4]
    assert continues(kept.words("b"), 1) == [] and continues(kept.words(""), 1) == []


def test_an_answer_does_not_go_on_into_the_next() -> None:
    kept = Memory(10)
    kept.remember("", [1, 2])
    kept.remember("", [7, 8])
    assert continues(kept.words(""), 2) == []


def test_the_older_half_is_forgotten() -> None:
    kept = Memory(4)
    for first in range(10, 60, 10):
        kept.remember("", [first, first + 1, first + 2])
    assert continues(kept.words(""), 10) == [] and continues(kept.words(""), 50) == [51, 52]


def test_large_answers_do_not_grow_without_end() -> None:
    kept = Memory(1_000_000)
    for seed in range(12):
        kept.remember("", np.random.default_rng(seed).integers(0, 50_000, 8_000).tolist())
        words = kept.words("")
        assert words is not None and words.entries <= memory._ENTRIES


def test_salts_used_last_are_kept() -> None:
    kept = Memory(10)
    for salt in map(str, range(memory._SALTS + 1)):
        kept.remember(salt, [1, 2])
    assert continues(kept.words("8"), 1) == [2] and continues(kept.words("0"), 1) == []


def test_nothing_is_kept() -> None:
    kept = Memory(0)
    kept.remember("", [1, 2, 3])
    assert kept.words("") is None


class Eager(LookupDrafter):
    """Looks in each step: those of a scripted executor are shorter than a look."""

    def weigh(self, requests: Sequence[Request], limits: Sequence[int], most: int) -> Choice:
        return self._look(requests, limits, most)


def test_the_second_answer_takes_fewer_steps() -> None:
    script = np.random.default_rng(5).permutation(60).tolist()

    def steps(answers: int, salts: list[str]) -> list[int]:
        config = SpeculativeConfig(suffix_decoding_max_cached_requests=answers)
        engine = Engine(ScriptedExecutor(script), drafter=Eager(config, FreeRows()))
        taken = []
        for number, salt in enumerate(salts):
            before = engine.counters.steps
            engine.add(
                str(number), [63], SamplingParams(temperature=0, max_tokens=50, ignore_eos=True, cache_salt=salt)
            )
            assert run(engine)[str(number)].outputs[0].token_ids == script[:50]
            taken.append(engine.counters.steps - before)
        return taken

    first, second, other = steps(100, ["a", "a", "b"])
    assert first == other == 50 and second < 25
    assert steps(0, ["", ""]) == [50, 50]
