"""Passes that merge traced instructions into the ones an executor runs. Each is a function program -> program.

Matrices become one where they are stored in one format; others stay apart and fill their columns of a common buffer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate, groupby
from operator import itemgetter

from forerun.compiler.opset import INTERLEAVE
from forerun.compiler.program import Attr, Instruction, Program, Weight
from forerun.compiler.rewrite import Rewrite


def fuse(program: Program) -> Program:
    """All merging passes in order."""
    return fuse_residual(fuse_gated_mlp(fuse_attention(program)))


def fuse_attention(program: Program) -> Program:
    """q, k and v fill one buffer per layer, from one stacked matrix where their formats agree, and one ``rope_kv`` does
    head norms, rotation, scale and cache write.

    Raises ValueError for an attention whose q, k and v are not (normed and) rotated linears of one input.
    """
    edit = Rewrite(program)
    for index, step in enumerate(program.instructions):
        if step.op == "attention" and len(step.inputs) == 3:
            _fuse_one_attention(edit, index, step)
    return edit.finish()


def _fuse_one_attention(edit: Rewrite, index: int, step: Instruction) -> None:
    chains = [_chain_to_linear(edit, name) for name in step.inputs]
    ops = [[edit.steps[i].op for i in chain] for chain in chains]
    normed = ["linear", "rms_norm_heads", "rope"]
    if ops not in ([normed, normed, ["linear"]], [["linear", "rope"], ["linear", "rope"], ["linear"]]):
        raise ValueError(f"attention of layer {step.attrs['layer']}: q, k, v come from {ops}")
    for chain in chains:
        for gone in chain:
            edit.replace(gone)
    linears = [chain[0] for chain in chains]
    name = f"l{step.attrs['layer']}"
    width = sum(edit.buffers[item].width for item in step.inputs)
    qkv = edit.add_buffer(f"{name}.qkv", "f32", width, like=step.inputs[0])
    edit.replace(max(linears), *_column_parts(edit, linears, qkv))
    weights: dict[str, str] = {}
    attrs = {key: value for key, value in step.attrs.items() if key != "window"}
    attrs["qk_norm"] = None
    if ops[0] == normed:
        norms = [edit.steps[chain[1]] for chain in chains[:2]]
        weights = {"q_norm": norms[0].weights["weight"], "k_norm": norms[1].weights["weight"]}
        attrs["qk_norm"] = norms[0].attrs["eps"]
    q = edit.add_buffer(f"{name}.q", "f32", edit.buffers[step.inputs[0]].width, like=step.inputs[0])
    final = {key: value for key, value in step.attrs.items() if key != "scale"}
    edit.replace(
        index,
        Instruction("rope_kv", (qkv,), (q,), weights, attrs),
        Instruction("attention", (q,), step.outputs, {}, final),
    )


def _chain_to_linear(edit: Rewrite, name: str) -> list[int]:
    """Instructions from the linear down to the one that writes ``name``; each feeds only the next."""
    chain: list[int] = []
    while True:
        writers = edit.writers(name)
        if len(writers) != 1 or len(edit.readers(name)) != 1:
            raise ValueError(f"buffer {name} is shared and cannot be merged")
        chain.insert(0, writers[0])
        step = edit.steps[writers[0]]
        if step.op not in ("rope", "rms_norm_heads"):
            return chain
        name = step.inputs[0]


def fuse_gated_mlp(program: Program) -> Program:
    """Gate and up become one matrix, interleaved by 16 rows, whose epilogue is ``silu_mul``; when their formats differ,
    two linears into one buffer, the second with the epilogue ``gate``.

    Gate and up are each padded with zero rows to a multiple of 16; the output, and the inputs of the linear that reads
    it, get the padded width (the padded columns are zero).
    """
    edit = Rewrite(program)
    for index, step in enumerate(program.instructions):
        if step.op == "silu_mul":
            _fuse_one_mlp(edit, index, step)
    return edit.finish()


def _fuse_one_mlp(edit: Rewrite, index: int, step: Instruction) -> None:
    linears = [edit.sole(name, "linear") for name in step.inputs]
    gate, up = linears
    readers = edit.readers(step.outputs[0])
    if gate is None or up is None or [edit.steps[i].op for i in readers] != ["linear"]:
        raise ValueError(f"{step.outputs[0]}: gate and up must be linears and one linear must read their product")
    edit.replace(gate)
    edit.replace(up)
    output = edit.buffers[step.outputs[0]]
    padded = -(-output.width // INTERLEAVE) * INTERLEAVE
    edit.buffers[output.name] = replace(output, width=padded)
    down = edit.steps[readers[0]].weights["weight"]
    edit.weights[down] = replace(edit.weights[down], shape=(edit.weights[down].shape[0], padded))
    if len(set(_formats(edit, [gate, up]))) == 1:
        edit.replace(index, _merged_linear(edit, [gate, up], "gate_up_proj", output.name, epilogue="silu_mul"))
    else:
        parts = zip((gate, up), ("store", "gate"), strict=True)
        edit.replace(index, *(_merged_linear(edit, [one], "", output.name, epilogue=how) for one, how in parts))


def _formats(edit: Rewrite, linears: Sequence[int]) -> list[str]:
    return [edit.weights[edit.steps[index].weights["weight"]].format for index in linears]


def _column_parts(edit: Rewrite, linears: Sequence[int], output: str) -> list[Instruction]:
    """Linears that fill ``output`` from left to right, neighbours of one format merged. Parts begin at whole panels;
    where sizes do not allow that, all become one in float32, which holds the others' numbers."""
    pairs = zip(linears, _formats(edit, linears), strict=True)
    runs = [[index for index, _ in run] for _, run in groupby(pairs, itemgetter(1))]
    widths = [sum(edit.buffers[edit.steps[index].outputs[0]].width for index in run) for run in runs]
    if any(width % INTERLEAVE for width in widths[:-1]):
        for index in linears:
            name = edit.steps[index].weights["weight"]
            edit.weights[name] = replace(edit.weights[name], format="float32")
        return _column_parts(edit, linears, output)
    columns = [0, *accumulate(widths)]
    return [
        _merged_linear(edit, run, _common_name(edit, run), output, column=column)
        for run, column in zip(runs, columns, strict=False)
    ]


