"""Which format each matrix is stored in: what was asked for, or what comes closest to the checkpoint's own bits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from forerun.checkpoint.base import SourceTensor
from forerun.compiler.formats import INT_LAYOUTS
from forerun.compiler.precision import Choose
from forerun.compiler.program import Program
from forerun.config import NeuronConfig
from forerun.errors import ConfigError, did_you_mean

_OWN_FORMAT = {
    "float32": "float32",
    "float16": "bfloat16",
    "bfloat16": "bfloat16",
    "q4_0": "int4_f16",
    "q4_1": "int4_f16_min",
    "q4_k": "int4_f32_min",
    "q5_0": "int8_f16",
    "q5_1": "int8_f16_min",
    "q5_k": "int8_f16_min",
    "q2_k": "int8_f16_min",
    "q3_k": "int8_f16",
    "q6_k": "int8_f16",
    "q8_0": "int8_f16",
    "iq4_nl": "int8_f16",
    "iq4_xs": "int8_f16",
}
_FOUR_BITS = ("q4_0", "q4_1", "q4_k")


def format_chooser(config: NeuronConfig, program: Program, tensors: Mapping[str, SourceTensor]) -> Choose:
    """The chooser that :func:`forerun.compiler.precision.assign_formats` asks, for one configuration and checkpoint.

    Raises ConfigError when an entry of modules_to_not_convert names nothing in the model.
    """
    kept = _kept_weights(config, program)

    def choose(name: str, shape: tuple[int, ...], role: str) -> str:
        kinds = [tensors[source].kind for source in program.weights[name].sources]
        wanted = config.unconverted_format if name in kept else config.weights_format
        return _stored_format(wanted, kinds, role)

    return choose


def _stored_format(wanted: str, kinds: Sequence[str], role: str) -> str:
    if wanted == "auto":
        return _common_format([_OWN_FORMAT.get(kind, "float32") for kind in kinds])
    if wanted == "int4_group" and role in ("column", "row"):
        if all(kind in _FOUR_BITS for kind in kinds):
            return _common_format([_OWN_FORMAT[kind] for kind in kinds])
        return "int4_f16_min"
    if wanted in ("int4_group", "int8_group"):  # the head and the embedding keep 8 bits
        return "int8_f16"
    if wanted in ("int8_channel", "int8_tensor"):
        return "int8_channel" if role in ("column", "row") else "int8_f16"
    return wanted


def _common_format(formats: Sequence[str]) -> str:
    """The smallest format that loses least on matrices which are stored as one."""
    if len(set(formats)) == 1:
        return formats[0]
    for name in ("float32", "bfloat16"):
        if name in formats:
            return name
    bits = max(INT_LAYOUTS[name].bits for name in formats)
    wide = any(name == "int4_f32_min" for name in formats)
    if bits == 8:
        return "int8_f16_min" if any(INT_LAYOUTS[name].has_minimum for name in formats) else "int8_f16"
    return "int4_f32_min" if wide else "int4_f16_min"


def _kept_weights(config: NeuronConfig, program: Program) -> set[str]:
    """Matrices that modules_to_not_convert names: by full module name, by its end, or by a prefix of it."""
    kept: set[str] = set()
    head = program.head.weights.get("weight", "")
    modules = {
        source.removesuffix(".weight"): name
        for name, weight in program.weights.items()
        if len(weight.shape) == 2
        for source in weight.sources
    }
    modules.setdefault("lm_head", head)
    for entry in config.modules_to_not_convert or ():
        found = {name for module, name in modules.items() if f".{entry}." in f".{module}."}
        if not found:
            ends = {module.rsplit(".", 1)[-1] for module in modules}
            raise ConfigError(f"modules_to_not_convert: no module is called '{entry}'{did_you_mean(entry, ends)}")
        kept |= found
    return kept
