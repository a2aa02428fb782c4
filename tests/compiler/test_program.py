"""Programs: JSON round trip, refusals, and how they print."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable
from typing import Any

import pytest

from forerun.compiler.program import Program
from forerun.compiler.trace import trace
from forerun.compiler.validate import validate
from forerun.errors import ArtifactError
from tests.support.reference_models import tiny_model

MODEL = tiny_model("qwen3")
FINAL = MODEL.program("int8_f16")
Json = dict[str, Any]


@pytest.mark.parametrize("program", [trace(MODEL.config), MODEL.program(), FINAL], ids=["traced", "float", "int8"])
def test_json_round_trip_is_exact(program: Program) -> None:
    assert Program.loads(program.dumps()) == program
    assert Program.loads(json.dumps(program.to_json())) == program


def _first(data: Json, op: str) -> Json:
    found: Json = next(step for step in data["instructions"] if step["op"] == op)
    return found


def _rename_weight(data: Json) -> None:
    _first(data, "linear")["weights"]["weight"] = "nowhere"


def _shrink(data: Json) -> None:
    next(item for item in data["buffers"] if item["name"] == "l0.qkv")["width"] -= 2


def _drop_norms(data: Json) -> None:
    _first(data, "rope_kv")["weights"] = {}


def _float_weight(data: Json) -> None:
    next(item for item in data["weights"] if item["name"].endswith("qkv_proj.weight"))["format"] = "float32"


def _unknown_format(data: Json) -> None:
    data["weights"][0]["format"] = "int3"


def _buffer(data: Json, name: str) -> Json:
    found: Json = next(item for item in data["buffers"] if item["name"] == name)
    return found


def _short_table(data: Json) -> None:
    name = _first(data, "embed")["weights"]["table"]
    next(item for item in data["weights"] if item["name"] == name)["shape"][0] -= 1


def _share_with_the_residual(data: Json) -> None:
    _buffer(data, "l0.qkv")["slot"] = _buffer(data, "x")["slot"]


def _attend_to_sampled_rows(data: Json) -> None:
    steps = data["instructions"]
    last = max(index for index, step in enumerate(steps) if step["op"] == "attention")
    for name in steps[last]["inputs"] + steps[last]["outputs"]:
        _buffer(data, name)["rows"] = "sampled"


EDITS: dict[str, tuple[Callable[[Json], Any], str]] = {
    "unknown program key": (lambda d: d.update(bufers=[]), "unknown key 'bufers'.*did you mean 'buffers'"),
    "missing program key": (lambda d: d.pop("weights"), "key 'weights' is missing"),
    "unknown entry key": (lambda d: d["buffers"][0].update(color=1), "unknown key 'color'"),
    "wrong type": (lambda d: d["buffers"][1].update(width="9"), "'width' has the wrong type"),
    "not a list": (lambda d: d.update(instructions={}), "'instructions' is not the expected list"),
    "unknown instruction": (lambda d: _first(d, "norm_quant").update(op="nrom"), "no such instruction"),
    "undefined input": (lambda d: d["instructions"].pop(0), "reads 'x' before anything writes it"),
    "unknown buffer": (lambda d: _first(d, "quantize").update(outputs=["lost"]), "no buffer 'lost'"),
    "unknown weight": (_rename_weight, "no weight 'nowhere'"),
    "missing weight": (lambda d: _first(d, "linear")["weights"].pop("weight"), "weight 'weight' is missing"),
    "missing attribute": (lambda d: _first(d, "attention")["attrs"].pop("window"), "attributes are"),
    "missing threshold": (lambda d: _first(d, "norm_quant")["attrs"].pop("fine_above"), "attributes are"),
    "threshold type": (
        lambda d: _first(d, "quantize")["attrs"].update(fine_above="2"),
        "fine_above = '2' has the wrong",
    ),
    "attribute type": (lambda d: _first(d, "attention")["attrs"].update(layer="0"), "layer = '0' has the wrong type"),
    "widths": (_shrink, "does not fit|expected"),
    "k_splits": (lambda d: _first(d, "linear")["attrs"].update(k_splits=3), "k_splits 3"),
    "epilogue": (lambda d: _first(d, "linear")["attrs"].update(epilogue="mul"), "unknown epilogue"),
    "silu_mul needs interleaved rows": (
        lambda d: _first(d, "linear")["attrs"].update(epilogue="silu_mul"),
        "interleaved weights and the silu_mul epilogue",
    ),
    "head norms": (_drop_norms, "q_norm, k_norm and the attribute qk_norm"),
    "format": (_unknown_format, "unknown format 'int3'"),
    "dtype": (_float_weight, "a float32 weight cannot read q15"),
    "layers": (lambda d: _first(d, "attention")["attrs"].update(layer=1), "numbered 0, 1, 2"),
    "layers of keys": (lambda d: _first(d, "rope_kv")["attrs"].update(layer=1), "rope_kv layers must be numbered"),
    "a table shorter than the vocabulary": (_short_table, "shorter than the 297 logits"),
    "memory that is in use": (_share_with_the_residual, "reads 'x', whose memory holds 'l0.qkv'"),
    "rows": (_attend_to_sampled_rows, "mixes 'rows' and 'sampled'|works on 'rows'"),
    "a weight that is no name": (lambda d: _first(d, "linear")["weights"].update(weight=["w"]), "that is no weight"),
    "a huge attribute": (lambda d: _first(d, "attention")["attrs"].update(window=2**40), "window = .* out of range"),
    "an attribute below 0": (lambda d: _first(d, "rope_kv")["attrs"].update(scale=-1.0), "scale = .* out of range"),
    "no number": (lambda d: _first(d, "norm_quant")["attrs"].update(eps=math.nan), "eps = nan is out of range"),
    "a huge width": (lambda d: d["buffers"][1].update(width=2**40), "bad entry"),
    "a huge weight": (lambda d: d["weights"][0].update(shape=[2**31, 88]), "bad shape"),
    "interleave": (lambda d: d["weights"][0].update(interleave=7), "interleave"),
    "last": (lambda d: d["instructions"].pop(), "last instruction must be 'sample'"),
    "frequencies": (lambda d: d["rope_inv_freq"].append(1.0), "rotary frequencies"),
    "no frequency": (lambda d: d["rope_inv_freq"].clear(), "rotary frequencies"),
    "rope scale": (lambda d: d.update(rope_scale=float("nan")), "rope_scale nan must be a positive number"),
    "duplicate": (lambda d: d["buffers"].append(d["buffers"][0]), "share one name"),
}


@pytest.mark.parametrize("name", EDITS)
def test_damaged_programs_are_refused_in_one_line(name: str) -> None:
    edit, message = EDITS[name]
    data = copy.deepcopy(json.loads(FINAL.dumps()))
    edit(data)
    with pytest.raises(ArtifactError, match=message) as caught:
        validate(Program.from_json(data))
    assert "\n" not in str(caught.value)


def test_text_that_is_not_json_is_refused() -> None:
    with pytest.raises(ArtifactError, match="not valid JSON"):
        Program.loads("{")
    with pytest.raises(ArtifactError, match="expected a JSON object"):
        Program.loads("[]")


def test_it_prints_one_line_per_instruction() -> None:
    head, *lines = FINAL.format().splitlines()
    assert head.startswith(f"{len(FINAL.instructions)} instructions")
    assert len(lines) == len(FINAL.instructions)
    o_proj = next(line for line in lines if "o_proj" in line)
    assert "+= linear(l0.attn_q15)" in o_proj and "int8_f16[88, 128]" in o_proj and "role=row" in o_proj
    norm, quantize = (next(line for line in lines if f" {op}(" in line) for op in ("norm_quant", "quantize"))
    assert "l0.input_layernorm:q15[88]" in norm and "fine_above=2.0" in norm
    assert "l0.attn_q15:q15[128]" in quantize and "fine_above=2.0" in quantize
