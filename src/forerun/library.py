"""``forerun.LLM``: a model in one line of Python, from an artifact, a checkpoint or an executor."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace
from typing import Any, Protocol, cast

from forerun.engine.engine_settings import EngineSettings
from forerun.engine.generator import Generator, Progress, Prompt
from forerun.engine.outputs import RequestOutput
from forerun.engine.params import SamplingParams
from forerun.engine.request_errors import RequestError
from forerun.engine.speculation.config import SpeculativeConfig
from forerun.engine.text import Tokenizer
from forerun.errors import ConfigError
from forerun.opening import ModelRequest, open_model
from forerun.progress import progress
from forerun.runtime.loader import RunSettings
from forerun.runtime.step import Executor

Message = Mapping[str, Any]
DEFAULT_NEW_TOKENS = 256
"""Longest answer of whoever names no length."""
_ENGINE = frozenset(field.name for field in fields(EngineSettings))
_RUN = frozenset(field.name for field in fields(RunSettings))


class LLM(Generator):
    """A model that answers prompts, many at once. A context manager; ``close`` frees its memory and threads.

    ``model``: an artifact folder; or a checkpoint (a Hugging Face folder, a .gguf file, a hub id, "default"), which is
    compiled into the cache at first; or an executor, with its ``tokenizer`` if prompts are to be texts.

    ``settings``, by their own names: those of EngineSettings (``max_num_seqs``, ``enable_prefix_caching`` ...), of
    RunSettings (``threads``, ``isa`` ...) and of NeuronConfig (``seq_len``, ``batch_size``, ``quantized``,
    ``tp_degree`` or ``tensor_parallel_size`` ...).
    ``batch_size`` and ``seq_len`` of an artifact are limits of this run; its other settings can only be
    confirmed. Raises ForerunError with one line.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | Executor = "default",
        *,
        tokenizer: Tokenizer | None = None,
        **settings: Any,
    ) -> None:
        _use_own_names(settings)
        engine = {name: settings.pop(name) for name in _ENGINE & settings.keys()}
        if isinstance(drafts := engine.get("speculative_config"), Mapping):
            engine["speculative_config"] = SpeculativeConfig.from_dict(drafts)
        elif not isinstance(drafts, SpeculativeConfig | None):
            raise ConfigError("speculative_config must be a mapping or a SpeculativeConfig")
        if not isinstance(model, str | os.PathLike):
            if not hasattr(model, "step"):
                raise ConfigError(f"a model is a path, a name or an executor, not {type(model).__name__}")
            if settings:
                raise ConfigError(f"{', '.join(settings)}: settings of a model; this executor has its own")
            super().__init__(model, tokenizer, settings=EngineSettings(**engine))
            return
        run = RunSettings(**{name: settings.pop(name) for name in _RUN & settings.keys()})
        opened = open_model(ModelRequest(os.fspath(model), settings, EngineSettings(**engine), run))
        try:
            super().__init__(opened.executor, tokenizer or opened.tokenizer, settings=opened.engine, draft=opened.draft)
        except BaseException:
            opened.executor.close()
            raise

    def __enter__(self) -> LLM:
        return self

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        use_tqdm: bool = True,
    ) -> list[RequestOutput]:
        """Answer one prompt or many (texts or token ids), batched; results in the given order.

        Without ``sampling_params``: greedy, at most 256 tokens, as ``forerun generate``. ``use_tqdm``: a progress bar
        where somebody looks at the terminal. Raises RequestError before anything runs.
        """
        with answers_progress(use_tqdm) as shown:
            return self._answer(prompts, sampling_params, shown)

    def _default_params(self, ids: Sequence[int]) -> SamplingParams:
        return fitting(SamplingParams(temperature=0.0), len(ids), self)

    def chat(
        self,
        messages: Sequence[Message] | Sequence[Sequence[Message]],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        use_tqdm: bool = True,
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
        prompts = [chat.encode(text, add_special_tokens=False) for text in texts]
        results = self.generate(prompts, sampling_params, use_tqdm)
        for result, text in zip(results, texts, strict=True):
            result.prompt = text
        return results


def _use_own_names(settings: dict[str, Any]) -> None:
    """Put vLLM's degree of parallelism under its name here. Raises ConfigError."""
    if settings.pop("data_parallel_size", 1) != 1:
        raise ConfigError(
            "data_parallel_size: an LLM is one replica; forerun serve --data-parallel-size starts several behind one "
            "address"
        )
    if "tensor_parallel_size" in settings:
        ranks = settings.pop("tensor_parallel_size")
        if settings.setdefault("tp_degree", ranks) != ranks:
            raise ConfigError("tensor_parallel_size and tp_degree are the same: leave one out")


def fitting(params: SamplingParams, prompt_tokens: int, generator: Generator) -> SamplingParams:
    """``params`` with max_tokens None replaced by the default, or by what the context leaves after the prompt."""
    if params.max_tokens is not None:
        return params
    room = generator.engine.admission.max_total - prompt_tokens
    return replace(params, max_tokens=max(1, min(DEFAULT_NEW_TOKENS, room)))


@contextmanager
def answers_progress(wanted: bool) -> Iterator[Progress]:
    """A bar on standard error for several answers, where a terminal is."""
    if not wanted or not sys.stderr.isatty():
        yield lambda done, total: None
        return
    with progress("Answers") as bar:
        yield lambda done, total: bar("", done, total) if total > 1 else None


class _ChatTokenizer(Protocol):
    """What ``chat`` needs of a tokenizer; forerun.checkpoint.Tokenizer is one."""

    def apply_chat_template(self, messages: Sequence[Message], **variables: Any) -> str: ...

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]: ...
