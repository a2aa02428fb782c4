"""What every route shares: the engine, the text workers, the settings and the counters of one server."""

from __future__ import annotations

import logging
import os
import random
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from itertools import count

from forerun.engine import AsyncEngine, Engine
from forerun.grammar import Grammars
from forerun.opening import OpenedModel
from forerun.runtime.step import Executor
from forerun.server.api_error import ApiError
from forerun.server.forms import Forms
from forerun.server.metrics import Collector, ServerMetrics
from forerun.server.parsing import Parsing
from forerun.server.sampling_params import SamplingDefaults, overridden, sampling_defaults
from forerun.server.server_settings import ServerSettings
from forerun.server.text import TextWorkers
from forerun.server.token_text import TokenTexts

_CHARS_PER_TOKEN = 32
_NAMES_NOTED = 100

_log = logging.getLogger("forerun.server")


class Service:
    """One model behind one engine. Make it anywhere; use it from one event loop."""

    def __init__(
        self, model: OpenedModel, settings: ServerSettings, *, seed: int | None = None, version: str = "0"
    ) -> None:
        """``seed`` makes the seeds of requests that bring none repeat from start to start.

        Raises ConfigError when the engine's settings ask for more than the executor has.
        """
        executor, tokenizer = model.executor, model.tokenizer
        self.settings = settings
        self.opened = model
        self.version = version
        self.metrics = ServerMetrics()
        grammars = Grammars(tokenizer, executor.vocab_size)
        entropy = os.urandom if seed is None else random.Random(seed).randbytes
        engine = Engine(
            executor,
            settings=model.engine,
            eos_token_ids=tokenizer.eos_token_ids,
            detokenizer=tokenizer.detokenizer,
            limits=settings.caps.for_engine(executor.vocab_size),
            draft=model.draft,
            entropy=entropy,
            grammars=grammars,
        )
        self.engine = AsyncEngine(engine, max_pending_deltas=settings.pending_deltas)
        self.max_model_len = self.engine.admission.max_model_len
        self.block_size = executor.block_size
        self.num_blocks = executor.num_blocks
        self.startup_seconds: float | None = None
        self.vocab_size = executor.vocab_size
        chars = settings.caps.prompt_chars or _CHARS_PER_TOKEN * self.max_model_len
        self.text = TextWorkers(
            tokenizer, max_model_len=self.max_model_len, max_chars=chars, timeout=settings.timeouts.text
        )
        self.forms = Forms(grammars, self.text, executor.vocab_size)
        self.parsing = Parsing.of(tokenizer, settings)
        self.tokenizer = tokenizer
        self._tokens, self._token_names = TokenTexts(tokenizer), TokenTexts(tokenizer, by_id=True)
        stored = tokenizer.generation_config if settings.model_defaults else {}
        defaults = sampling_defaults(model.config.on_device_sampling_config, stored)
        self.defaults: SamplingDefaults = overridden(defaults, settings.default_overrides)
        self.created = int(time.time())
        self.draining = False
        cache_info = _cache_info(executor, self.engine, model.config.kv_cache_dtype, settings.replica or 0)
        self.collector = Collector(self.model, self.metrics, self.engine.stats, cache_info)
        self._numbers = count()
        self._ignored: set[str] = set()

    @property
    def model(self) -> str:
        """The name that answers carry."""
        return self.settings.served_names[0]

    def check_model(self, name: str | None) -> None:
        """Raise ApiError 404 unless ``name`` is a name of the served model (None: whatever is served)."""
        if name is not None and not self.settings.serves(name):
            known = ", ".join(self.settings.served_names)
            raise ApiError(
                404,
                f"the model '{name[:200]}' does not exist; this server has: {known}",
                param="model",
                code="model_not_found",
            )

    def unique_name(self, request_id: str) -> str:
        """A name for the engine: clients may use one request id several times."""
        return f"{request_id}#{next(self._numbers)}"

    def bounds(self) -> dict[str, int]:
        """The numbers that the OpenAPI document states: the caps, token ids, the longest prompt."""
        caps = {name: value for name, value in asdict(self.settings.caps).items() if isinstance(value, int)}
        return {**caps, "token_id": self.vocab_size - 1, "prompt_tokens": self.engine.admission.max_total - 1}

    def tokens_named(self, *, by_id: bool | None) -> TokenTexts:
        """The texts of tokens, with those or their ids as names in log-probabilities; None: as the server does."""
        named = self.settings.token_ids_as_names if by_id is None else by_id
        return self._token_names if named else self._tokens

    def note_ignored(self, names: Iterable[str]) -> None:
        """Log the names of requests that are ignored, each once; there are bounds to what clients can make us say."""
        for name in names:
            if name not in self._ignored and len(self._ignored) < _NAMES_NOTED:
                self._ignored.add(name)
                _log.info("ignoring %s, which means nothing here (--strict-requests refuses it)", ascii(name))

    @property
    def unfinished(self) -> int:
        """Answers that have not ended."""
        return self.engine.unfinished

    @property
    def when_lost(self) -> Callable[[], None]:
        """Called by the engine's thread when its executor is lost."""
        return self.engine.when_lost

    @when_lost.setter
    def when_lost(self, call: Callable[[], None]) -> None:
        self.engine.when_lost = call

    async def close(self, timeout: float = 0.0) -> bool:
        """Stop taking requests, let the present ones end for up to ``timeout`` seconds, then stop the engine."""
        self.draining = True
        self.text.close()  # whose requests have not begun
        return await self.engine.shutdown(timeout)


def _cache_info(executor: Executor, engine: AsyncEngine, dtype: str, number: int) -> Mapping[str, str]:
    tokens, longest = executor.num_blocks * executor.block_size, engine.admission.max_model_len
    return {
        "engine": str(number),
        "block_size": str(executor.block_size),
        "cache_dtype": dtype,
        "num_gpu_blocks": str(executor.num_blocks),
        "kv_cache_size_tokens": str(tokens),
        "kv_cache_max_concurrency": f"{tokens / longest:.2f}",
        "enable_prefix_caching": str(engine.settings.enable_prefix_caching),
        "max_model_len": str(longest),
    }
