"""Which format each matrix is stored in: what was asked for, or what comes closest to the checkpoint's own bits."""

from __future__ import annotations

from collections.abc import Mapping

from forerun.checkpoint.base import SourceTensor
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
    "q5_0": "int5_f16",
    "q5_1": "int5_f16_min",
    "q8_0": "int8_f16",
}
_OWN_FORMAT |= {kind: kind for kind in ("q2_k", "q3_k", "q4_k", "q5_k", "q6_k", "iq4_nl", "iq4_xs")}
_FOUR_BITS = ("q4_0", "q4_1", "q4_k")


def format_chooser(config: NeuronConfig, program: Program, tensors: Mapping[str, SourceTensor]) -> Choose:
    """The chooser that :func:`forerun.compiler.precision.assign_formats` asks, for one configuration and checkpoint;
    ``program`` is the traced one, whose matrices have one source each.

    Raises ConfigError when an entry of modules_to_not_convert names nothing in the model.
    """
    kept = _kept_weights(config, program)

    def choose(name: str, shape: tuple[int, ...], role: str) -> str:
        (source,) = program.weights[name].sources
        wanted = config.unconverted_format if name in kept else config.weights_format
        return _stored_format(wanted, tensors[source].kind, role)

    return choose


def _stored_format(wanted: str, kind: str, role: str) -> str:
    if wanted == "auto":
        return _OWN_FORMAT.get(kind, "float32")
    if wanted == "int4_group" and role in ("column", "row"):
        return _OWN_FORMAT[kind] if kind in _FOUR_BITS else "int4_f16_min"
    if wanted in ("int4_group", "int8_group"):  # the head and the embedding keep 8 bits
        return "int8_f16"
    if wanted in ("int8_channel", "int8_tensor"):
        return "int8_channel" if role in ("column", "row") else "int8_f16"
    return wanted


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
