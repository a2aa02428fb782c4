"""``forerun serve`` with the oracle model behind it, for tests that need a process of its own.

``--step-seconds`` before all other flags: how long a step takes.
"""

from __future__ import annotations

import sys
from pathlib import Path

from forerun.cli.serve import main
from forerun.config import NeuronConfig
from forerun.server.backend import Loaded, RunOptions
from tests.server.harness import PacedExecutor, tiny_tokenizer


class OracleBackend:
    """Every folder called ``artifact`` is an artifact of 8 sequences of 512 tokens."""

    def __init__(self, seconds: float = 0.0) -> None:
        self._seconds = seconds
        self.stored = NeuronConfig.from_dict({"batch_size": 8, "seq_len": 512, "is_prefix_caching": True})
        self.compiled: list[NeuronConfig] = []

    def context_length(self, model: str) -> int:
        return 512

    def is_artifact(self, path: Path) -> bool:
        return path.name == "artifact"

    def stored_config(self, path: Path) -> NeuronConfig:
        return self.compiled[-1] if self.compiled else self.stored

    def compile(self, model: str, config: NeuronConfig, path: Path | None, *, recompile: bool) -> Path:
        self.compiled.append(config)
        return path or Path("/cache/artifact")

    def load(self, path: Path, config: NeuronConfig, options: RunOptions) -> Loaded:
        executor = PacedExecutor(
            self._seconds,
            num_blocks=config.pa_num_blocks or 256,
            block_size=config.pa_block_size,
            max_model_len=config.max_length,
            max_seqs=config.max_seqs,
            max_rows=options.max_rows,
        )
        return Loaded(executor, tiny_tokenizer(), options.isa or "portable", options.threads or 1)


if __name__ == "__main__":
    words = sys.argv[1:]
    pause = float(words.pop(words.index("--step-seconds") + 1)) if "--step-seconds" in words else 0.0
    words = [word for word in words if word != "--step-seconds"]
    sys.exit(main(words, lambda: OracleBackend(pause)))
