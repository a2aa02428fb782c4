"""Microseconds of Python per engine step while 1 and 8 sequences decode, with an executor that does nothing.

Run: PYTHONPATH=src python benchmarks/engine_overhead.py
"""

from __future__ import annotations

import argparse
import time

import numpy as np

from forerun.engine import Engine, SamplingParams
from forerun.runtime.step import StepInput, StepOutput


class NoOpExecutor:
    """Returns the same token for every sampled row."""

    vocab_size = 49152
    num_blocks = 4096
    block_size = 32
    max_model_len = 8192
    max_rows = 512
    max_seqs = 8
    max_sample_rows = 64

    def __init__(self) -> None:
        self._tokens = np.full(self.max_sample_rows, 7, np.int32)
        self._logprobs = np.full(self.max_sample_rows, -1.0, np.float32)
        self._ids = np.zeros((self.max_sample_rows, 0), np.int32)
        self._values = np.zeros((self.max_sample_rows, 0), np.float32)

    def step(self, batch: StepInput) -> StepOutput:
        rows = len(batch.sample_rows)
        return StepOutput(self._tokens[:rows], self._logprobs[:rows], self._ids[:rows], self._values[:rows])

    def close(self) -> None:
        pass


class LetterDetokenizer:
    """One letter per token: the cost of a real detokenizer is not the engine's."""

    def push(self, token: int) -> str:
        return "a"

    def flush(self) -> str:
        return ""


def measure(sequences: int, steps: int, params: SamplingParams) -> list[float]:
    """Seconds of each of ``steps`` decode steps with ``sequences`` running."""
    engine = Engine(NoOpExecutor(), eos_token_ids=(2,), detokenizer=lambda skip: LetterDetokenizer())
    for number in range(sequences):
        engine.add(f"r{number}", [5] * 64, params)
    for _ in range(20):
        engine.step()
    times = []
    for _ in range(steps):
        start = time.perf_counter()
        engine.step()
        times.append(time.perf_counter() - start)
    assert engine.stats().num_running == sequences
    return times


def main() -> None:
    """Print a row per case: median and 99th percentile."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=3000, help="decode steps per case (default 3000)")
    steps = parser.parse_args().steps
    cases = {
        "greedy": SamplingParams(temperature=0),
        "sampled, seed, stop string": SamplingParams(temperature=0.8, top_p=0.9, seed=1, stop=("zzz",)),
        "penalties": SamplingParams(temperature=0, presence_penalty=0.5, repetition_penalty=1.1),
    }
    print(f"{'case':<30}{'sequences':>10}{'median us':>12}{'p99 us':>10}")
    for name, params in cases.items():
        for sequences in (1, 8):
            times = np.array(measure(sequences, steps, params)) * 1e6
            print(f"{name:<30}{sequences:>10}{np.median(times):>12.1f}{np.percentile(times, 99):>10.1f}")


if __name__ == "__main__":
    main()
