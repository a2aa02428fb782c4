"""Tensor parallelism: which part of a finished program's work and weights a rank has.

Matrices are cut by whole panels of 16 outputs, so every output is one whole sum over K, as on a single rank, and any
degree goes with any model and gives the same bits. Attention is cut by query heads. Rank r of R has units
[U·r // R, U·(r + 1) // R) of U; the native executor cuts alike (``native/runtime/ranks.hpp``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from forerun.compiler.formats import PANEL
from forerun.compiler.program import Program


@dataclass(frozen=True)
class Ranks:
    """Ranks [begin, end) of ``of``: those of one process, or of one weights file."""

    begin: int = 0
    end: int = 1
    of: int = 1

    def share(self, units: int) -> range:
        """The part of ``units`` that is these ranks'."""
        return range(units * self.begin // self.of, units * self.end // self.of)


def panels_of(program: Program, ranks: Ranks) -> Mapping[str, range]:
    """Matrix name -> the panels that ``ranks`` have of it. Gate and up, in alternating panels, are cut in pairs."""
    pairs = {
        step.weights["weight"]
        for step in program.instructions
        if step.op == "linear" and step.attrs["epilogue"] == "silu_mul"
    }
    panels = {}
    for weight in program.weights.values():
        if len(weight.shape) == 2:
            unit = 2 if weight.name in pairs else 1
            own = ranks.share(-(-weight.shape[0] // PANEL) // unit)
            panels[weight.name] = range(own.start * unit, own.stop * unit)
    return panels


def kv_splits(program: Program, ranks: int) -> int:
    """As how many heads each KV head counts, so that every rank has some: it is kept by all ranks that have some of its
    query heads. The smallest divisor of their number that is enough, or all of them."""
    layout = program.kv_layout
    if not layout.layers or ranks == 1:
        return 1
    heads = next(step.attrs["heads"] for step in program.instructions if step.op == "attention")
    assert isinstance(heads, int)
    group = heads // layout.kv_heads
    return next((n for n in range(1, group) if group % n == 0 and layout.kv_heads * n >= ranks), group)
