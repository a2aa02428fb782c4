"""From source tensors to stored bytes: lossless where the format allows it, close where not, refused when broken."""

from __future__ import annotations

import io
import json
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from forerun.checkpoint.base import Checkpoint, QuantGrid
from forerun.checkpoint.gguf_types import BLOCKS, FLOAT_KINDS
from forerun.checkpoint.safetensors_file import open_safetensors
from forerun.compiler.assemble import assemble
from forerun.compiler.compile import plan_compile
from forerun.compiler.formats import FITTED_FORMATS, FLOAT_FORMATS
from forerun.compiler.pack import packed_bytes, unpack
from forerun.compiler.program import Weight
from forerun.compiler.weights import SCALES, store_weight, stored_sizes
from forerun.compiler.weights_file import ALIGNMENT, WeightsFile
from forerun.config import NeuronConfig
from forerun.errors import CheckpointError
from tests.support.block_tensors import block_checkpoint, block_tensor

NAME = "m.weight"


def one(kind: str, form: str, shape: tuple[int, int] = (40, 256)) -> tuple[Weight, Checkpoint]:
    """A checkpoint of one matrix."""
    base = block_checkpoint({})
    tensors = {NAME: block_tensor(NAME, kind, shape, 3)}
    return Weight(NAME, shape, form, (NAME,)), replace(base, tensors=tensors)


def values(weight: Weight, checkpoint: Checkpoint) -> tuple[np.ndarray, bool]:
    """What the stored integers stand for, and whether they are said to be exact."""
    stored = store_weight(weight, checkpoint)
    assert {name: (array.dtype.char, array.size) for name, array in stored.tensors.items()} == {
        name: ({"U8": "B", "F32": "f"}[kind], count) for name, (kind, count) in stored_sizes(weight).items()
    }
    scales = stored.tensors.get(weight.name + SCALES)
    data = stored.tensors[weight.name]
    return unpack(data, weight.format, weight.shape, scales).float32(), stored.exact  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("kind", "form"),
    [
        ("Q4_0", "int4_f16"), ("Q4_0", "int4_f16_min"), ("Q4_0", "int5_f16"), ("Q4_0", "int8_f16"),
        ("Q4_1", "int4_f16_min"), ("Q4_1", "int5_f16_min"), ("Q5_0", "int5_f16"), ("Q5_1", "int5_f16_min"),
        ("Q2_K", "q2_k"), ("Q3_K", "q3_k"), ("Q4_K", "q4_k"), ("Q5_K", "q5_k"), ("Q6_K", "q6_k"),
        ("IQ4_NL", "iq4_nl"), ("IQ4_XS", "iq4_xs"), ("IQ4_NL", "int8_f16"), ("Q5_0", "int8_f16"), ("Q8_0", "int8_f16"),
    ],
)  # fmt: skip
def test_stored_grids_are_kept(kind: str, form: str) -> None:
    weight, checkpoint = one(kind, form)
    found, exact = values(weight, checkpoint)
    assert exact and np.allclose(found, checkpoint.tensors[NAME].load(), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    ("kind", "form"),
    [
        ("Q4_1", "int4_f16"), ("Q4_K", "int4_f16_min"), ("Q6_K", "int8_f16"), ("Q5_K", "int8_f16"),
        ("Q2_K", "int8_f16"), ("Q3_K", "int8_f16"), ("IQ4_XS", "int8_f16"), ("Q4_0", "int8_channel"),
    ],
)  # fmt: skip
def test_other_grids_are_converted_and_said_so(kind: str, form: str) -> None:
    weight, checkpoint = one(kind, form)
    found, exact = values(weight, checkpoint)
    source = checkpoint.tensors[NAME].load()
    assert not exact
    assert np.abs(found - source).max() < np.ptp(source) / (10 if form.startswith("int4") else 128)


@pytest.mark.parametrize("kind", [kind for kind in BLOCKS if kind not in FLOAT_KINDS])
def test_merged_matrices_keep_the_numbers_of_their_type(kind: str) -> None:
    """q, k and v stacked, gate and up interleaved: every row is the file's, and nothing grows by more than 3 %."""
    checkpoint = block_checkpoint({}, kind)
    program = plan_compile(checkpoint, NeuronConfig.from_dict({"seq_len": 64})).program
    for weight in (w for w in program.weights.values() if len(w.sources) > 1):
        found, exact = values(weight, checkpoint)
        source = assemble(weight, lambda name: checkpoint.tensors[name].load())
        assert exact and np.allclose(found, source, rtol=1e-6, atol=1e-7)
        size = sum(checkpoint.tensors[name].nbytes for name in weight.sources)
        assert size <= stored_sizes(weight)[weight.name][1] <= 1.03 * size


