"""A small editor for programs: passes look instructions up, replace or remove them, and get a valid program back."""

from __future__ import annotations

from dataclasses import replace

from forerun.compiler.program import Buffer, Instruction, Program, Weight
from forerun.compiler.validate import validate


class Rewrite:
    """Pending edits of one program. Indices are those of the original instructions throughout."""

    def __init__(self, program: Program) -> None:
        self.steps = program.instructions
        self.buffers = dict(program.buffers)
        self.weights = dict(program.weights)
        self._program = program
        self._edits: dict[int, tuple[Instruction, ...]] = {}
        self._writers: dict[str, list[int]] = {}
        self._readers: dict[str, list[int]] = {}
        for index, step in enumerate(self.steps):
            for name in step.outputs:
                self._writers.setdefault(name, []).append(index)
            for name in step.inputs:
                self._readers.setdefault(name, []).append(index)

    def writers(self, name: str) -> list[int]:
        """Instructions that write the buffer, in order."""
        return self._writers.get(name, [])

    def readers(self, name: str) -> list[int]:
        """Instructions that take the buffer as an input, in order."""
        return self._readers.get(name, [])

    def sole(self, name: str, op: str) -> int | None:
        """The index of the ``op`` that alone writes ``name``, when one instruction alone reads it; else None."""
        writers = self.writers(name)
        if len(writers) != 1 or len(self.readers(name)) != 1 or self.steps[writers[0]].op != op:
            return None
        return writers[0]

    def current(self, index: int) -> tuple[Instruction, ...]:
        """What stands at ``index`` now, edits included."""
        return self._edits.get(index, (self.steps[index],))

    def replace(self, index: int, *steps: Instruction) -> None:
        """Put ``steps`` where instruction ``index`` was; none removes it."""
        self._edits[index] = steps

    def add_buffer(self, name: str, dtype: str, width: int, like: str) -> str:
        """A new buffer with the rows of ``like``; returns its name."""
        if name in self.buffers:
            raise ValueError(f"buffer {name} exists already")
        self.buffers[name] = Buffer(name, dtype, width, self.buffers[like].rows)
        return name

    def add_weight(self, weight: Weight) -> str:
        """A new weight; returns its name."""
        if weight.name in self.weights:
            raise ValueError(f"weight {weight.name} exists already")
        self.weights[weight.name] = weight
        return weight.name

    def finish(self, rename: dict[str, str] | None = None) -> Program:
        """The edited program: renamed buffers applied, unused buffers and weights dropped, validated."""
        steps = [step for index in range(len(self.steps)) for step in self.current(index)]
        if rename:
            steps = [
                replace(
                    step,
                    inputs=tuple(rename.get(name, name) for name in step.inputs),
                    outputs=tuple(rename.get(name, name) for name in step.outputs),
                )
                for step in steps
            ]
        used = {name for step in steps for name in step.inputs + step.outputs}
        weights = {name for step in steps for name in step.weights.values()}
        program = replace(
            self._program,
            instructions=tuple(steps),
            buffers={name: buffer for name, buffer in self.buffers.items() if name in used},
            weights={name: weight for name, weight in self.weights.items() if name in weights},
        )
        validate(program)
        return program
