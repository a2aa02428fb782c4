"""A program for torchrun: answers of several kinds as JSON, written by the process that leads.

python -m tests.distributed.transcript ARTIFACT OUTPUT [SPECULATIVE_CONFIG]
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from forerun import LLM, SamplingParams
from forerun.errors import ForerunError
from forerun.grammar.params import StructuredOutputsParams

PROMPTS = ["one two three one two three one", "a", "seven " * 30, "seven " * 30 + "eight"]


def main(artifact: str, output: str, speculation: str = "") -> None:
    """Greedy, sampled, with penalties, log-probabilities, cuts, a form; some prompts share a prefix."""
    settings = {"speculative_config": json.loads(speculation)} if speculation else {}
    with LLM(artifact, threads=1, **settings) as model:
        answers = []
        for params in (
            SamplingParams(max_tokens=12, temperature=0.0),
            SamplingParams(max_tokens=9, temperature=0.9, seed=5, logprobs=3, top_p=0.95),
            SamplingParams(max_tokens=7, temperature=0.0, frequency_penalty=1.0, logprobs=1),
            SamplingParams(max_tokens=9, temperature=1.0, seed=6, presence_penalty=0.5, logit_bias={7: 2.0}),
            SamplingParams(max_tokens=9, temperature=0.9, seed=7, top_k=9, top_p=0.9, min_p=0.05),
            SamplingParams(
                max_tokens=9, temperature=1.0, seed=8, structured_outputs=StructuredOutputsParams(regex="[a-z ]{4,30}")
            ),
        ):
            for result in model.generate(PROMPTS, params):
                one = result.outputs[0]
                answers.append([list(one.token_ids), one.text, repr(one.logprobs)])
    Path(output).write_text(json.dumps(answers), "utf-8")


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except ForerunError as error:
        sys.exit(f"error: {error}")
