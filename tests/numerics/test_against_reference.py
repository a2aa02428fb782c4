"""Every instruction set gives the bits of the NumPy reference: all formats, families and cache types."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from forerun import _native
from forerun.compiler.formats import FORMATS
from forerun.compiler.lower import lower
from forerun.compiler.program import Program
from forerun.compiler.trace import trace
from forerun.runtime.native import NativeExecutor, NativeOptions
from forerun.runtime.reference import ReferenceExecutor
from tests.numerics.conftest import SHAPES, MakeModel, random_ids
from tests.numerics.ways import alone, assert_same, together
from tests.support.native_models import packed_weights
from tests.support.reference_models import TinyModel, tiny_model, weights_of

ISAS = _native.testable_isas()
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}


@pytest.mark.parametrize("family", SHAPES)
@pytest.mark.parametrize("form", FORMATS)
def test_native_is_the_reference(family: str, form: str, packed_model: MakeModel) -> None:
    model, ids = packed_model(family, form), random_ids(33)
    kv_dtype = "int8" if (list(SHAPES).index(family) + FORMATS.index(form)) % 2 else "bfloat16"
    expected = alone(model.reference(kv_dtype=kv_dtype), ids)
    for isa in ISAS:
        executor = model.native(isa=isa, threads=2, kv_dtype=kv_dtype)
        assert_same(alone(executor, ids), expected, f"{isa}, {kv_dtype} cache")
        executor.close()


def test_the_portable_kernels_are_always_there(packed_model: MakeModel) -> None:
    assert ISAS[0] == "portable"
    with pytest.raises(ValueError, match="mmx"):
        packed_model("llama", "float32").native(isa="mmx")


@pytest.mark.parametrize("kv_dtype", ["bfloat16", "int8"])
def test_formats_mixed_in_one_model(kv_dtype: str) -> None:
    """Embedding, head and layers of different formats: float and integer linears read the same norms."""
    model = tiny_model("qwen3", seed=4)
    by_role = {"embed": "int8_f16", "head": "int8_channel", "column": "int4_f16_min", "row": "bfloat16"}
    program = lower(
        trace(model.config), lambda name, shape, role: "float32" if "layers.0.mlp" in name else by_role[role]
    )
    weights = weights_of(program, model.tensors)
    ids = random_ids(21)
    reference = ReferenceExecutor(program, weights, num_blocks=8, block_size=16, kv_dtype=kv_dtype)
    expected = alone(reference, ids)
    options = NativeOptions(num_blocks=8, block_size=16, max_model_len=128, kv_dtype=kv_dtype, threads=2)
    assert_same(alone(NativeExecutor(program, packed_weights(program, weights), options), ids), expected)


PARTS = [
    {"q_proj": "q4_k", "k_proj": "q4_k", "v_proj": "q6_k", "down_proj": "q6_k"},  # as in Q4_K_M files
    {"q_proj": "q3_k", "k_proj": "int5_f16", "v_proj": "bfloat16", "gate_proj": "iq4_xs", "up_proj": "q5_k"},
    {"q_proj": "int8_channel", "k_proj": "int8_f16", "gate_proj": "float32", "up_proj": "q2_k"},
]


@pytest.mark.parametrize("parts", PARTS)
@pytest.mark.parametrize(("family", "head_dim"), [("qwen2", 16), ("llama", 20)])
def test_matrices_of_one_input_in_different_formats(parts: dict[str, str], family: str, head_dim: int) -> None:
    """q, k and v fill one buffer from several matrices (one of float32 where a part would end within a panel), and up
    is multiplied with the silu of a gate that stands apart."""
    model = tiny_model(family, seed=4, head_dim=head_dim, intermediate_size=90, num_hidden_layers=1)

    def choose(name: str, shape: tuple[int, ...], role: str) -> str:
        return parts.get(name.split(".")[-2], "q6_k")

    program = lower(trace(model.config), choose)
    weights, ids = weights_of(program, model.tensors), random_ids(21)
    expected = alone(ReferenceExecutor(program, weights, num_blocks=8, block_size=16), ids)
    for isa in ISAS:
        options = NativeOptions(num_blocks=8, block_size=16, max_model_len=128, threads=2, isa=isa)
        executor = NativeExecutor(Program.loads(program.dumps()), packed_weights(program, weights), options)
        assert_same(alone(executor, ids), expected, isa)
        executor.close()


@pytest.mark.parametrize("rotary_dim", [0, 2, 14, 32])
def test_scaled_rotations_of_a_part_of_the_head(rotary_dim: int) -> None:
    """Cosines and sines carry a factor; columns that do not turn keep their bits."""
    model = tiny_model("qwen3", seed=6, head_dim=36, rope_scaling=YARN)
    model = TinyModel(replace(model.config, rotary_dim=rotary_dim), model.tensors)
    program, ids = model.program("int8_f16"), random_ids(40)
    weights = weights_of(program, model.tensors)
    assert program.rope_scale > 1 and len(program.rope_inv_freq) == (rotary_dim or 36) // 2
    expected = alone(ReferenceExecutor(program, weights, num_blocks=8, block_size=16), ids)
    for isa in ISAS:
        options = NativeOptions(num_blocks=8, block_size=16, max_model_len=64, isa=isa)
        executor = NativeExecutor(Program.loads(program.dumps()), packed_weights(program, weights), options)
        assert_same(alone(executor, ids), expected, isa)
        executor.close()


def test_a_batch_on_the_reference_is_the_native_batch(packed_model: MakeModel) -> None:
    """Uneven sequences sharing steps, on both executors."""
    model = packed_model("llama", "int8_f16")
    sequences = [random_ids(n, seed=n) for n in (1, 19, 8)]
    tables = [[5], [3, 9], [0]]
    pieces = [1, 6, 100]
    expected = together(model.reference(), sequences, tables, pieces)
    for trace_, wanted in zip(together(model.native(threads=2), sequences, tables, pieces), expected, strict=True):
        assert_same(trace_, wanted)


def test_extreme_weights_stay_exact(packed_model: MakeModel) -> None:
    """Huge, tiny and zero values: groups that are empty, activations of 15 bits, scales at the ends of float16."""
    model = tiny_model("llama", seed=1)
    rng = np.random.default_rng(5)
    for name, values in model.tensors.items():
        if values.ndim == 2:
            values *= rng.choice([1e-30, 1e-3, 1.0, 40.0], values.shape, p=[0.1, 0.2, 0.6, 0.1]).astype(np.float32)
            values[1::7] = 0
            if "embed" in name:
                values[:, : values.shape[1] // 2] *= np.float32(1e-33)
    ids = random_ids(18)
    for form in FORMATS:
        program = model.program(form)
        weights = weights_of(program, model.tensors)
        expected = alone(ReferenceExecutor(program, weights, num_blocks=4, block_size=16), ids)
        packed = packed_weights(program, weights)
        for isa in ISAS:
            options = NativeOptions(num_blocks=4, block_size=16, max_model_len=64, isa=isa)
            assert_same(alone(NativeExecutor(program, packed, options), ids), expected, f"{form} {isa}")
