"""Passes that give each matrix its format and quantise the activations that integer matrices read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from forerun.compiler.formats import FLOAT_FORMATS, FORMATS
from forerun.compiler.program import Instruction, Program
from forerun.compiler.rewrite import Rewrite

Choose = Callable[[str, tuple[int, ...], str], str]
"""(weight name, shape [N, K], role) -> format. Roles: "embed" (a table only), "head" (the LM head, also when it is
the embedding table), "column", "row"."""


def all_float32(name: str, shape: tuple[int, ...], role: str) -> str:
    """The chooser that quantises nothing."""
    return "float32"


def assign_formats(program: Program, choose: Choose) -> Program:
    """Ask ``choose`` once per matrix, merged ones under their merged name; vectors (norms, biases) stay float32.

    Belongs before ``quantize_activations``. Raises ValueError when an unknown format is chosen.
    """
    weights = dict(program.weights)
    for name, role in matrix_roles(program).items():
        chosen = choose(name, weights[name].shape, role)
        if chosen not in FORMATS:
            raise ValueError(f"weight {name}: unknown format '{chosen}'")
        weights[name] = replace(weights[name], format=chosen)
    return replace(program, weights=weights)


def matrix_roles(program: Program) -> dict[str, str]:
    """Role of every matrix by weight name, in order of first use."""
    logits = program.instructions[-1].inputs
    roles: dict[str, str] = {}
    for step in program.instructions:
        if "table" in step.weights:
            roles.setdefault(step.weights["table"], "embed")
        elif step.op == "linear":
            roles[step.weights["weight"]] = "head" if step.outputs == logits else str(step.attrs["role"])
    return roles


def quantize_activations(program: Program) -> Program:
    """Make every linear of an integer format read quantised rows: norms that only such linears read become
    ``norm_quant``, other buffers get one ``quantize``. The LM head reads 15 bits: it runs on few rows and reacts to
    rounding the most (docs/numerics.md), everything else 8. What remains of the traced names (embedding, rms_norm) becomes final."""
    edit = Rewrite(program)
    for index, step in enumerate(program.instructions):
        if step.op == "embedding":
            edit.replace(index, replace(step, op="embed"))
        elif step.op == "rms_norm":
            output = step.outputs[0]
            integer = [_is_integer(program, program.instructions[reader]) for reader in edit.readers(output)]
            edit.replace(index, replace(step, op="norm_quant" if all(integer) else "norm"))
            if all(integer):
                edit.buffers[output] = replace(edit.buffers[output], dtype=_quantised_type(edit.buffers[output].rows))
    quantised: dict[str, str] = {}
    for index, step in enumerate(program.instructions):
        source = step.inputs[0]
        if not _is_integer(program, step) or edit.buffers[source].dtype != "f32":
            continue
        added: list[Instruction] = []
        if source not in quantised:
            if len(edit.writers(source)) != 1:
                raise ValueError(f"buffer {source} changes and cannot be quantised once")
            dtype = _quantised_type(edit.buffers[source].rows)
            name = edit.add_buffer(f"{source}_{dtype}", dtype, edit.buffers[source].width, like=source)
            quantised[source] = name
            added.append(Instruction("quantize", (source,), (name,)))
        edit.replace(index, *added, replace(step, inputs=(quantised[source],)))
    return edit.finish()


def _quantised_type(rows: str) -> str:
    """Only the LM head works on sampled rows."""
    return "q15" if rows == "sampled" else "q8"


def _is_integer(program: Program, step: Instruction) -> bool:
    return step.op == "linear" and program.weights[step.weights["weight"]].format not in FLOAT_FORMATS
