"""The frozen transcript: what the default model answers to a few prompts, tokens and bits of their log-probabilities.

``python -m tests.numerics.transcript`` writes transcript.json anew, after a change of the numbers that docs/numerics.md
describes.
"""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from forerun.checkpoint import Tokenizer, open_checkpoint
from forerun.checkpoint.default_model import default_model_path
from forerun.compiler.artifact import Artifact, open_artifact
from forerun.compiler.compile import compile_checkpoint
from forerun.config import NeuronConfig
from forerun.engine import Generator, SamplingParams
from forerun.runtime.loader import RunSettings, open_executor

FILE = Path(__file__).with_name("transcript.json")
LENGTH = 24
_LONG = "The sea was calm. " * 60  # behind a whole tile of attention
PROMPTS: dict[str, tuple[str, dict[str, Any]]] = {
    "greedy": ("The capital of France is", {"temperature": 0}),
    "greedy behind a long prompt": (f"{_LONG}Then the wind", {"temperature": 0}),
    "sampled": ("Once upon a time,", {"temperature": 0.8, "seed": 1, "top_p": 0.95}),
    "sampled with penalties": (
        "def fibonacci(n):\n",
        {"temperature": 0.7, "seed": 2, "top_k": 40, "repetition_penalty": 1.2, "frequency_penalty": 0.3},
    ),
}


def compile_default(folder: Path) -> Artifact:
    """The default model in its own format. Raises CheckpointError where it is not installed."""
    config = NeuronConfig.from_dict({"seq_len": 512, "batch_size": len(PROMPTS), "pa_num_blocks": 64})
    compile_checkpoint(open_checkpoint(str(default_model_path())), config, folder / "artifact")
    return open_artifact(folder / "artifact", verify=False)


def transcript(artifact: Artifact, isa: str = "") -> dict[str, dict[str, Any]]:
    """All answers, computed together with one instruction set."""
    tokenizer = Tokenizer(artifact.tokenizer_files())
    params = [
        SamplingParams(max_tokens=LENGTH, ignore_eos=True, logprobs=0, **settings) for _, settings in PROMPTS.values()
    ]
    with Generator(open_executor(artifact, run=RunSettings(isa=isa)), tokenizer) as generator:
        results = generator.generate([prompt for prompt, _ in PROMPTS.values()], params)
    return {
        name: {"prompt": prompt, "text": answer.text, "tokens": answer.token_ids, "logprobs": bits}
        for (name, (prompt, _)), result in zip(PROMPTS.items(), results, strict=True)
        for answer in result.outputs
        for bits in [[np.float32(each.logprob).tobytes()[::-1].hex() for each in answer.logprobs or []]]
    }


def dumps(answers: dict[str, dict[str, Any]]) -> str:
    """JSON with one line per entry, so that a difference shows where it is."""
    parts = []
    for name, answer in answers.items():
        lines = [f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in answer.items()]
        parts.append(f" {json.dumps(name)}: {{\n" + ",\n".join(lines) + "\n }")
    return "{\n" + ",\n".join(parts) + "\n}\n"


if __name__ == "__main__":
    with TemporaryDirectory() as made:
        FILE.write_text(dumps(transcript(compile_default(Path(made)))), "utf-8")
    print(f"{FILE} is written")
