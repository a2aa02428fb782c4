"""Weight formats and the integer matrices they describe."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FLOAT_FORMATS = ("float32", "bfloat16")
INT_FORMATS = ("int4_f16_min", "int4_f32_min", "int4_f16", "int8_f16", "int8_f16_min", "int8_channel")
FORMATS = FLOAT_FORMATS + INT_FORMATS

PANEL = 16
"""Rows of W (output columns) that are packed together."""
BLOCK = 64
"""Elements along K of one packed block."""
GROUP = 32
"""Elements along K that share a scale."""


@dataclass(frozen=True)
class IntFormat:
    """Layout of one integer format: bits per value, whether groups have a minimum, and the scales' type.

    ``scale`` is the NumPy type of stored scales and minima; None means one float32 scale per output channel, kept
    apart.
    """

    bits: int
    has_minimum: bool
    scale: type[np.floating] | None

    @property
    def zero(self) -> int:
        """The stored value that stands for zero when there is no minimum."""
        return 0 if self.has_minimum else 1 << (self.bits - 1)

    @property
    def bits_per_weight(self) -> float:
        """Stored bits per weight, scales and minima included."""
        if self.scale is None:
            return float(self.bits)
        return self.bits + 8 * np.dtype(self.scale).itemsize * (1 + self.has_minimum) / GROUP


INT_LAYOUTS = {
    "int4_f16_min": IntFormat(4, True, np.float16),
    "int4_f32_min": IntFormat(4, True, np.float32),
    "int4_f16": IntFormat(4, False, np.float16),
    "int8_f16": IntFormat(8, False, np.float16),
    "int8_f16_min": IntFormat(8, True, np.float16),
    "int8_channel": IntFormat(8, False, None),
}


def bits_per_weight(name: str) -> float:
    """Stored bits per weight of any format."""
    return {"float32": 32.0, "bfloat16": 16.0}.get(name) or INT_LAYOUTS[name].bits_per_weight


@dataclass(frozen=True)
class IntWeight:
    """A matrix on an integer grid, before packing.

    q: uint8 [N, K], below 16 for int4 formats. scale: float32 [N, G] with G = ceil(K / 32), or [N] for int8_channel.
    minimum: float32 [N, G] for the ``_min`` formats, else None. A weight is ``scale * q + minimum``, or
    ``scale * (q - 8)`` (int4) or ``scale * (q - 128)`` (int8) when there is no minimum.
    """

    format: str
    q: NDArray[np.uint8]
    scale: NDArray[np.float32]
    minimum: NDArray[np.float32] | None

    def float32(self) -> NDArray[np.float32]:
        """The weights that the integers stand for: float32 [N, K]."""
        k = self.q.shape[1]
        scale = np.repeat(self.scale, GROUP, axis=1)[:, :k] if self.scale.ndim == 2 else self.scale[:, None]
        values = (self.q.astype(np.float32) - np.float32(INT_LAYOUTS[self.format].zero)) * scale
        return values if self.minimum is None else values + np.repeat(self.minimum, GROUP, axis=1)[:, :k]
