"""Weight formats and the integer matrices they describe."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FLOAT_FORMATS = ("float32", "bfloat16")
INT_FORMATS = ("int4_f16_min", "int4_f32_min", "int4_f16", "int8_f16", "int8_f16_min", "int8_channel")
FORMATS = FLOAT_FORMATS + INT_FORMATS


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
