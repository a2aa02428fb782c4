"""Which format each matrix gets: by request, by the checkpoint's own bits, and by module."""

from __future__ import annotations

from typing import Any

import pytest

from forerun.checkpoint.base import SourceTensor
from forerun.compiler.compile import plan_compile
from forerun.compiler.formats import INT_LAYOUTS
from forerun.config import NeuronConfig
from forerun.errors import ConfigError
from tests.support.block_tensors import block_checkpoint

QKV, O_PROJ = "model.layers.0.self_attn.qkv_proj.weight", "model.layers.0.self_attn.o_proj.weight"


def formats(settings: dict[str, Any], kinds: dict[str, str] | None = None, default: str = "Q4_1") -> dict[str, str]:
    """Format of every matrix, by the sources' last module names ("q_proj+k_proj+v_proj")."""
    checkpoint = block_checkpoint(kinds or {}, default)
    plan = plan_compile(checkpoint, NeuronConfig.from_dict({"seq_len": 64, **settings}))
    return {
        "+".join(source.split(".")[-2] for source in weight.sources): weight.format
        for weight in plan.program.weights.values()
        if len(weight.shape) == 2
    }


LAYER = ("q_proj+k_proj+v_proj", "o_proj", "gate_proj+up_proj", "down_proj")


@pytest.mark.parametrize(
    ("kind", "form"),
    [
        ("F32", "float32"), ("F16", "bfloat16"), ("BF16", "bfloat16"), ("Q4_0", "int4_f16"), ("Q4_1", "int4_f16_min"),
        ("Q5_0", "int5_f16"), ("Q5_1", "int5_f16_min"), ("Q8_0", "int8_f16"), ("Q2_K", "q2_k"), ("Q3_K", "q3_k"),
        ("Q4_K", "q4_k"), ("Q5_K", "q5_k"), ("Q6_K", "q6_k"), ("IQ4_NL", "iq4_nl"), ("IQ4_XS", "iq4_xs"),
    ],
)  # fmt: skip
def test_the_default_follows_the_checkpoint(kind: str, form: str) -> None:
    assert set(formats({}, default=kind).values()) == {form}


@pytest.mark.parametrize(
    ("settings", "layers", "embedding", "head"),
    [
        ({"torch_dtype": "bfloat16"}, "bfloat16", "bfloat16", "bfloat16"),
        ({"torch_dtype": "float32"}, "float32", "float32", "float32"),
        ({"quantized": True}, "int8_f16", "int8_f16", "int8_f16"),
        ({"quantized": True, "quantization_type": "per_channel_symmetric"}, "int8_channel", "int8_f16", "int8_f16"),
        ({"quantized": True, "quantization_type": "per_tensor_symmetric"}, "int8_channel", "int8_f16", "int8_f16"),
        ({"quantized": True, "quantization_dtype": "int4"}, "int4_f16_min", "int8_f16", "int8_f16"),
    ],
)
def test_what_is_asked_for(settings: dict[str, Any], layers: str, embedding: str, head: str) -> None:
    found = formats(settings, default="BF16")
    assert {found[name] for name in LAYER} == {layers}
    assert (found["embed_tokens"], found["lm_head"]) == (embedding, head)


@pytest.mark.parametrize(
    ("q", "k", "v", "parts"),
    [
        ("Q4_0", "Q4_0", "Q4_1", {"q_proj+k_proj": "int4_f16", "v_proj": "int4_f16_min"}),
        ("Q4_K", "Q4_K", "Q6_K", {"q_proj+k_proj": "q4_k", "v_proj": "q6_k"}),
        ("Q4_0", "Q6_K", "Q6_K", {"q_proj": "int4_f16", "k_proj+v_proj": "q6_k"}),
        ("Q4_K", "Q5_K", "Q4_K", {"q_proj": "q4_k", "k_proj": "q5_k", "v_proj": "q4_k"}),
        ("Q8_0", "Q8_0", "BF16", {"q_proj+k_proj": "int8_f16", "v_proj": "bfloat16"}),
        ("BF16", "F16", "F32", {"q_proj+k_proj": "bfloat16", "v_proj": "float32"}),
    ],
)
def test_only_neighbours_of_one_format_are_merged(q: str, k: str, v: str, parts: dict[str, str]) -> None:
    found = formats({}, {"q_proj": q, "k_proj": k, "v_proj": v})
    assert {name: form for name, form in found.items() if name[:2] in ("q_", "k_", "v_")} == parts
    assert found["o_proj"] == "int4_f16_min"  # not touched by its neighbours


def test_gate_and_up_of_different_formats_stay_apart() -> None:
    found = formats({}, {"gate_proj": "Q4_K", "up_proj": "Q6_K"})
    assert found["gate_proj"] == "q4_k" and found["up_proj"] == "q6_k"


def test_int4_keeps_four_bit_grids_and_converts_the_rest() -> None:
    found = formats({"quantized": True, "quantization_dtype": "int4"}, {"o_proj": "Q4_0", "down_proj": "Q6_K"}, "Q4_K")
    assert found["o_proj"] == "int4_f16" and found["down_proj"] == "int4_f16_min"
    assert found["gate_proj+up_proj"] == "q4_k"


@pytest.mark.parametrize(
    ("entry", "kept"),
    [
        ("lm_head", {"lm_head"}),
        ("o_proj", {"o_proj"}),
        ("k_proj", {"k_proj"}),
        ("mlp", {"gate_proj+up_proj", "down_proj"}),
        ("model.layers.0.mlp.down_proj", {"down_proj"}),
        ("model.layers.0", set(LAYER)),
        ("embed_tokens", {"embed_tokens"}),
    ],
)
def test_modules_that_are_not_converted(entry: str, kept: set[str]) -> None:
    settings = {"quantized": True, "torch_dtype": "bfloat16", "modules_to_not_convert": [entry]}
    found = formats(settings, default="BF16")
    assert {name for name, form in found.items() if form == "bfloat16"} == kept


def test_kept_modules_follow_the_checkpoint_when_no_type_is_given() -> None:
    found = formats({"quantized": True, "modules_to_not_convert": ["o_proj"]}, {"o_proj": "F32"}, "BF16")
    assert found["o_proj"] == "float32" and found["down_proj"] == "int8_f16"


@pytest.mark.parametrize(("entry", "hint"), [("down_porj", "down_proj"), ("lmhead", "lm_head"), ("o_pro", "o_proj")])
def test_unknown_modules_are_refused_with_the_nearest_name(entry: str, hint: str) -> None:
    with pytest.raises(ConfigError) as refused:
        formats({"quantized": True, "modules_to_not_convert": ["lm_head", entry]})
    message = str(refused.value)
    assert f"'{entry}'" in message and f"did you mean '{hint}'" in message and "\n" not in message


def test_modules_match_whole_names_only() -> None:
    with pytest.raises(ConfigError, match="no module"):
        formats({"quantized": True, "modules_to_not_convert": ["proj"]})


def test_an_unknown_type_is_kept_in_float32() -> None:
    checkpoint = block_checkpoint({})
    name = "model.layers.0.self_attn.o_proj.weight"
    tensors = dict(checkpoint.tensors)
    tensors[name] = SourceTensor(name, tensors[name].shape, "q9_9", tensors[name].load)
    from dataclasses import replace

    plan = plan_compile(replace(checkpoint, tensors=tensors), NeuronConfig.from_dict({"seq_len": 64}))
    assert plan.program.weights[name].format == "float32" and "float32" not in INT_LAYOUTS
