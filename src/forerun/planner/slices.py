"""A few layers of a program, with a smaller vocabulary: as fast per layer as the whole, and soon measured."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from forerun.compiler.program import Instruction, Program
from forerun.compiler.shard import Ranks, panels_of
from forerun.compiler.weights import stored_bytes

ENOUGH_BYTES = 256 << 20
"""Weights that no cache of a core holds."""
MOST_VOCABULARY = 32768


def slice_of(program: Program, ranks: Ranks) -> Program:
    """Enough layers for ``ENOUGH_BYTES`` of matrices of ``ranks``, spread over the model so that every weight format is
    among them."""
    chosen = _layers(program, ranks)
    numbers = {layer: number for number, layer in enumerate(chosen)}
    steps = tuple(
        _renumbered(step, numbers)
        for step in program.instructions
        if (layer := _layer(step)) is None or layer in numbers
    )
    return _with_vocabulary(_needed(replace(program, instructions=steps)), MOST_VOCABULARY)


def _layers(program: Program, ranks: Ranks) -> list[int]:
    panels = panels_of(program, ranks)
    sizes: dict[int, int] = {}
    formats: dict[int, set[str]] = {}
    for step in program.instructions:
        layer = _layer(step)
        if layer is not None and step.op == "linear":
            weight = program.weights[step.weights["weight"]]
            sizes[layer] = sizes.get(layer, 0) + stored_bytes(weight, panels[weight.name])
            formats.setdefault(layer, set()).add(weight.format)
    if not sizes:
        return []
    each = max(1, sum(sizes.values()) // len(sizes))
    count = min(len(sizes), -(-ENOUGH_BYTES // each))
    spread = {len(sizes) * place // count for place in range(count)}
    first = {form: layer for layer in sorted(formats, reverse=True) for form in formats[layer]}
    return sorted(spread | set(first.values()))


def _layer(step: Instruction) -> int | None:
    """The number in "l3.qkv"; None for what belongs to no layer."""
    for name in (*step.inputs, *step.outputs):
        head, dot, _ = name.partition(".")
        if dot and head[:1] == "l" and head[1:].isdigit():
            return int(head[1:])
    return None


def _renumbered(step: Instruction, numbers: dict[int, int]) -> Instruction:
    layer = step.attrs.get("layer")
    return step if not isinstance(layer, int) else replace(step, attrs={**step.attrs, "layer": numbers[layer]})


def _needed(program: Program) -> Program:
    names = {name for step in program.instructions for name in (*step.inputs, *step.outputs)}
    weights = {name for step in program.instructions for name in step.weights.values()}
    return replace(
        program,
        buffers={name: buffer for name, buffer in program.buffers.items() if name in names},
        weights={name: weight for name, weight in program.weights.items() if name in weights},
    )


def _with_vocabulary(program: Program, most: int) -> Program:
    """Embedding, head and logits of at most ``most`` tokens."""
    if program.vocab_size <= most:
        return program
    head = program.head
    tables = set(_tables(program.instructions)) | {head.weights["weight"]}
    weights = {
        name: replace(weight, shape=(most, *weight.shape[1:])) if name in tables else weight
        for name, weight in program.weights.items()
    }
    logits = head.outputs[0]
    buffers = {**program.buffers, logits: replace(program.buffers[logits], width=most)}
    return replace(program, weights=weights, buffers=buffers)


def _tables(steps: Iterable[Instruction]) -> Iterable[str]:
    return (step.weights["table"] for step in steps if step.op == "embed")
