"""What every route shares: the engine, the tokenizer's worker, the settings and the counters of one server."""

from __future__ import annotations

import hashlib
import logging
import os
import random
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from itertools import count

from forerun.engine import AsyncEngine, Engine, EngineSettings, QueueFullError
from forerun.opening import OpenedModel
from forerun.runtime.step import Executor
from forerun.server.errors import ApiError
from forerun.server.metrics import Collector, ServerMetrics
from forerun.server.sampling import SamplingDefaults, sampling_defaults
from forerun.server.settings import ServerSettings
from forerun.server.text import TextWorker
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
        entropy = os.urandom if seed is None else random.Random(seed).randbytes
        self.core = Engine(
            executor,
            settings=model.engine,
            eos_token_ids=tokenizer.eos_token_ids,
            detokenizer=tokenizer.detokenizer,
            limits=settings.caps.for_engine(executor.vocab_size),
            entropy=entropy,
        )
        self.engine = AsyncEngine(self.core, max_pending_deltas=settings.pending_deltas)
        self.max_model_len = self.core.admission.max_model_len
        self.block_size = executor.block_size
        self.num_blocks = executor.num_blocks
        self.startup_seconds: float | None = None
        self.vocab_size = executor.vocab_size
        chars = settings.caps.prompt_chars or _CHARS_PER_TOKEN * self.max_model_len
        self.text = TextWorker(
            tokenizer, max_model_len=self.max_model_len, max_chars=chars, timeout=settings.timeouts.text
        )
        self.tokenizer = tokenizer
        self._tokens, self._token_names = TokenTexts(tokenizer), TokenTexts(tokenizer, by_id=True)
        self.defaults: SamplingDefaults = sampling_defaults(
            model.config.on_device_sampling_config, tokenizer.generation_config
        )
        self.created = int(time.time())
        self.draining = False
        self.collector = Collector(
            self.model, self.metrics, self.engine.stats, _cache_info(executor, self.core.settings)
        )
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

    def check_room(self, answers: int = 1) -> None:
        """Raise QueueFullError when the engine cannot take ``answers`` more now, ApiError 400 when it never can."""
        capacity, unfinished = self.core.capacity, self.engine.unfinished
        if answers > capacity:
            text = f"{answers} answers are asked for (prompts times n), but this server takes {capacity} at once"
            raise ApiError(400, text, param="n")
        if unfinished + answers > capacity:
            raise QueueFullError(f"the queue is full: {unfinished} of {capacity} requests; try again later")

    def unique_name(self, request_id: str) -> str:
        """A name for the engine: clients may use one request id several times."""
        return f"{request_id}#{next(self._numbers)}"

    def salt_of(self, asked: str | None, key: bytes | None) -> str:
        """The prefix cache's salt: what the request says, else the API key's identity when there are several keys.

        The two cannot meet: a client that names a salt shares it with those who name it too, with nobody else.
        """
        if asked is not None:
            return f"user:{asked}"
        if key is None or len(self.settings.api_keys) < 2:
            return ""
        return "key:" + hashlib.sha256(key).hexdigest()[:8]

    def bounds(self) -> dict[str, int]:
        """The numbers that the OpenAPI document states: the caps, token ids, the longest prompt."""
        caps = {name: value for name, value in asdict(self.settings.caps).items() if isinstance(value, int)}
        return {**caps, "token_id": self.vocab_size - 1, "prompt_tokens": self.core.admission.max_total - 1}

    def tokens_named(self, *, by_id: bool) -> TokenTexts:
        """The texts of tokens, with those or their ids as names in log-probabilities."""
        return self._token_names if by_id else self._tokens

    def note_ignored(self, names: Iterable[str]) -> None:
        """Log the names of requests that are ignored, each once; there are bounds to what clients can make us say."""
        for name in names:
            if name not in self._ignored and len(self._ignored) < _NAMES_NOTED:
                self._ignored.add(name)
                _log.info("ignoring %s, which means nothing here (--strict-requests refuses it)", ascii(name))

    async def close(self, timeout: float = 0.0) -> bool:
        """Stop taking requests, let the present ones end for up to ``timeout`` seconds, then stop the engine."""
        self.draining = True
        drained = await self.engine.shutdown(timeout)
        self.text.close()
        return drained


def _cache_info(executor: Executor, settings: EngineSettings) -> Mapping[str, str]:
    return {
        "block_size": str(executor.block_size),
        "num_gpu_blocks": str(executor.num_blocks),
        "enable_prefix_caching": str(settings.enable_prefix_caching),
        "max_model_len": str(executor.max_model_len),
    }
