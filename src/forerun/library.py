"""``forerun.LLM``: a model in one line of Python, from an artifact, a checkpoint or an executor."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any, Protocol, cast

from forerun.engine.errors import RequestError
from forerun.engine.llm import LLM as EngineLLM
from forerun.engine.outputs import RequestOutput
from forerun.engine.params import SamplingParams
from forerun.engine.settings import EngineSettings
from forerun.engine.text import Tokenizer
from forerun.errors import ConfigError

if TYPE_CHECKING:
    from forerun.checkpoint import Checkpoint
    from forerun.compiler.artifact import Artifact
    from forerun.compiler.compile import Progress
    from forerun.config import NeuronConfig
    from forerun.runtime.step import Executor

Message = Mapping[str, Any]
MAX_DEFAULT_LENGTH = 8192
_ENGINE = frozenset(field.name for field in fields(EngineSettings))


class LLM(EngineLLM):
    """A model that answers prompts, many at once. A context manager; ``close`` frees its memory and threads.

    ``model``: an artifact folder; or a checkpoint (a Hugging Face folder, a .gguf file, a hub id, "default"), which is
    compiled into the cache at first; or an executor, with its ``tokenizer`` if prompts are to be texts.

    ``settings``, by their own names: those of EngineSettings (``max_num_seqs``, ``enable_prefix_caching`` ...);
    ``threads`` and ``isa``; and those of NeuronConfig (``seq_len``, ``batch_size``, ``quantized`` ...).
    Settings that an artifact was compiled with can only be confirmed. Raises ForerunError with one line.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | Executor = "default",
        *,
        tokenizer: Tokenizer | None = None,
        **settings: Any,
    ) -> None:
        engine = {name: settings.pop(name) for name in _ENGINE & settings.keys()}
        if not isinstance(model, str | os.PathLike):
            if settings:
                raise ConfigError(f"{', '.join(settings)}: settings of a model; this executor has its own")
            super().__init__(model, tokenizer, settings=EngineSettings(**engine))
            return
        executor, own_tokenizer, config = _load(os.fspath(model), settings, engine.get("max_num_batched_tokens"))
        engine.setdefault("enable_prefix_caching", config.is_prefix_caching)
        try:
            super().__init__(executor, tokenizer or own_tokenizer, settings=EngineSettings(**engine))
        except BaseException:
            executor.close()
            raise

    def __enter__(self) -> LLM:
        return self

    def chat(
        self,
        messages: Sequence[Message] | Sequence[Sequence[Message]],
        params: SamplingParams | Sequence[SamplingParams] | None = None,
        **variables: Any,
    ) -> list[RequestOutput]:
        """Answer one conversation, or a list of them, through the model's chat template.

        A message is a mapping with "role" and "content"; ``variables`` reach the template by name. ``prompt`` of a
        result is the text that the template made. Raises RequestError or ChatTemplateError before anything runs.
        """
        conversations = [messages] if messages and isinstance(messages[0], Mapping) else list(messages)
        tokenizer = self.tokenizer
        if tokenizer is None or not hasattr(tokenizer, "apply_chat_template"):
            raise RequestError("a conversation needs a tokenizer with a chat template; use generate", "messages")
        chat = cast(_ChatTokenizer, tokenizer)
        texts = [chat.apply_chat_template(cast(Sequence[Message], each), **variables) for each in conversations]
        results = self.generate([chat.encode(text, add_special_tokens=False) for text in texts], params)
        for result, text in zip(results, texts, strict=True):
            result.prompt = text
        return results


class _ChatTokenizer(Protocol):
    """What ``chat`` needs of a tokenizer; forerun.checkpoint.Tokenizer is one."""

    def apply_chat_template(self, messages: Sequence[Message], **variables: Any) -> str: ...

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]: ...


def default_config(checkpoint: Checkpoint, requested: Mapping[str, Any]) -> NeuronConfig:
    """The configuration of a native command: block cache, buckets, prefix caching, as long as the model allows."""
    from forerun.config import NeuronConfig

    settings = {
        "batch_size": 4,
        "is_continuous_batching": True,
        "is_block_kv_layout": True,
        "is_prefix_caching": True,
        "enable_bucketing": True,
        **requested,
    }
    if "seq_len" not in settings:
        settings["seq_len"] = min(MAX_DEFAULT_LENGTH, checkpoint.config.max_position_embeddings)
    return NeuronConfig.from_dict(settings)


def open_cached(
    source: str, requested: Mapping[str, Any], progress: Progress = lambda what, done, total: None
) -> tuple[Artifact, NeuronConfig]:
    """The artifact of a checkpoint from the cache, compiled if need be, and the configuration of this run.

    Run-time settings among ``requested`` lead to no other artifact.
    """
    from forerun.checkpoint import open_checkpoint
    from forerun.compiler.cache import cached_artifact
    from forerun.config import NeuronConfig
    from forerun.config.fields import specs_of

    checkpoint = open_checkpoint(source)
    config, specs = default_config(checkpoint, requested), specs_of(NeuronConfig)
    fixed = {name: value for name, value in requested.items() if not specs[name].setting.run_time}
    return cached_artifact(checkpoint, default_config(checkpoint, fixed), progress), config


def _load(model: str, settings: dict[str, Any], rows: int | None) -> tuple[Executor, Tokenizer, NeuronConfig]:
    """A running executor, its tokenizer, and the configuration it runs with."""
    from forerun.checkpoint.tokenizer import Tokenizer as ModelTokenizer
    from forerun.runtime.loader import MAX_BATCHED_ROWS, RunSettings, open_executor

    run = RunSettings(settings.pop("threads", 0), settings.pop("isa", ""), max_rows=rows or MAX_BATCHED_ROWS)
    artifact, config = _open(model, settings)
    tokenizer = ModelTokenizer(artifact.tokenizer_files())
    return open_executor(artifact, config, run), tokenizer, config


def _open(model: str, settings: dict[str, Any]) -> tuple[Artifact, NeuronConfig]:
    """An artifact folder as it is, or a checkpoint through the cache."""
    from forerun.compiler.artifact import open_artifact
    from forerun.compiler.cache import is_artifact
    from forerun.config import difference_table, require_match, with_run_time

    if not is_artifact(model):
        return open_cached(model, settings)
    artifact = open_artifact(model)
    require_match(difference_table(settings, artifact.neuron_config), model)
    return artifact, with_run_time(artifact.neuron_config, settings)
