"""What a step of a program asks of a member of its rank group: matrices to read and multiply, keys and values,
instructions, and results to exchange."""

from __future__ import annotations

from dataclasses import dataclass

from forerun.compiler.formats import PANEL
from forerun.compiler.program import Instruction, Program
from forerun.compiler.shard import count_of, cut_by_heads, panels_of, query_heads
from forerun.compiler.weights import stored_bytes
from forerun.runtime.memory import KvMemory
from forerun.runtime.ranks import RankGroup, cache_splits, rank_layout


@dataclass(frozen=True)
class Matrix:
    """Matrices of one format that the same rows pass through: ``bytes`` that are read for each chunk of rows,
    ``weights`` that each row is multiplied with. ``sampled``: the rows are those whose next token is drawn."""

    form: str
    bytes: int
    weights: int
    sampled: bool


@dataclass(frozen=True)
class Attention:
    """Of all layers with the same window (None: none). ``operations``: of a row for each key that it sees.
    ``key_bytes``: read for each key of a sequence."""

    layers: int
    window: int | None
    operations: int
    key_bytes: int


@dataclass(frozen=True)
class Gather:
    """An exchange of ``width`` numbers for each row; ``count`` equal ones in a step."""

    width: int
    count: int
    sampled: bool


@dataclass(frozen=True)
class Work:
    """A step's work. ``columns``: numbers of a row that operators other than matrices and attention pass over.
    ``instructions``: of the program; ``layers``, ``hidden``: of the model. ``members``: who share the work. ``strips``:
    of many rows, of which members exchange one while they compute the next."""

    matrices: tuple[Matrix, ...]
    attention: tuple[Attention, ...]
    columns: int
    instructions: int
    gathers: tuple[Gather, ...]
    layers: int
    hidden: int
    members: int
    strips: int = 1


def work_of(program: Program, group: RankGroup, kv_dtype: str, strips: int = 1) -> Work:
    """The work of ``group.own``."""
    return Work(
        matrices=_matrices(program, group),
        attention=_attention(program, group, kv_dtype),
        columns=sum(_width(program, step) for step in program.instructions if _is_plain(step)),
        instructions=len(program.instructions),
        gathers=_gathers(program) if len(group.begins) > 2 else (),
        layers=program.kv_layout.layers,
        hidden=_width(program, program.instructions[0]),
        members=len(group.begins) - 1,
        strips=strips,
    )


def _is_plain(step: Instruction) -> bool:
    return step.op not in ("linear", "attention", "sample")


def _width(program: Program, step: Instruction) -> int:
    return program.buffers[step.outputs[0]].width


def _is_sampled(program: Program, step: Instruction) -> bool:
    return program.buffers[step.outputs[0]].rows == "sampled"


def _matrices(program: Program, group: RankGroup) -> tuple[Matrix, ...]:
    panels = panels_of(program, group.ranks)
    found: dict[tuple[str, bool], tuple[int, int]] = {}
    for step in program.instructions:
        if step.op == "linear":
            weight = program.weights[step.weights["weight"]]
            own = panels[weight.name]
            key = weight.format, _is_sampled(program, step)
            nbytes, weights = found.get(key, (0, 0))
            count = min(count_of(own) * PANEL, weight.shape[0]) * weight.shape[1]
            found[key] = nbytes + stored_bytes(weight, own), weights + count
    return tuple(Matrix(form, *sizes, sampled) for (form, sampled), sizes in found.items())


def _attention(program: Program, group: RankGroup, kv_dtype: str) -> tuple[Attention, ...]:
    """Query heads go with the KV heads that the member keeps."""
    layout = rank_layout(program, group)
    token = KvMemory(layout, 1, kv_dtype).token_bytes
    found: dict[int | None, int] = {}
    for step in program.instructions:
        if step.op == "attention":
            window = step.attrs["window"]
            assert window is None or isinstance(window, int)
            found[window] = found.get(window, 0) + 1
    queries = query_heads(program) // (program.kv_layout.kv_heads * cache_splits(program, group) or 1)
    each = 4 * layout.kv_heads * queries * layout.head_dim
    per_layer = token // max(1, layout.layers)
    return tuple(Attention(count, window, each * count, per_layer * count) for window, count in found.items())


def _gathers(program: Program) -> tuple[Gather, ...]:
    """An exchange behind the embedding, every matrix that is not cut by heads, and every attention; of the head's
    logits only the largest."""
    by_heads = cut_by_heads(program)
    found: dict[tuple[int, bool], int] = {}
    for step in program.instructions:
        if step.op in ("embed", "linear", "attention") and step.weights.get("weight") not in by_heads:
            width = 2 if step is program.head else _width(program, step)
            key = width, _is_sampled(program, step)
            found[key] = found.get(key, 0) + 1
    return tuple(Gather(width, count, sampled) for (width, sampled), count in found.items())
