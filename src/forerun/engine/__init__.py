"""The engine: requests with a life of their own, scheduled together, one executor call per step."""

from forerun.engine.async_engine import AsyncEngine, Health
from forerun.engine.engine import Engine
from forerun.engine.engine_settings import EngineSettings
from forerun.engine.generator import Generator
from forerun.engine.outputs import CompletionOutput, Delta, RequestOutput, RequestTimes, TokenLogprob
from forerun.engine.params import Limits, SamplingParams
from forerun.engine.request_errors import ContextOverflowError, EngineStoppedError, QueueFullError, RequestError
from forerun.engine.stats import EngineCounters, EngineStats
from forerun.engine.stream import Stream

__all__ = [
    "AsyncEngine",
    "CompletionOutput",
    "ContextOverflowError",
    "Delta",
    "Engine",
    "EngineCounters",
    "EngineSettings",
    "EngineStats",
    "EngineStoppedError",
    "Generator",
    "Health",
    "Limits",
    "QueueFullError",
    "RequestError",
    "RequestOutput",
    "RequestTimes",
    "SamplingParams",
    "Stream",
    "TokenLogprob",
]