@pytest.mark.parametrize("form", FLOAT_FORMATS + FITTED_FORMATS)
def test_interleaved_gate_and_up_of_odd_size(form: str) -> None:
    """Rows alternate in sixteens, the shorter rest is padded with rows of zero."""
    tensors = {n: block_tensor(n, "F32", (24, 40), seed) for seed, n in enumerate(("gate", "up"))}
    weight = Weight("both", (64, 40), form, ("gate", "up"), interleave=16)
    checkpoint = replace(block_checkpoint({}), tensors=tensors)
    stored = store_weight(weight, checkpoint)
    if form in ("float32", "bfloat16"):
        assert stored.tensors["both"].nbytes == packed_bytes(form, weight.shape)
        return
    found, _ = values(weight, checkpoint)
    gate, up = tensors["gate"].load(), tensors["up"].load()
    assert np.allclose(found[:16], gate[:16], atol=0.05) and np.allclose(found[16:32], up[:16], atol=0.05)
    assert np.allclose(found[32:40], gate[16:], atol=0.05) and np.allclose(found[48:56], up[16:], atol=0.05)
    assert not found[40:48].any() and not found[56:].any()


def test_vectors_are_padded_with_zeros() -> None:
    checkpoint = block_checkpoint({})
    weight = Weight("n", (100,), "float32", ("n",))
    tensor = block_tensor("n", "F32", (100,))
    stored = store_weight(weight, replace(checkpoint, tensors={"n": tensor}))
    assert stored.tensors["n"].shape == (128,) and not stored.tensors["n"][100:].any()
    assert np.array_equal(stored.tensors["n"][:100], tensor.load()) and stored.exact


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("form", ["float32", "bfloat16", "int8_f16", "int8_channel"])
def test_values_that_are_no_numbers_are_refused(bad: float, form: str) -> None:
    weight, checkpoint = one("F32", form)
    broken = checkpoint.tensors[NAME].load().copy()
    broken[3, 5:7] = bad
    tensor = replace(checkpoint.tensors[NAME], load=lambda: broken)
    with pytest.raises(CheckpointError, match=r"'m\.weight' holds 2 values that are NaN or infinite"):
        store_weight(weight, replace(checkpoint, tensors={NAME: tensor}))


def test_grids_with_broken_scales_are_refused() -> None:
    weight, checkpoint = one("Q4_0", "int4_f16")
    grid = checkpoint.tensors[NAME].load_grid()
    assert grid is not None
    broken = QuantGrid(grid.bits, grid.group, grid.q, grid.scale * np.float32(np.nan), grid.minimum)
    tensor = replace(checkpoint.tensors[NAME], load_grid=lambda: broken)
    with pytest.raises(CheckpointError, match="scales that are NaN or infinite"):
        store_weight(weight, replace(checkpoint, tensors={NAME: tensor}))


def test_the_weights_file_is_safetensors_in_page_alignment(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    file = WeightsFile(path, {"a": ("U8", 128), "b": ("F32", 64)})
    a, b = np.arange(128, dtype=np.uint8), np.linspace(0, 1, 64, dtype=np.float32)
    file.write("a", a)
    file.write("b", b)
    file.close()
    opened = open_safetensors(path)
    assert opened.header_bytes % ALIGNMENT == 0 and path.stat().st_size == file.bytes
    assert bytes(opened.content[opened.entries["a"].start : opened.entries["a"].end]) == a.tobytes()
    assert np.array_equal(opened.tensor("b").load(), b)
    (length,) = struct.unpack("<Q", path.read_bytes()[:8])
    assert list(json.load(io.BytesIO(path.read_bytes()[8 : 8 + length]))) == ["a", "b"]


def test_the_weights_file_takes_only_what_its_header_promises(tmp_path: Path) -> None:
    file = WeightsFile(tmp_path / "w", {"a": ("U8", 64), "b": ("U8", 64)})
    with pytest.raises(ValueError, match="b comes when a is due"):
        file.write("b", np.zeros(64, np.uint8))
    with pytest.raises(ValueError, match="65 bytes instead of 64"):
        file.write("a", np.zeros(65, np.uint8))
    file.abort()
