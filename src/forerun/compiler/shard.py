"""Tensor parallelism: which part of a finished program's work and weights a rank has.

Matrices are cut by whole panels of 16 outputs, so every output is one whole sum over K, as on a single rank, and any
degree goes with any model and gives the same bits. Attention is cut by query heads, and so are the matrices of queries,
keys and values where heads are whole panels. Rank r of R has units [U·r // R, U·(r + 1) // R) of U; the native executor
cuts alike (``native/runtime/ranks.hpp``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from forerun.compiler.formats import PANEL
from forerun.compiler.program import Program

Panels = tuple[range, ...]
"""Panels of a matrix, ascending, with a gap between ranges."""


@dataclass(frozen=True)
class Ranks:
    """Ranks [begin, end) of ``of``: those of one process, or of one weights file."""

    begin: int = 0
    end: int = 1
    of: int = 1

    def share(self, units: int) -> range:
        """The part of ``units`` that is these ranks'."""
        return range(units * self.begin // self.of, units * self.end // self.of)


def count_of(panels: Panels) -> int:
    """How many they are."""
    return sum(len(part) for part in panels)


def overlap(some: Panels, others: Panels) -> Panels:
    """Panels that are among both."""
    both = (range(max(a.start, b.start), min(a.stop, b.stop)) for a in some for b in others)
    return tuple(part for part in both if part)


def without(some: Panels, others: Panels) -> Panels:
    """Panels of ``some`` that are not among ``others``."""
    edges = [0, *(edge for part in others for edge in (part.start, part.stop)), max((p.stop for p in some), default=0)]
    gaps = tuple(range(a, b) for a, b in zip(edges[::2], edges[1::2], strict=True))
    return overlap(some, gaps)


def panels_of(program: Program, ranks: Ranks) -> Mapping[str, Panels]:
    """Matrix name -> the panels that ``ranks`` have of it. Gate and up, in alternating panels, are cut in pairs."""
    pairs = {
        step.weights["weight"]
        for step in program.instructions
        if step.op == "linear" and step.attrs["epilogue"] == "silu_mul"
    }
    first_panels, of_heads = cut_by_heads(program), _panels_of_heads(program, ranks)
    panels = {}
    for weight in program.weights.values():
        if len(weight.shape) == 2:
            count, first = -(-weight.shape[0] // PANEL), first_panels.get(weight.name)
            if first is not None:
                own = overlap(of_heads, (range(first, first + count),))
                panels[weight.name] = tuple(range(part.start - first, part.stop - first) for part in own)
                continue
            unit = 2 if weight.name in pairs else 1
            units = ranks.share(count // unit)
            panels[weight.name] = (range(units.start * unit, units.stop * unit),) if units else ()
    return panels


def cut_by_heads(program: Program) -> Mapping[str, int]:
    """Matrices of queries, keys and values, where heads are whole panels -> which panel of the row that they fill
    together is their first. A rank has the heads that its attention needs, so that nothing is exchanged in between; key
    heads that several ranks need are computed by each of them."""
    if program.kv_layout.head_dim % PANEL:
        return {}
    rows = {step.inputs[0] for step in program.instructions if step.op == "rope_kv"}
    filling = (step for step in program.instructions if step.op == "linear" and step.outputs[0] in rows)
    return {step.weights["weight"]: _whole(step.attrs["column"]) // PANEL for step in filling}


def _panels_of_heads(program: Program, ranks: Ranks) -> Panels:
    """Of a row of queries, keys and values."""
    layout, splits = program.kv_layout, kv_splits(program, ranks.of)
    own = ranks.share(layout.kv_heads * splits)
    if not own:
        return ()
    heads, each = query_heads(program), layout.head_dim // PANEL
    group = heads // (layout.kv_heads * splits)
    keys = range(own.start // splits, -(-own.stop // splits))
    parts = ((0, range(own.start * group, own.stop * group)), (heads, keys), (heads + layout.kv_heads, keys))
    return _joined(tuple(range((at + part.start) * each, (at + part.stop) * each) for at, part in parts))


def _joined(panels: Panels) -> Panels:
    """Neighbours as one."""
    joined: list[range] = []
    for part in panels:
        if joined and joined[-1].stop == part.start:
            joined[-1] = range(joined[-1].start, part.stop)
        else:
            joined.append(part)
    return tuple(joined)


def query_heads(program: Program) -> int:
    """Of each attention."""
    return next((_whole(step.attrs["heads"]) for step in program.instructions if step.op == "attention"), 0)


def _whole(value: object) -> int:
    assert isinstance(value, int)
    return value


def kv_splits(program: Program, ranks: int) -> int:
    """As how many heads each KV head counts, so that every rank has some: it is kept by all ranks that have some of its
    query heads. The smallest divisor of their number that is enough, or all of them."""
    layout = program.kv_layout
    if not layout.layers or ranks == 1:
        return 1
    group = query_heads(program) // layout.kv_heads
    return next((n for n in range(1, group) if group % n == 0 and layout.kv_heads * n >= ranks), group)
