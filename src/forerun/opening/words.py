"""Differences from an artifact in the words of the front that asked, each with the flag that compiles it in."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from forerun.config import Difference, NeuronConfig
from forerun.opening.request import ModelRequest

_FLAGS = {
    **dict.fromkeys(("quantized", "quantization_dtype", "torch_dtype"), "--quantization-dtype"),
    **dict.fromkeys(("seq_len", "max_model_len"), "--seq-len"),
    **dict.fromkeys(("batch_size", "max_num_seqs"), "--batch-size"),
    "quantization_type": "--quantization-type",
    "kv_cache_quant": "--kv-cache-dtype",
}
"""Setting -> flag of ``forerun compile``."""


def in_words(rows: Iterable[Difference], request: ModelRequest, stored: NeuronConfig) -> list[Difference]:
    """The rows under the front's names. Settings that one flag stands for become one row, with the flag's values."""
    told: dict[str, Difference] = {}
    for row in rows:
        name = request.name_of(row.setting)
        if name != row.setting:
            asked = _value(row.setting, request.settings, row.requested)
            mend = f"{_FLAGS[row.setting]} {asked}" if row.setting in _FLAGS else ""
            if name != f"--{row.setting.replace('_', '-')}":
                row = replace(row, requested=asked, stored=_value(row.setting, stored.to_dict(), row.stored))
            row = replace(row, setting=name, mend=mend)
        if name not in told or told[name].verdict == "equal":
            told[name] = row
    return list(told.values())


def _value(setting: str, settings: Mapping[str, Any], plain: Any) -> Any:
    """What a flag for ``setting`` would say."""
    if setting in ("quantized", "quantization_dtype", "torch_dtype"):
        quantized = settings.get("quantized")
        return settings.get("quantization_dtype") or "int8" if quantized else settings.get("torch_dtype") or "auto"
    if setting == "kv_cache_quant":
        return "int8" if plain else "bfloat16"
    return plain
