"""``forerun serve`` with the oracle model behind it, for tests that need a process of its own.

Flags of its own: ``--step-seconds`` says how long a step takes, ``--hold FILE`` lets no step end as long as there is
that file, ``--replica`` makes it one of several behind a front.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

from forerun.cli.serve import main
from forerun.cli.serve_replicas import replica_main
from forerun.config import NeuronConfig
from forerun.opening import ModelRequest, OpenedModel
from forerun.runtime.step import StepInput, StepOutput
from tests.server.harness import PacedExecutor, tiny_tokenizer


class HeldExecutor(PacedExecutor):
    """Goes on when ``hold`` is not there, or no more."""

    hold: Path | None = None

    def step(self, batch: StepInput) -> StepOutput:
        while self.hold is not None and self.hold.exists():
            time.sleep(0.005)
        return super().step(batch)


def opener(seconds: float = 0.0, hold: Path | None = None) -> Callable[..., OpenedModel]:
    """Takes the place of ``open_model``: every model is the oracle, with 8 sequences of 512 tokens."""

    def open_oracle(request: ModelRequest, *_: object) -> OpenedModel:
        config = NeuronConfig.from_dict({"batch_size": 8, "seq_len": 512, **request.settings})
        executor = HeldExecutor(seconds, max_seqs=8, max_rows=request.run.max_rows)
        executor.hold = hold
        return OpenedModel(
            request.model, Path(request.model), config, executor, tiny_tokenizer(), request.engine, "oracle", 1
        )

    return open_oracle


if __name__ == "__main__":
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--step-seconds", type=float, default=0.0)
    parser.add_argument("--hold", type=Path)
    parser.add_argument("--replica", action="store_true")
    own, words = parser.parse_known_args()
    opens = opener(own.step_seconds, own.hold)
    if own.replica:
        sys.exit(replica_main(opens))
    again = [sys.executable, "-m", "tests.server.oracle_server", "--replica", "--step-seconds", str(own.step_seconds)]
    sys.exit(main(words, opens, [*again, *(["--hold", str(own.hold)] if own.hold else [])]))
