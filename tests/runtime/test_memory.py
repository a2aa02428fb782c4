"""Blocks of the KV cache: the derived number, the limits, and the formula that a refusal shows."""

from __future__ import annotations

import re

import pytest

from forerun.compiler.program import KvLayout
from forerun.config import NeuronConfig
from forerun.errors import ConfigError
from forerun.runtime.memory import PREFIX_FACTOR, SHARE, KvMemory, blocks_for
from tests.support.native_models import PackedModel
from tests.support.reference_models import tiny_model

LAYOUT = KvLayout(layers=30, kv_heads=3, head_dim=64)


def config(**settings: object) -> NeuronConfig:
    return NeuronConfig.from_dict({"seq_len": 1024, "batch_size": 4, **settings})


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
    assert blocks_for(config(), LAYOUT, plenty) == 4 * 32  # the full batch, no more
    prefix = config(is_prefix_caching=True)
    assert blocks_for(prefix, LAYOUT, plenty) == 4 * 32 * PREFIX_FACTOR
    assert blocks_for(prefix, LAYOUT, 100 * block) == int(100 * SHARE)
    assert blocks_for(config(), LAYOUT, 32 * block) == 32  # one sequence always gets all there is


def test_a_given_number_is_kept() -> None:
    block = KvMemory(LAYOUT, 32, "bfloat16").block_bytes
    assert blocks_for(config(pa_num_blocks=33), LAYOUT, 33 * block) == 33
    assert blocks_for(config(pa_num_blocks=5000), LAYOUT, 5000 * block) == 5000


@pytest.mark.parametrize("given", [None, 64])
def test_too_little_memory_shows_the_formula(given: int | None) -> None:
    memory = KvMemory(LAYOUT, 32, "bfloat16")
    wanted = given or 32
    with pytest.raises(ConfigError) as refused:
        blocks_for(config(pa_num_blocks=given), LAYOUT, 32 * memory.block_bytes - 1)
    message = str(refused.value)
    assert "\n" not in message and memory.formula() in message
    assert f"the KV cache of {wanted} blocks needs {wanted * memory.block_bytes >> 20} MiB" in message
    assert "one sequence of 1024 tokens needs 32 blocks" in message
    assert "2 (K, V) x 30 layers x 3 KV heads x 32 tokens x 64 x 2 B" in message


def test_int8_halves_the_cache() -> None:
    wide, narrow = (KvMemory(LAYOUT, 32, dtype).block_bytes for dtype in ("bfloat16", "int8"))
    assert narrow / wide == (64 + 4) / 128