def _common_name(edit: Rewrite, linears: Sequence[int]) -> str:
    """ "q_proj", "k_proj" -> "qk_proj"."""
    modules = [edit.steps[index].weights["weight"].split(".")[-2] for index in linears]
    return "".join(module.removesuffix("_proj") for module in modules) + "_proj"


def _merged_linear(
    edit: Rewrite, linears: Sequence[int], name: str, output: str, *, column: int = 0, epilogue: str = "store"
) -> Instruction:
    """One linear that computes all of ``linears``, which read the same input."""
    steps = [edit.steps[index] for index in linears]
    first = steps[0]
    if any(step.inputs != first.inputs or step.attrs != first.attrs for step in steps):
        raise ValueError(f"{name}: the merged linears read different inputs or have different attributes")
    roles = {tuple(sorted(step.weights)) for step in steps}
    if len(roles) != 1:
        raise ValueError(f"{name}: only some of the merged linears have a bias")
    weights = dict(first.weights)
    if len(steps) > 1:
        interleave = INTERLEAVE if epilogue == "silu_mul" else 0
        weights = {
            role: _stacked(edit, [edit.weights[step.weights[role]] for step in steps], name, interleave)
            for role in sorted(first.weights, reverse=True)
        }
    attrs: dict[str, Attr] = {**first.attrs, "epilogue": epilogue, "column": column}
    return Instruction("linear", first.inputs, (output,), weights, attrs)


def _stacked(edit: Rewrite, parts: Sequence[Weight], name: str, interleave: int) -> str:
    rows = [part.shape[0] for part in parts]
    if interleave:
        rows = [-(-count // interleave) * interleave for count in rows]
    prefix, _, leaf = parts[0].name.rsplit(".", 2)
    sources = tuple(source for part in parts for source in part.sources)
    shape = (sum(rows), *parts[0].shape[1:])
    return edit.add_weight(Weight(f"{prefix}.{name}.{leaf}", shape, parts[0].format, sources, interleave))


def fuse_residual(program: Program) -> Program:
    """``x2 = add(x, linear(h))`` becomes a linear that adds to x in place; x2 is x from there on."""
    edit = Rewrite(program)
    rename: dict[str, str] = {}
    for index, step in enumerate(program.instructions):
        if step.op != "add":
            continue
        stream, part = step.inputs
        producer = edit.sole(part, "linear")
        last_reader = max(edit.readers(stream))
        is_stored = producer is not None and edit.steps[producer].attrs["epilogue"] == "store"
        if producer is None or not is_stored or last_reader != index or _read_within(edit, stream, producer, index):
            raise ValueError(f"{step.outputs[0]}: the residual add cannot move into a linear")
        rename[step.outputs[0]] = rename.get(stream, stream)
        linear = edit.steps[producer]
        edit.replace(producer, replace(linear, outputs=(stream,), attrs={**linear.attrs, "epilogue": "add"}))
        edit.replace(index)
    return edit.finish(rename)


def _read_within(edit: Rewrite, name: str, start: int, end: int) -> bool:
    return any(start <= index < end for index in edit.readers(name))
