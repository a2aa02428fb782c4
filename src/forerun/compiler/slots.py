"""The pass that lets buffers share memory once nobody reads them any more."""

from __future__ import annotations

from dataclasses import replace

from forerun.compiler.opset import INPUT
from forerun.compiler.program import Program


def reuse_buffers(program: Program) -> Program:
    """Give every buffer but the input a slot; buffers of one slot have the same dtype and rows and never live at once.
    A slot is as wide as its widest buffer."""
    ends = _last_uses(program)
    slots: dict[str, int] = {}
    free: dict[tuple[str, str], list[int]] = {}
    count = 0
    for index, step in enumerate(program.instructions):
        for name in step.outputs:
            if name in slots:
                continue
            buffer = program.buffers[name]
            available = free.get((buffer.dtype, buffer.rows), [])
            if available:
                slots[name] = available.pop(0)
            else:
                slots[name], count = count, count + 1
        for name in sorted({*step.inputs, *step.outputs} - {INPUT}):
            if ends[name] == index:
                buffer = program.buffers[name]
                free.setdefault((buffer.dtype, buffer.rows), []).append(slots[name])
    buffers = {name: replace(buffer, slot=slots.get(name)) for name, buffer in program.buffers.items()}
    return replace(program, buffers=buffers)


def _last_uses(program: Program) -> dict[str, int]:
    """Index of the last instruction that touches each buffer; what the program leaves behind lives to the end."""
    ends: dict[str, int] = {}
    for index, step in enumerate(program.instructions):
        for name in step.inputs + step.outputs:
            ends[name] = index
    for name in program.instructions[-1].outputs:
        ends[name] = len(program.instructions)
    return ends
