"""The backend of the real thing: checkpoints, the artifact cache, the native executor."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from forerun.config import NeuronConfig
from forerun.server.backend import Loaded, RunOptions

if TYPE_CHECKING:
    from forerun.checkpoint import Checkpoint


class NativeBackend:
    """Implements :class:`forerun.server.backend.ServeBackend`. Everything heavy is imported when it is used."""

    def __init__(self) -> None:
        self._open = lru_cache(maxsize=1)(_open_checkpoint)  # asked for its length first, then compiled

    def context_length(self, model: str) -> int:
        """The checkpoint's max_position_embeddings."""
        return self._open(model).config.max_position_embeddings

    def is_artifact(self, path: Path) -> bool:
        """Whether there is a manifest."""
        from forerun.compiler.cache import is_artifact

        return is_artifact(path)

    def stored_config(self, path: Path) -> NeuronConfig:
        """Read from the artifact; its weights are checked later, by ``load``."""
        from forerun.compiler.artifact import open_artifact

        return open_artifact(path, verify=False).neuron_config

    def compile(self, model: str, config: NeuronConfig, path: Path | None, *, recompile: bool) -> Path:
        """Compile, or find in the cache."""
        from forerun.compiler.cache import cached_artifact

        if path is None:
            return cached_artifact(self._open(model), config, recompile=recompile).path
        from forerun.compiler.compile import compile_checkpoint

        compile_checkpoint(self._open(model), config, path)
        return path

    def load(self, path: Path, config: NeuronConfig, options: RunOptions) -> Loaded:
        """Check the artifact, map its weights, start the threads."""
        from forerun.checkpoint.tokenizer import Tokenizer
        from forerun.compiler.artifact import open_artifact
        from forerun.runtime.loader import RunSettings, open_executor

        artifact = open_artifact(path)
        settings = RunSettings(options.threads, options.isa, max_rows=options.max_rows)
        executor = open_executor(artifact, config, settings)
        executor.populate_kv()
        return Loaded(executor, Tokenizer(artifact.tokenizer_files()), executor.isa, executor.threads)


def _open_checkpoint(model: str) -> Checkpoint:
    from forerun.checkpoint import open_checkpoint

    return open_checkpoint(model)
