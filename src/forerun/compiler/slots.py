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
    ending: dict[int, list[str]] = {}
    for name in sorted(set(ends) - {INPUT}):
        ending.setdefault(ends[name], []).append(name)
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
        for name in ending.get(index, []):
            buffer = program.buffers[name]
            free.setdefault((buffer.dtype, buffer.rows), []).append(slots[name])
    buffers = {name: replace(buffer, slot=slots.get(name)) for name, buffer in program.buffers.items()}
    return replace(program, buffers=buffers)


def _last_uses(program: Program) -> dict[str, int]:
    """Index of the last instruction that touches each buffer; what the program leaves behind lives to the end. What
    ``rope_kv`` rotates lives through the attention that reads the result, which may do the rotation itself."""
    ends: dict[str, int] = {}
    rotated: dict[str, str] = {}
    for index, step in enumerate(program.instructions):
        for name in step.inputs + step.outputs:
            ends[name] = index
        if step.op == "rope_kv":
            rotated[step.outputs[0]] = step.inputs[0]
        elif step.op == "attention" and step.inputs[0] in rotated:
            ends[rotated[step.inputs[0]]] = index
    for name in program.instructions[-1].outputs:
        ends[name] = len(program.instructions)
    return ends
