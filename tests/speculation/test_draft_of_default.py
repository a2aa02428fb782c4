"""The default model with a draft of its own weights in fewer bits, fused and run by run: the same bits as alone."""

from __future__ import annotations

from typing import Any

import pytest

from forerun.engine import CompletionOutput, SamplingParams
from forerun.engine.engine_settings import EngineSettings
from forerun.engine.generator import Generator
from forerun.engine.speculation.config import SpeculativeConfig
from forerun.grammar import StructuredOutputsParams
from forerun.opening import ModelRequest, open_model
from forerun.runtime.loader import RunSettings
from tests.support.default_model import require_default_model

PROMPTS = ["The capital of France is", "def quicksort(values):", "One, two, three, four,"]
SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "numbers": {"type": "array", "items": {"type": "integer"}, "minItems": 3},
    },
    "required": ["name", "numbers"],
}
PARAMS = [
    SamplingParams(temperature=0, max_tokens=40, logprobs=2),
    SamplingParams(temperature=0.7, top_p=0.9, seed=5, max_tokens=40, logprobs=0, stop=["zzzz"]),
    SamplingParams(temperature=0, max_tokens=40, logprobs=2, structured_outputs=StructuredOutputsParams(json=SCHEMA)),
    SamplingParams(temperature=0.9, seed=2, max_tokens=40, structured_outputs={"regex": "([A-Z][a-z ]+[,.] ){2,9}"}),
    SamplingParams(temperature=0.7, seed=5, max_tokens=30, repetition_penalty=1.2, logit_bias={30: 2.0}, min_tokens=8),
]


def answers(model: str, drafts: dict[str, Any] | None) -> tuple[list[CompletionOutput], int]:
    config = None if drafts is None else SpeculativeConfig.from_dict(drafts)
    engine = EngineSettings(max_num_seqs=3, max_model_len=256, speculative_config=config)
    opened = open_model(ModelRequest(model, engine=engine, run=RunSettings(threads=2)))
    with Generator(opened.executor, opened.tokenizer, settings=opened.engine, draft=opened.draft) as llm:
        found = [output.outputs[0] for params in PARAMS for output in llm.generate(PROMPTS, params)]
        return found, llm.engine.counters.accepted_draft_tokens


@pytest.mark.parametrize("fused", [False, True])
def test_the_same_bits_as_without(fused: bool) -> None:
    model = str(require_default_model())
    plain, _ = answers(model, None)
    drafted, accepted = answers(
        model, {"model": model, "quantization": "int4", "num_speculative_tokens": 4, "fused": fused}
    )
    assert drafted == plain
    assert accepted > 0
