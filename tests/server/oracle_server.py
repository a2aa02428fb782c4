"""``forerun serve`` with the oracle model behind it, for tests that need a process of its own.

``--step-seconds`` before all other flags: how long a step takes.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from forerun.cli.serve import main
from forerun.config import NeuronConfig
from forerun.opening import ModelRequest, OpenedModel
from tests.server.harness import PacedExecutor, tiny_tokenizer


def opener(seconds: float) -> Callable[..., OpenedModel]:
    """Takes the place of ``open_model``: every model is the oracle, with 8 sequences of 512 tokens."""

    def open_oracle(request: ModelRequest, *_: object) -> OpenedModel:
        config = NeuronConfig.from_dict({"batch_size": 8, "seq_len": 512, **request.settings})
        executor = PacedExecutor(seconds, max_seqs=8, max_rows=request.run.max_rows)
        return OpenedModel(
            request.model, Path(request.model), config, executor, tiny_tokenizer(), request.engine, "oracle", 1
        )

    return open_oracle


if __name__ == "__main__":
    words = sys.argv[1:]
    pause = float(words.pop(words.index("--step-seconds") + 1)) if "--step-seconds" in words else 0.0
    words = [word for word in words if word != "--step-seconds"]
    sys.exit(main(words, opener(pause)))
