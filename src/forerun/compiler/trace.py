"""Model description -> traced program: one instruction per operator call, nothing merged, all weights float32."""

from __future__ import annotations

from forerun.checkpoint.base import ModelConfig
from forerun.compiler.opset import INPUT
from forerun.compiler.program import Attr, Buffer, Instruction, Program, Weight
from forerun.compiler.validate import validate
from forerun.models.ops import Value
from forerun.models.registry import model_for
from forerun.models.rope import inverse_frequencies

MAX_K_SPLITS = 8


def k_splits(role: str, k: int) -> int:
    """Segments the sum over ``k`` inputs is cut into: the largest power of two within min(8, k / 128) for a "row"
    linear, so that ranks which own whole segments add up in the same order; 1 for every other linear."""
    splits = 1
    while role == "row" and splits < MAX_K_SPLITS and splits * 2 * 128 <= k:
        splits *= 2
    return splits


def trace(config: ModelConfig, length: int = 0) -> Program:
    """Record the decoder of ``config`` for sequences of up to ``length`` tokens (0: what the model was made for).

    Raises CheckpointError when no description covers it.
    """
    tracer = Tracer()
    model_for(config)(tracer, config)
    frequencies = tuple(float(value) for value in inverse_frequencies(config, length))
    return tracer.program(frequencies, config.rope_scaling.attention_factor if config.rope_scaling else 1.0)


class Tracer:
    """The ``Ops`` that write each call down."""

    def __init__(self) -> None:
        self._buffers = {INPUT: Buffer(INPUT, "i32", 1, "rows")}
        self._weights: dict[str, Weight] = {}
        self._steps: list[Instruction] = []

    def program(self, rope_inv_freq: tuple[float, ...], rope_scale: float = 1.0) -> Program:
        """What was recorded, validated."""
        program = Program(tuple(self._steps), dict(self._buffers), dict(self._weights), rope_inv_freq, rope_scale)
        validate(program)
        return program

    def embedding(self, weight: str, vocab_size: int, width: int) -> Value:
        table = self._weight(weight, (vocab_size, width))
        return self._record("embedding", (Value(INPUT, 1),), "x", width, weights={"table": table})

    def rms_norm(self, x: Value, weight: str, eps: float) -> Value:
        scale = self._weight(weight, (x.width,))
        return self._record("rms_norm", (x,), _short(weight), x.width, weights={"weight": scale}, attrs={"eps": eps})

    def rms_norm_heads(self, x: Value, weight: str, head_dim: int, eps: float) -> Value:
        scale = self._weight(weight, (head_dim,))
        attrs: dict[str, Attr] = {"eps": eps, "head_dim": head_dim}
        return self._record("rms_norm_heads", (x,), _short(weight), x.width, weights={"weight": scale}, attrs=attrs)

    def linear(self, x: Value, weight: str, width: int, *, bias: str | None = None, role: str = "column") -> Value:
        weights = {"weight": self._weight(weight, (width, x.width))}
        if bias is not None:
            weights["bias"] = self._weight(bias, (width,))
        attrs: dict[str, Attr] = {"role": role, "k_splits": k_splits(role, x.width), "epilogue": "store", "column": 0}
        is_head = self._buffers[x.name].rows == "sampled"
        return self._record(
            "linear", (x,), "logits" if is_head else _short(weight), width, weights=weights, attrs=attrs
        )

    def rope(self, x: Value, head_dim: int) -> Value:
        return self._record("rope", (x,), f"{x.name}_rope", x.width, attrs={"head_dim": head_dim})

    def attention(
        self, q: Value, k: Value, v: Value, *, layer: int, head_dim: int, scale: float, window: int | None
    ) -> Value:
        attrs: dict[str, Attr] = {
            "layer": layer,
            "heads": q.width // head_dim,
            "kv_heads": k.width // head_dim,
            "head_dim": head_dim,
            "scale": scale,
            "window": window,
        }
        return self._record("attention", (q, k, v), f"l{layer}.attn", q.width, attrs=attrs)

    def silu_mul(self, gate: Value, up: Value) -> Value:
        return self._record("silu_mul", (gate, up), f"{_layer(gate.name)}act", gate.width)

    def add(self, x: Value, y: Value) -> Value:
        return self._record("add", (x, y), f"{_layer(y.name)}x", x.width)

    def select_rows(self, x: Value) -> Value:
        return self._record("select_rows", (x,), "last", x.width, rows="sampled")

    def sample(self, logits: Value) -> Value:
        return self._record("sample", (logits,), "tokens", 1, dtype="i32")

    def _weight(self, name: str, shape: tuple[int, ...]) -> str:
        known = self._weights.setdefault(name, Weight(name, shape, "float32", (name,)))
        if known.shape != shape:
            raise ValueError(f"weight {name} is used as {known.shape} and as {shape}")
        return name

    def _record(
        self,
        op: str,
        inputs: tuple[Value, ...],
        name: str,
        width: int,
        *,
        weights: dict[str, str] | None = None,
        attrs: dict[str, Attr] | None = None,
        dtype: str = "f32",
        rows: str | None = None,
    ) -> Value:
        unique, count = name, 2
        while unique in self._buffers:
            unique, count = f"{name}{count}", count + 1
        rows = rows or self._buffers[inputs[0].name].rows
        self._buffers[unique] = Buffer(unique, dtype, width, rows)
        names = tuple(value.name for value in inputs)
        self._steps.append(Instruction(op, names, (unique,), weights or {}, attrs or {}))
        return Value(unique, width)


def _short(weight: str) -> str:
    """Buffer name for what comes out of a weight: "model.layers.3.self_attn.q_proj.weight" -> "l3.q_proj"."""
    parts = weight.split(".")
    layer = f"l{parts[parts.index('layers') + 1]}." if "layers" in parts else ""
    return layer + parts[-2]


def _layer(name: str) -> str:
    """The layer part of a buffer name: "l3.q_proj" -> "l3."."""
    head, dot, _ = name.partition(".")
    return head + dot if dot else ""
