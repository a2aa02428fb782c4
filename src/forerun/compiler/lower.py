"""The passes in order: from a traced program to the one that executors run."""

from __future__ import annotations

from forerun.compiler.fuse import fuse
from forerun.compiler.precision import Choose, all_float32, assign_formats, quantize_activations
from forerun.compiler.program import Program
from forerun.compiler.slots import reuse_buffers
from forerun.compiler.validate import validate


def lower(program: Program, choose: Choose = all_float32) -> Program:
    """Choose weight formats, merge, quantise activations, share memory. The result is final and validated."""
    final = reuse_buffers(quantize_activations(fuse(assign_formats(program, choose))))
    if not final.is_final:
        raise ValueError("the passes left traced instructions in the program")
    validate(final)
    return final
