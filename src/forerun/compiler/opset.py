"""The instructions a program may hold: their buffers, weights and attributes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

INPUT = "ids"
"""The one buffer that is given: the step's token ids, int32, one column."""

EPILOGUES = ("store", "add", "silu_mul", "gate")
"""What a linear does with its sums: it stores them, adds them to what is there, makes silu(gate) * up of a merged
matrix' columns, or multiplies them with the silu of what is there."""
READING_EPILOGUES = ("add", "gate")
ROLES = ("column", "row")
INTERLEAVE = 16
"""Rows of gate, then rows of up, in the merged matrix of a gated MLP."""

_INT = (int,)
_FLOAT = (float, int)
_MAYBE_INT = (int, type(None))
_MAYBE_FLOAT = (float, int, type(None))
_HEADS = {"layer": _INT, "heads": _INT, "kv_heads": _INT, "head_dim": _INT}


@dataclass(frozen=True)
class OpSpec:
    """Shape of one instruction: accepted dtypes per input and output ("f32", "q15", "i32"; alternatives with "|"),
    weight roles, attribute types. ``final`` instructions are the ones an executor runs; the others exist only
    between the trace and the passes."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    weights: tuple[str, ...] = ()
    optional_weights: tuple[str, ...] = ()
    attrs: Mapping[str, tuple[type, ...]] = field(default_factory=dict)
    final: bool = True


_LINEAR = OpSpec(
    ("f32|q15",),
    ("f32",),
    ("weight",),
    ("bias",),
    {"role": (str,), "k_splits": _INT, "epilogue": (str,), "column": _INT},
)
_SPECS: Mapping[str, OpSpec] = MappingProxyType(
    {
        # recorded by the trace, gone after the passes
        "embedding": OpSpec(("i32",), ("f32",), ("table",), final=False),
        "rms_norm": OpSpec(("f32",), ("f32",), ("weight",), attrs={"eps": _FLOAT}, final=False),
        "rms_norm_heads": OpSpec(("f32",), ("f32",), ("weight",), attrs={"eps": _FLOAT, "head_dim": _INT}, final=False),
        "rope": OpSpec(("f32",), ("f32",), attrs={"head_dim": _INT}, final=False),
        "silu_mul": OpSpec(("f32", "f32"), ("f32",), final=False),
        "add": OpSpec(("f32", "f32"), ("f32",), final=False),
        # what an executor runs
        "embed": OpSpec(("i32",), ("f32",), ("table",)),
        "norm": OpSpec(("f32",), ("f32",), ("weight",), attrs={"eps": _FLOAT}),
        "norm_quant": OpSpec(("f32",), ("q15",), ("weight",), attrs={"eps": _FLOAT, "fine_above": _FLOAT}),
        "quantize": OpSpec(("f32",), ("q15",), attrs={"fine_above": _FLOAT}),
        "linear": _LINEAR,
        "rope_kv": OpSpec(
            ("f32",),
            ("f32",),
            optional_weights=("q_norm", "k_norm"),
            attrs={**_HEADS, "scale": _FLOAT, "qk_norm": _MAYBE_FLOAT},
        ),
        "attention": OpSpec(("f32",), ("f32",), attrs={**_HEADS, "window": _MAYBE_INT}),
        "select_rows": OpSpec(("f32",), ("f32",)),
        "sample": OpSpec(("f32",), ("i32",)),
    }
)
_TRACED_ATTENTION = OpSpec(
    ("f32", "f32", "f32"), ("f32",), attrs={**_HEADS, "scale": _FLOAT, "window": _MAYBE_INT}, final=False
)


def spec_of(op: str, num_inputs: int) -> OpSpec | None:
    """The specification of ``op``, or None when there is no such instruction. The traced attention reads q, k and v,
    the final one q alone: its keys and values are in the cache already."""
    if op == "attention" and num_inputs == 3:
        return _TRACED_ATTENTION
    return _SPECS.get(op)
