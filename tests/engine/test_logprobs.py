"""Log-probabilities of drawn tokens and of the prompt, in every chunking."""

from __future__ import annotations

import numpy as np
import pytest

from forerun.engine import Engine, EngineSettings, RequestOutput, SamplingParams
from forerun.engine.scores import score_token
from tests.engine.harness import FaultyExecutor, run
from tests.support.oracle import OracleExecutor, logits_of, logprobs_of, states

PROMPT = list(range(3, 16))


def row_after(tokens: list[int]) -> np.ndarray:
    known = np.array(tokens, np.int32)
    state = states(known, np.arange(len(tokens), dtype=np.int32))[-1:]
    return logprobs_of(logits_of(state, 128)[0])


def answer(rows: int, samples: int, score_rows: int, params: SamplingParams) -> RequestOutput:
    executor = OracleExecutor(max_rows=rows, max_seqs=1, max_sample_rows=samples)
    engine = Engine(executor, settings=EngineSettings(prompt_logprobs_rows=score_rows))
    engine.add("r", PROMPT, params)
    return run(engine)["r"]


@pytest.mark.parametrize("sizes", [(64, 64, 64), (5, 5, 5), (1, 1, 1), (7, 2, 64), (64, 3, 2), (64, 1, 64)])
def test_prompt_and_output_logprobs_in_any_chunking(sizes: tuple[int, int, int]) -> None:
    output = answer(*sizes, SamplingParams(temperature=0, max_tokens=4, logprobs=2, prompt_logprobs=3))
    scores = output.prompt_logprobs
    assert scores is not None and scores[0] is None and len(scores) == len(PROMPT)
    for place in range(1, len(PROMPT)):
        row, score = row_after(PROMPT[:place]), scores[place]
        assert score is not None and score.token_id == PROMPT[place]
        assert score.logprob == pytest.approx(row[PROMPT[place]], abs=1e-6)
        best = np.argsort(-row, kind="stable")[:3]
        assert [token for token, _ in score.top] == best.tolist()
    drawn = output.outputs[0]
    assert drawn.logprobs is not None and [each.token_id for each in drawn.logprobs] == drawn.token_ids
    for place, each in enumerate(drawn.logprobs):
        row = row_after([*PROMPT, *drawn.token_ids[:place]])
        assert each.logprob == row[each.token_id] == each.top[0][1] and len(each.top) == 2


def test_only_what_was_asked_for_is_given() -> None:
    plain = answer(64, 64, 64, SamplingParams(temperature=0, max_tokens=2))
    assert plain.prompt_logprobs is None and plain.outputs[0].logprobs is None
    own = answer(64, 64, 64, SamplingParams(temperature=0, max_tokens=2, logprobs=0, prompt_logprobs=0))
    assert own.outputs[0].logprobs is not None and own.outputs[0].logprobs[0].top == ()
    assert own.prompt_logprobs is not None and own.prompt_logprobs[1] is not None and own.prompt_logprobs[1].top == ()


def test_a_cached_prefix_does_not_hide_prompt_logprobs() -> None:
    engine = Engine(OracleExecutor())
    outputs = []
    for name in "ab":
        engine.add(name, PROMPT, SamplingParams(temperature=0, max_tokens=1, prompt_logprobs=1))
        outputs.append(run(engine)[name])
    assert outputs[0].prompt_logprobs == outputs[1].prompt_logprobs
    assert outputs[1].num_cached_tokens == 0


def test_logits_are_fetched_for_bounded_numbers_of_rows_and_only_when_needed() -> None:
    rows: list[tuple[int, bool]] = []
    executor = FaultyExecutor(before=lambda number, batch: rows.append((len(batch.sample_rows), batch.want_logits)))
    engine = Engine(executor, settings=EngineSettings(prompt_logprobs_rows=4))
    engine.add("r", PROMPT, SamplingParams(temperature=0, max_tokens=3, prompt_logprobs=1))
    run(engine)
    assert max(count for count, _ in rows) <= 5
    assert [wanted for _, wanted in rows] == [True, True, True, False, False]


def test_scores_of_rows_with_values_that_are_not_finite() -> None:
    row = np.zeros(4, np.float32)
    assert score_token(row, 1, 2).top == ((0, row_value := float(np.float32(-np.log(4)))), (1, row_value))
    row[2] = np.nan
    assert score_token(row, 1, 2) is None
    row[2] = -np.inf
    assert score_token(row, 2, 0).logprob == -np.inf


def test_preemption_in_the_middle_of_a_scored_prompt_changes_nothing() -> None:
    params = SamplingParams(temperature=0, max_tokens=2, prompt_logprobs=2)
    quiet = Engine(OracleExecutor(), settings=EngineSettings(prompt_logprobs_rows=1))
    quiet.add("r", PROMPT, params)
    busy = Engine(OracleExecutor(num_blocks=7, block_size=4), settings=EngineSettings(prompt_logprobs_rows=1))
    busy.add("old", [1, 2, 3], SamplingParams(temperature=0, max_tokens=16))
    while len(busy._requests["old"][0].output) < 4:
        busy.step()
    busy.add("r", PROMPT, params)
    while not busy.counters.preemptions:
        busy.step()
        scored = len(busy._requests["r"][0].prompt_scores or [])
    assert 1 < scored < len(PROMPT), "it was preempted with a part of its prompt scored"
    again = run(busy)["r"]
    alone = run(quiet)["r"]
    assert again.prompt_logprobs == alone.prompt_logprobs
    assert again.outputs == alone.outputs
