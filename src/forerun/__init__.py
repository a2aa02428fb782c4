"""Forerun: compile a language model for this machine, then serve it with exact, reproducible tokens.

``forerun.LLM``, ``SamplingParams`` and ``StructuredOutputsParams`` are the library; they are loaded when they are first
used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    __version__: str
    from forerun.engine.params import SamplingParams
    from forerun.grammar import StructuredOutputsParams
    from forerun.library import LLM

__all__ = ["LLM", "SamplingParams", "StructuredOutputsParams", "__version__"]


def __getattr__(name: str) -> Any:
    if name == "LLM":
        from forerun.library import LLM

        return LLM
    if name == "SamplingParams":
        from forerun.engine.params import SamplingParams

        return SamplingParams
    if name == "StructuredOutputsParams":
        from forerun.grammar import StructuredOutputsParams

        return StructuredOutputsParams
    if name == "__version__":
        from importlib.metadata import version

        return version("forerun")
    raise AttributeError(f"module 'forerun' has no attribute '{name}'")


def __dir__() -> list[str]:
    return [*globals(), *__all__]
