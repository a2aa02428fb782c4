"""What the server needs from the layers that compile and load models: five actions behind one small interface."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from forerun.config import NeuronConfig
from forerun.runtime.step import Executor
from forerun.server.text import ServerTokenizer


@dataclass(frozen=True)
class RunOptions:
    """Choices of one run that change no token. ``threads`` 0: one per usable core; ``isa`` "": the best one;
    ``max_rows``: rows of one step."""

    threads: int = 0
    isa: str = ""
    max_rows: int = 512


@dataclass(frozen=True)
class Loaded:
    """A model that can run, and how it does: instruction set and threads."""

    executor: Executor
    tokenizer: ServerTokenizer
    isa: str
    threads: int


class ServeBackend(Protocol):
    """Finds, compiles and loads artifacts. Mistakes of the user are raised as ForerunError."""

    def context_length(self, model: str) -> int:
        """The longest sequence, in tokens, that the checkpoint was made for."""
        ...

    def is_artifact(self, path: Path) -> bool:
        """Whether the folder holds an artifact (not whether it is in order)."""
        ...

    def stored_config(self, path: Path) -> NeuronConfig:
        """The configuration that the artifact was compiled with. Raises ArtifactError for a missing or damaged one."""
        ...

    def compile(self, model: str, config: NeuronConfig, path: Path | None, *, recompile: bool) -> Path:
        """Compile ``model`` into ``path`` and return it.

        ``path`` None: the folder that the cache has for this model and configuration; what is there already is used as
        it is unless ``recompile`` is set.
        """
        ...

    def load(self, path: Path, config: NeuronConfig, options: RunOptions) -> Loaded:
        """Load an artifact; ``config`` is its own configuration with the run-time settings of this run."""
        ...
