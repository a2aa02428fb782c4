"""The two oracles that the engine is tested on, with sizes that suit them: in NumPy, and executed natively."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from forerun.runtime.step import Executor
from tests.engine.harness import Predict
from tests.support import native_oracle, oracle

VOCAB = 23


@dataclass(frozen=True)
class World:
    """``make`` builds an executor of VOCAB tokens from limits, ``predict`` says what it must answer.

    ``pools`` are KV sizes in tokens, ``shared`` and ``own`` the longest parts of a prompt, ``answer`` the longest
    answer, ``rows`` the most of one step, ``examples`` how many random loads it is good for.
    """

    name: str
    make: Callable[..., Executor]
    predict: Predict
    context: int
    block_sizes: tuple[int, ...]
    pools: tuple[int, ...]
    shared: int
    own: int
    answer: int
    rows: int
    examples: int

    def executor(self, **limits: Any) -> Executor:
        """An executor; without limits, one with room for everything."""
        room = {"num_blocks": 64, "block_size": self.block_sizes[-1], "max_model_len": self.context}
        return self.make(**{**room, **limits})

    def __str__(self) -> str:
        return self.name


NUMPY = World(
    "numpy",
    lambda **limits: oracle.OracleExecutor(vocab_size=VOCAB, **limits),
    oracle.predict,
    context=60,
    block_sizes=(1, 2, 3, 8, 4),
    pools=(40, 25, 60, 100, 10),
    shared=20,
    own=6,
    answer=24,
    rows=24,
    examples=120,
)
NATIVE = World(
    "native",
    lambda **limits: native_oracle.native_oracle(VOCAB, **limits),
    native_oracle.predict,
    context=native_oracle.CONTEXT,
    block_sizes=(32, 16),
    pools=(96, 64, 128, 48, 240),
    shared=60,
    own=20,
    answer=60,
    rows=70,
    examples=100,
)
WORLDS = (NUMPY, NATIVE)
