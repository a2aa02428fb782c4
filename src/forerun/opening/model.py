"""A loaded model with everything that its fronts have to know about it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from forerun.checkpoint.tokenizer import Tokenizer
from forerun.config import NeuronConfig
from forerun.engine.engine_settings import EngineSettings
from forerun.runtime.step import Executor


@dataclass(frozen=True)
class OpenedModel:
    """``source``: the model as the user named it. ``config``: the artifact's, with this run's settings. ``engine``:
    complete for an Engine over ``executor``, whose owner closes it. ``isa``, ``threads``: how it runs. ``kv_bytes``:
    what the KV cache may grow to. ``members``: processes that have the ranks of ``config``. ``draft``: the draft model,
    if speculation has one; the engine closes it."""

    source: str
    artifact: Path
    config: NeuronConfig
    executor: Executor
    tokenizer: Tokenizer
    engine: EngineSettings
    isa: str = ""
    threads: int = 0
    kv_bytes: int = 0
    members: int = 1
    draft: Executor | None = None
