"""``forerun.LLM``: a model in one line of Python, from an artifact, a checkpoint or an executor."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any, Protocol, cast

from forerun.engine.errors import RequestError
from forerun.engine.llm import LLM as EngineLLM
from forerun.engine.outputs import RequestOutput
from forerun.engine.params import SamplingParams
from forerun.engine.settings import EngineSettings
from forerun.engine.speculation.config import SpeculativeConfig
from forerun.engine.text import Tokenizer
from forerun.errors import ConfigError
from forerun.opening import ModelRequest, open_model
from forerun.runtime.loader import RunSettings
from forerun.runtime.step import Executor

Message = Mapping[str, Any]
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
        if isinstance(drafts := engine.get("speculative_config"), Mapping):
            engine["speculative_config"] = SpeculativeConfig.from_dict(drafts)
        if not isinstance(model, str | os.PathLike):
            if settings:
                raise ConfigError(f"{', '.join(settings)}: settings of a model; this executor has its own")
            super().__init__(model, tokenizer, settings=EngineSettings(**engine))
            return
        run = RunSettings(settings.pop("threads", 0), settings.pop("isa", ""))
        opened = open_model(ModelRequest(os.fspath(model), settings, EngineSettings(**engine), run))
        try:
            super().__init__(opened.executor, tokenizer or opened.tokenizer, settings=opened.engine)
        except BaseException:
            opened.executor.close()
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
