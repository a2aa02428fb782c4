"""The program: a flat list of instructions over named buffers. Immutable, stored as JSON, prints readably."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from forerun.compiler.opset import INPUT, spec_of
from forerun.errors import ArtifactError, did_you_mean
from forerun.json_text import ARTIFACT_JSON

Attr = str | int | float | None


@dataclass(frozen=True)
class Buffer:
    """Activations between instructions: ``width`` columns of "f32", "q15" (integers of 8 or 15 bits, a scale for each
    group of 32) or "i32".

    ``rows`` is "rows" (one per token of the step) or "sampled" (one per drawn token). Buffers with the same ``slot``
    share memory; None means memory of its own.
    """

    name: str
    dtype: str
    width: int
    rows: str
    slot: int | None = None


@dataclass(frozen=True)
class Weight:
    """One matrix [N, K] or vector [N] that the program reads.

    ``sources`` are the checkpoint tensors stacked along N. ``interleave`` 16 means that the two sources, each padded
    with zero rows to a multiple of 16, alternate in blocks of 16 rows. Where ``shape`` is larger than the sources,
    the rest is zero.
    """

    name: str
    shape: tuple[int, ...]
    format: str
    sources: tuple[str, ...]
    interleave: int = 0


@dataclass(frozen=True)
class Instruction:
    """One operator call; buffers and weights by name. ``weights`` maps the role in the operator to the weight."""

    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    weights: Mapping[str, str] = field(default_factory=dict)
    attrs: Mapping[str, Attr] = field(default_factory=dict)


@dataclass(frozen=True)
class KvLayout:
    """What one token keeps in the cache: keys and values [layers, kv_heads, head_dim] each."""

    layers: int
    kv_heads: int
    head_dim: int


@dataclass(frozen=True)
class Program:
    """Instructions in execution order.

    rope_inv_freq: the rotary frequencies, one float32 for each pair of columns that turns, at most head_dim / 2.
    rope_scale: what the cosines and sines are multiplied by.
    """

    instructions: tuple[Instruction, ...]
    buffers: Mapping[str, Buffer]
    weights: Mapping[str, Weight]
    rope_inv_freq: tuple[float, ...]
    rope_scale: float = 1.0

    @property
    def is_final(self) -> bool:
        """Whether every instruction is one that an executor runs (the passes are done)."""
        specs = (spec_of(step.op, len(step.inputs)) for step in self.instructions)
        return all(spec is not None and spec.final for spec in specs)

    @property
    def kv_layout(self) -> KvLayout:
        """Shape of the cache that the attention instructions need."""
        steps = [step.attrs for step in self.instructions if step.op == "attention"]
        if not steps:
            return KvLayout(0, 0, 0)
        return KvLayout(len(steps), int(steps[0]["kv_heads"] or 0), int(steps[0]["head_dim"] or 0))

    @property
    def head(self) -> Instruction:
        """The LM head: the instruction that makes the logits."""
        logits = self.instructions[-1].inputs[0]
        return next(step for step in reversed(self.instructions) if logits in step.outputs)

    @property
    def vocab_size(self) -> int:
        """Columns of the logits."""
        return self.buffers[self.instructions[-1].inputs[0]].width

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; ``from_json`` gives an equal program back."""
        return {
            "instructions": [asdict(step) for step in self.instructions],
            "buffers": [asdict(buffer) for buffer in self.buffers.values()],
            "weights": [asdict(weight) for weight in self.weights.values()],
            "rope_inv_freq": list(self.rope_inv_freq),
            "rope_scale": self.rope_scale,
        }

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Program:
        """Read what ``to_json`` wrote, also after a trip through text; ``validate`` says whether it fits together.
        Raises ArtifactError for unknown or missing entries."""
        _check_keys("program", data, {item.name for item in fields(Program)})
        buffers = [_read_buffer(item) for item in _entries(data, "buffers", Mapping)]
        weights = [_read_weight(item) for item in _entries(data, "weights", Mapping)]
        program = Program(
            instructions=tuple(_read_instruction(item) for item in _entries(data, "instructions", Mapping)),
            buffers={buffer.name: buffer for buffer in buffers},
            weights={weight.name: weight for weight in weights},
            rope_inv_freq=tuple(float(value) for value in _entries(data, "rope_inv_freq", (int, float))),
            rope_scale=float(_scalar(data, "rope_scale", (int, float), "program")),
        )
        if len(program.buffers) != len(buffers) or len(program.weights) != len(weights):
            raise ArtifactError("program: two buffers or two weights share one name")
        return program

    def dumps(self) -> str:
        """JSON text with one instruction, buffer or weight per line."""
        data = self.to_json()
        parts = []
        for key, value in data.items():
            if key in ("rope_inv_freq", "rope_scale"):
                parts.append(f'"{key}": {json.dumps(value)}')
            else:
                items = ",\n".join("  " + json.dumps(item) for item in value)
                parts.append(f'"{key}": [\n{items}\n ]')
        return "{\n " + ",\n ".join(parts) + "\n}\n"

    @staticmethod
    def loads(text: bytes | str) -> Program:
        """Read JSON text. Raises ArtifactError when it is not JSON or not a program."""
        return Program.from_json(ARTIFACT_JSON.parse(text, "program"))

    def format(self) -> str:
        """One line per instruction, for people."""
        slots = {buffer.slot for buffer in self.buffers.values() if buffer.slot is not None}
        shared = f" in {len(slots)} slots" if slots else ""
        buffers = f"{len(self.buffers)} buffers{shared}"
        head = f"{len(self.instructions)} instructions, {buffers}, {len(self.weights)} weights"
        width = max((len(", ".join(map(self._buffer, step.outputs))) for step in self.instructions), default=0)
        return "\n".join([head, *(self._line(step, width) for step in self.instructions)])

    def _buffer(self, name: str) -> str:
        if name == INPUT:
            return name
        buffer = self.buffers[name]
        mark = "'" if buffer.rows == "sampled" else ""
        return f"{name}{mark}:{buffer.dtype}[{buffer.width}]"

    def _line(self, step: Instruction, width: int) -> str:
        outputs = ", ".join(map(self._buffer, step.outputs))
        arrow = "+=" if step.attrs.get("epilogue") == "add" else "="
        words = [f"  {outputs:<{width}} {arrow:<2} {step.op}({', '.join(step.inputs)})"]
        for role, name in step.weights.items():
            weight = self.weights[name]
            words.append(f"{role}={name} {weight.format}{list(weight.shape)}")
        words += [f"{key}={value}" for key, value in step.attrs.items() if value is not None and value != "store"]
        return "  ".join(words)


