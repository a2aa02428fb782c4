"""Philox4x32-10, the counter-based generator: the same (key, counter) gives the same numbers everywhere."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from forerun.runtime.reference.arithmetic import Float32, log32

UInt64 = NDArray[np.uint64]

_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
_MASK = np.uint64(0xFFFFFFFF)
_ROUNDS = 10
_BELOW_ONE = np.float32(1 - 2**-24)


def philox4x32(key: tuple[int, int], counter: tuple[UInt64, UInt64, UInt64, UInt64]) -> UInt64:
    """Four 32-bit words per counter: [n, 4] as uint64. key: two 32-bit words; counter: four arrays [n] of them."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    shift = np.uint64(32)
    for _ in range(_ROUNDS):
        low, high = c0 * np.uint64(_MULTIPLIERS[0]), c2 * np.uint64(_MULTIPLIERS[1])
        c0, c1, c2, c3 = (
            (high >> shift) ^ c1 ^ np.uint64(k0),
            high & _MASK,
            (low >> shift) ^ c3 ^ np.uint64(k1),
            low & _MASK,
        )
        k0, k1 = (k0 + _KEY_STEPS[0]) & 0xFFFFFFFF, (k1 + _KEY_STEPS[1]) & 0xFFFFFFFF
    return np.stack([c0, c1, c2, c3], axis=-1)


def gumbel_noise(seed: int, position: int, vocab_size: int) -> Float32:
    """Standard Gumbel noise, one number per token id: float32 [vocab_size], for one seed and sampled position.

    The uniform number is ``(float(word >> 8) + 0.5) * 2^-24``; the topmost one rounds to 1 and is taken as the float
    below it, so that the noise stays finite.
    """
    quads = np.arange(-(-vocab_size // 4), dtype=np.uint64)
    zero = np.zeros_like(quads)
    words = philox4x32((seed & 0xFFFFFFFF, seed >> 32), (quads, zero + np.uint64(position), zero, zero))
    whole = (words.reshape(-1)[:vocab_size] >> np.uint64(8)).astype(np.float32)
    uniform = np.minimum((whole + np.float32(0.5)) * np.float32(2**-24), _BELOW_ONE)
    return -log32(-log32(uniform))
