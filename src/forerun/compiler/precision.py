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
    """Ask ``choose`` once per matrix; vectors (norms, biases) stay float32.

    Belongs before ``fuse``, which merges what has one format. Raises ValueError when an unknown format is chosen.
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


FINE_ABOVE = 2.0
"""Groups of activations whose largest magnitude exceeds so many times the mean of their row's groups keep 15 bits, the
others 8: about a tenth of them, and a quarter of the loss (docs/numerics.md)."""
HEAD_FINE_ABOVE = 0.0
"""The LM head's input keeps 15 bits everywhere: it has few rows and reacts to rounding the most."""


def quantize_activations(program: Program) -> Program:
    """Make every linear of an integer format read quantised rows: norms that only such linears read become
    ``norm_quant``, other buffers get one ``quantize``. What remains of the traced names (embedding, rms_norm) becomes
    final."""
    edit = Rewrite(program)
    for index, step in enumerate(program.instructions):
        if step.op == "embedding":
            edit.replace(index, replace(step, op="embed"))
        elif step.op == "rms_norm":
            output = step.outputs[0]
            integer = [_is_integer(program, program.instructions[reader]) for reader in edit.readers(output)]
            if not all(integer):
                edit.replace(index, replace(step, op="norm"))
                continue
            attrs = {**step.attrs, "fine_above": _fine_above(edit.buffers[output].rows)}
            edit.replace(index, replace(step, op="norm_quant", attrs=attrs))
            edit.buffers[output] = replace(edit.buffers[output], dtype="q15")
    quantised: dict[str, str] = {}
    for index, step in enumerate(program.instructions):
        source = step.inputs[0]
        if not _is_integer(program, step) or edit.buffers[source].dtype == "q15":
            continue
        added: list[Instruction] = []
        if source not in quantised:
            if max(edit.writers(source)) > index:
                raise ValueError(f"buffer {source} changes and cannot be quantised once")
            name = edit.add_buffer(f"{source}_q15", "q15", edit.buffers[source].width, like=source)
            quantised[source] = name
            attrs = {"fine_above": _fine_above(edit.buffers[source].rows)}
            added.append(Instruction("quantize", (source,), (name,), attrs=attrs))
        edit.replace(index, *added, replace(step, inputs=(quantised[source],)))
    return edit.finish()


def _fine_above(rows: str) -> float:
    """Only the LM head works on sampled rows."""
    return HEAD_FINE_ABOVE if rows == "sampled" else FINE_ABOVE


def _is_integer(program: Program, step: Instruction) -> bool:
    return step.op == "linear" and program.weights[step.weights["weight"]].format not in FLOAT_FORMATS
