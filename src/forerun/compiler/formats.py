"""Weight formats and the integer matrices they describe."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from forerun.checkpoint.base import FloatArray, Steps

PANEL = 16
"""Rows of W (output columns) that are packed together."""
BLOCK = 64
"""Elements along K that activations and K's segments are counted in."""
GROUP = 32
"""Elements along K that share an activation scale."""

SUPERBLOCK = 256
"""Elements along K whose scales are steps of one unit."""


@dataclass(frozen=True)
class IntFormat:
    """How one integer format codes its numbers: ``Coding`` of native/kernels/formats.hpp.

    ``group``: elements that share a scale (and a minimum, with ``has_minimum``). Scales are float16; with ``step_bits``
    they are whole numbers of so many bits, ``step_zero`` standing for 0, times a float16 unit per SUPERBLOCK.
    ``table``: the bits are positions in NONLINEAR. ``channel``: one float32 scale per output channel, kept apart.
    """

    bits: int
    has_minimum: bool = False
    step_bits: int = 0
    step_zero: int = 0
    group: int = GROUP
    table: bool = False
    channel: bool = False

    @property
    def zero(self) -> int:
        """The value that stands for zero when there is no minimum."""
        return 0 if self.has_minimum else 128 if self.table else 1 << (self.bits - 1)

    @property
    def span(self) -> int:
        """Elements along K of one packed block."""
        return SUPERBLOCK if self.step_bits else BLOCK


INT_LAYOUTS = MappingProxyType(
    {
        "int8_channel": IntFormat(8, channel=True),
        "int8_f16": IntFormat(8),
        "int4_f16": IntFormat(4),
        "int4_f16_min": IntFormat(4, has_minimum=True),
        "int5_f16": IntFormat(5),
        "int5_f16_min": IntFormat(5, has_minimum=True),
        "q2_k": IntFormat(2, has_minimum=True, step_bits=4, group=16),
        "q3_k": IntFormat(3, step_bits=6, step_zero=32, group=16),
        "q4_k": IntFormat(4, has_minimum=True, step_bits=8),
        "q5_k": IntFormat(5, has_minimum=True, step_bits=8),
        "q6_k": IntFormat(6, step_bits=8, step_zero=128, group=16),
        "iq4_nl": IntFormat(4, table=True),
        "iq4_xs": IntFormat(4, step_bits=8, step_zero=32, table=True),
    }
)
NONLINEAR = np.array([1, 24, 45, 63, 79, 93, 106, 118, 129, 141, 153, 166, 181, 197, 217, 241], np.uint8)
"""The values that four bits stand for in formats with a table; 128 is zero."""

FLOAT_FORMATS = ("float32", "bfloat16")
INT_FORMATS = tuple(INT_LAYOUTS)
FORMATS = FLOAT_FORMATS + INT_FORMATS
FITTED_FORMATS = tuple(name for name, layout in INT_LAYOUTS.items() if not (layout.step_bits or layout.table))
"""Integer formats that any floats can be quantised to; the others take over what a checkpoint holds in them."""


@dataclass(frozen=True)
class IntWeight:
    """A matrix on an integer grid, before packing.

    q: uint8 [N, K], below 16 for int4 formats. scale: float32 [N, G] with a column for each group of K, or [N] for
    int8_channel. minimum: float32 [N, G] for formats that have one, else None. A weight is ``scale * q + minimum``, or
    ``scale * (q - zero)`` without a minimum. ``steps``: in formats with steps, what scale and minimum are made of.
    """

    format: str
    q: NDArray[np.uint8]
    scale: FloatArray
    minimum: FloatArray | None
    steps: tuple[Steps, ...] = ()

    def float32(self) -> FloatArray:
        """The weights that the integers stand for: float32 [N, K]."""
        values = (self.q.astype(np.float32) - np.float32(INT_LAYOUTS[self.format].zero)) * self.spread(self.scale)
        return values if self.minimum is None else values + self.spread(self.minimum)

    def spread(self, numbers: FloatArray) -> FloatArray:
        """Scales or minima, one for each element: float32 [N, K], or [N, 1] where a channel has one."""
        if numbers.ndim == 1:
            return numbers[:, None]
        return np.repeat(numbers, INT_LAYOUTS[self.format].group, axis=1)[:, : self.q.shape[1]]
