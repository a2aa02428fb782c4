"""What a front asks for when it opens a model."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from forerun.engine.engine_settings import EngineSettings
from forerun.errors import ForerunError
from forerun.runtime.loader import RunSettings

NATIVE_SETTINGS: Mapping[str, Any] = {
    "is_continuous_batching": True,
    "is_block_kv_layout": True,
    "is_prefix_caching": True,
    "enable_bucketing": True,
}
"""What native commands compile with unless somebody says otherwise; ``new_config`` adds batch and length."""


@dataclass(frozen=True)
class ModelRequest:
    """A model and everything that is said about it; what is not said is the artifact's, or a default.

    - ``model``: an artifact folder, or a checkpoint (Hugging Face folder, .gguf file, hub id, "default").
    - ``settings``: keys of NeuronConfig. An artifact can only confirm those that it was compiled with.
    - ``engine``: ``max_num_seqs`` and ``max_model_len`` (or ``batch_size`` and ``seq_len`` among the settings) size a
      compilation, and are limits of the run where an artifact is there.
    - ``run``: how it runs; ``max_num_batched_tokens`` of the engine goes over its ``max_rows``.
    - ``artifact``: the folder that the artifact has or gets; None: ``model`` where that is one, else the cache.
    - ``compile``: "missing" compiles what is not there, "always" does it again, "never" takes what is there.
    - ``names``: what the front calls settings, such as {"seq_len": "--max-model-len"}: messages do so too.
    - ``defaults``: settings of a compilation that nobody spoke of; None: those of the native commands.
    """

    model: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    engine: EngineSettings = field(default_factory=EngineSettings)
    run: RunSettings = field(default_factory=RunSettings)
    artifact: Path | None = None
    compile: Literal["missing", "always", "never"] = "missing"
    names: Mapping[str, str] = field(default_factory=dict)
    defaults: Mapping[str, Any] | None = None

    def name_of(self, setting: str) -> str:
        """What the front calls a setting."""
        return self.names.get(setting, setting)

    @contextmanager
    def in_its_words(self) -> Iterator[None]:
        """Errors of the block are raised with the front's names."""
        try:
            yield
        except ForerunError as error:
            raise type(error)(re.sub(r"\b[a-z_]+\b", lambda word: self.name_of(word[0]), str(error))) from None