def _check_keys(what: str, data: object, known: set[str]) -> None:
    if not isinstance(data, Mapping):
        raise ArtifactError(f"{what}: expected a JSON object; compile again")
    for key in data:
        if key not in known:
            raise ArtifactError(f"{what}: unknown key '{key}'{did_you_mean(str(key), known)}; compile again")
    for key in sorted(known - set(data)):
        raise ArtifactError(f"{what}: key '{key}' is missing; compile again")


def _entries(data: Mapping[str, Any], key: str, kind: type | tuple[type, ...], what: str = "program") -> list[Any]:
    values = data[key]
    if not isinstance(values, (list, tuple)) or any(not isinstance(value, kind) for value in values):
        raise ArtifactError(f"{what}: '{key}' is not the expected list; compile again")
    return list(values)


def _scalar(data: Mapping[str, Any], key: str, kind: type | tuple[type, ...], what: str) -> Any:
    if not isinstance(data[key], kind) or isinstance(data[key], bool):
        raise ArtifactError(f"{what}: '{key}' has the wrong type; compile again")
    return data[key]


def _read_buffer(data: Mapping[str, Any]) -> Buffer:
    what = "program buffer"
    _check_keys(what, data, {item.name for item in fields(Buffer)})
    name, dtype, rows = (_scalar(data, key, str, what) for key in ("name", "dtype", "rows"))
    return Buffer(name, dtype, _scalar(data, "width", int, what), rows, _scalar(data, "slot", (int, type(None)), what))


def _read_weight(data: Mapping[str, Any]) -> Weight:
    what = "program weight"
    _check_keys(what, data, {item.name for item in fields(Weight)})
    name, form = (_scalar(data, key, str, what) for key in ("name", "format"))
    shape, sources = tuple(_entries(data, "shape", int, what)), tuple(_entries(data, "sources", str, what))
    return Weight(name, shape, form, sources, _scalar(data, "interleave", int, what))


def _read_instruction(data: Mapping[str, Any]) -> Instruction:
    what = "program instruction"
    _check_keys(what, data, {item.name for item in fields(Instruction)})
    inputs, outputs = (tuple(_entries(data, key, str, what)) for key in ("inputs", "outputs"))
    weights, attrs = (_scalar(data, key, Mapping, what) for key in ("weights", "attrs"))
    if not all(isinstance(name, str) for name in weights.values()):
        raise ArtifactError(f"{what}: 'weights' names something that is no weight; compile again")
    return Instruction(_scalar(data, "op", str, what), inputs, outputs, dict(weights), dict(attrs))
