"""The operators a model description may use. The compiler records them; nothing is computed here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Value:
    """A named result: float32, one row per token (or per sampled row), ``width`` columns."""

    name: str
    width: int


class Ops(Protocol):
    """What a decoder is written with. Weights are named as in a Hugging Face checkpoint, matrices are [N, K]."""

    def embedding(self, weight: str, vocab_size: int, width: int) -> Value:
        """Rows of the table ``weight`` [vocab_size, width] for the step's token ids."""
        ...

    def rms_norm(self, x: Value, weight: str, eps: float) -> Value:
        """``x / sqrt(mean(x^2) + eps) * weight`` over the whole row."""
        ...

    def rms_norm_heads(self, x: Value, weight: str, head_dim: int, eps: float) -> Value:
        """The same over each group of ``head_dim`` columns, with one weight [head_dim] for all heads."""
        ...

    def linear(self, x: Value, weight: str, width: int, *, bias: str | None = None, role: str = "column") -> Value:
        """``x @ weight.T + bias``, ``width`` columns out. ``role`` says how ranks would share the matrix:
        "column" splits its outputs, "row" splits its inputs (and fixes the tree its sum goes through)."""
        ...

    def rope(self, x: Value, head_dim: int) -> Value:
        """Rotate-half position encoding of every head by the row's position."""
        ...

    def attention(
        self, q: Value, k: Value, v: Value, *, layer: int, head_dim: int, scale: float, window: int | None
    ) -> Value:
        """Write k and v to the cache of ``layer`` and attend causally; ``window`` counts the keys a row may see."""
        ...

    def silu_mul(self, gate: Value, up: Value) -> Value:
        """``gate * sigmoid(gate) * up``."""
        ...

    def add(self, x: Value, y: Value) -> Value:
        """``x + y``."""
        ...

    def select_rows(self, x: Value) -> Value:
        """Keep the rows whose next token is drawn in this step."""
        ...

    def sample(self, logits: Value) -> Value:
        """Draw one token per row."""
        ...
