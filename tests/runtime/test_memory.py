"""Blocks of the KV cache: the derived number, the limits, and the formula that a refusal shows."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from forerun.compiler.program import KvLayout
from forerun.config import NeuronConfig
from forerun.errors import ConfigError
from forerun.runtime.loader import open_executor
from forerun.runtime.memory import PREFIX_FACTOR, SHARE, VECTORS, KvMemory, MemoryPlan, memory_plan
from forerun.runtime.ranks import RankGroup
from forerun.runtime.weights import map_weights
from tests.support.artifacts import tiny_artifact
from tests.support.native_models import PackedModel
from tests.support.reference_models import tiny_model

LAYOUT = KvLayout(layers=30, kv_heads=3, head_dim=64)


def config(**settings: object) -> NeuronConfig:
    return NeuronConfig.from_dict({"seq_len": 1024, "batch_size": 4, **settings})


def blocks_for(given: NeuronConfig, available: int, weights: int = 0, draft: MemoryPlan | None = None) -> int:
    """The loader's number for the layout above."""
    kv = KvMemory(LAYOUT, given.pa_block_size, given.kv_cache_dtype)
    return MemoryPlan(given, {"bfloat16": weights}, kv, draft).blocks(available)


@pytest.mark.parametrize("head_dim", [16, 20, 64])
@pytest.mark.parametrize("dtype", ["bfloat16", "int8"])
@pytest.mark.parametrize("block_size", [16, 128])
def test_the_bytes_of_a_block_are_those_of_the_native_cache(head_dim: int, dtype: str, block_size: int) -> None:
    model = PackedModel(tiny_model("llama", seed=1, head_dim=head_dim), "bfloat16")
    memory = KvMemory(model.program.kv_layout, block_size, dtype)
    executor = model.native(num_blocks=50, block_size=block_size, kv_dtype=dtype)
    assert 0 <= executor.kv_bytes - 50 * memory.block_bytes < 3 * 4096
    executor.close()


def test_the_formula_is_an_equation() -> None:
    for dtype in ("bfloat16", "int8"):
        memory = KvMemory(LAYOUT, 32, dtype)
        left, right = memory.formula().split(" = ")
        value = eval(re.sub(r"[^0-9+x()]", "", left.replace("(K, V)", "")).replace("x", "*"))
        assert value == memory.block_bytes == int(right.split()[0])


def test_derived_from_what_is_available() -> None:
    block = KvMemory(LAYOUT, 32, "bfloat16").block_bytes
    plenty = 10_000 * block
    assert blocks_for(config(), plenty) == 4 * 32  # the full batch, no more
    prefix = config(is_prefix_caching=True)
    assert blocks_for(prefix, plenty) == 4 * 32 * PREFIX_FACTOR
    assert blocks_for(prefix, 100 * block) == int(100 * SHARE)
    assert blocks_for(config(), 32 * block) == 32  # one sequence always gets all there is


def test_weights_that_are_mapped_take_their_part_of_what_is_available() -> None:
    block = KvMemory(LAYOUT, 32, "bfloat16").block_bytes
    assert blocks_for(config(), 200 * block, weights=100 * block) == int(100 * SHARE)
    assert blocks_for(config(), 200 * block, weights=300 * block) == 32, "one sequence still gets its blocks"
    assert blocks_for(config(pa_num_blocks=150), 200 * block, weights=100 * block) == 150
    draft = MemoryPlan(config(), {"int4": 60 * block}, KvMemory(LAYOUT, 32, "bfloat16"))
    assert blocks_for(config(), 200 * block, weights=40 * block, draft=draft) == int(100 * SHARE) // 2


def test_ranks_share_the_weights_and_keep_whole_kv_heads() -> None:
    program = PackedModel(tiny_model("llama", seed=1), "bfloat16").program
    given, ranks = config(), 3
    whole = memory_plan(program, given)
    layers, dim, hidden = program.kv_layout.layers, program.kv_layout.head_dim, program.buffers["x"].width
    again = layers * 4 * dim * -(-hidden // 64) * 64 * 2  # the middle rank computes keys and values of both KV heads
    parts = [memory_plan(program, given, RankGroup(rank, tuple(range(ranks + 1)))) for rank in range(ranks)]
    for form in whole.weights:
        found = sum(part.weights.get(form, 0) for part in parts)
        assert found == (whole.weights[form] * ranks if form == VECTORS else whole.weights[form] + again)
    assert program.kv_layout.kv_heads == 2
    assert [part.kv.layout.kv_heads for part in parts] == [2, 2, 2], "one for each of the six query heads"


@pytest.mark.parametrize(("form", "degree"), [("int4", 1), ("int8", 1), ("bfloat16", 2)])
def test_the_loader_maps_and_reserves_what_the_plan_says(tmp_path: Path, form: str, degree: int) -> None:
    settings = {"torch_dtype": form} if form == "bfloat16" else {"quantized": True, "quantization_dtype": form}
    artifact = tiny_artifact(tmp_path, **settings, save_sharded_checkpoint=degree > 1, tp_degree=degree)
    plan = memory_plan(artifact.program, artifact.neuron_config)
    mapped = 0
    for weight in map_weights(artifact, artifact.program).values():
        mapped += 0 if weight.vector is None else weight.vector.nbytes
        for shard in weight.shards:
            mapped += shard.data.nbytes + (0 if shard.scales is None else shard.scales.nbytes)
    assert mapped == plan.weight_bytes
    executor = open_executor(artifact)
    assert executor.num_blocks == plan.full_batch_blocks
    assert 0 <= executor.kv_bytes - executor.num_blocks * plan.block_bytes < 3 * 4096
    executor.close()


def test_a_given_number_is_kept() -> None:
    block = KvMemory(LAYOUT, 32, "bfloat16").block_bytes
    assert blocks_for(config(pa_num_blocks=33), 33 * block) == 33
    assert blocks_for(config(pa_num_blocks=5000), 5000 * block) == 5000


@pytest.mark.parametrize("given", [None, 64])
def test_too_little_memory_shows_the_formula(given: int | None) -> None:
    memory = KvMemory(LAYOUT, 32, "bfloat16")
    wanted = given or 32
    with pytest.raises(ConfigError) as refused:
        blocks_for(config(pa_num_blocks=given), 32 * memory.block_bytes - 1)
    message = str(refused.value)
    assert "\n" not in message and memory.formula() in message
    assert f"the KV cache of {wanted} blocks needs {wanted * memory.block_bytes >> 20} MiB" in message
    assert "one sequence of 1024 tokens needs 32 blocks" in message
    assert "2 (K, V) x 30 layers x 3 KV heads x 32 tokens x 64 x 2 B" in message


def test_int8_halves_the_cache() -> None:
    wide, narrow = (KvMemory(LAYOUT, 32, dtype).block_bytes for dtype in ("bfloat16", "int8"))
    assert narrow / wide == (64 + 4) / 128
