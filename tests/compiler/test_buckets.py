"""Bucket generation and plans: every worked example of the original, and the mended rules."""

from __future__ import annotations

import json
from typing import Any

import pytest

from forerun.compiler.buckets import (
    FUSED_SPECULATION,
    Bucket,
    BucketPlan,
    check_prompt_length,
    generate_buckets,
    plan_buckets,
)
from forerun.config import NeuronConfig
from forerun.errors import ArtifactError, ConfigError

TUTORIAL_A = {
    "seq_len": 12800,
    "max_context_length": 12288,
    "enable_bucketing": True,
    "context_encoding_buckets": [2048, 4096, 8192, 12288],
    "token_generation_buckets": [2048, 4096, 8192, 12800],
}
TUTORIAL_B = {
    "batch_size": 4,
    "seq_len": 8192,
    "enable_bucketing": True,
    "context_encoding_buckets": [512, 1024, 2048, 4096, 8192],
    "token_generation_buckets": [512, 1024, 2048, 4096, 8192],
    "prefix_buckets": [512, 1024, 2048],
    "is_prefix_caching": True,
    "pa_num_blocks": 2048,
}
PAIRS = [Bucket(a, p) for a in (512, 1024, 2048) for p in (0, 512, 1024)]


def plan(**settings: Any) -> BucketPlan:
    return plan_buckets(NeuronConfig.from_dict(settings))


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (128, 1000, (128, 256, 512, 1000)),
        (128, 12800, (128, 256, 512, 1024, 2048, 4096, 8192, 12800)),
        (128, 520, (128, 256, 520)),
        (128, 8192, (128, 256, 512, 1024, 2048, 4096, 8192)),
        (128, 128, (128,)),
        (128, 100, (100,)),
        (200, 512, (128, 256, 512)),
        (512, 513, (513,)),
        (128, 3000, (128, 256, 512, 1024, 2048, 3000)),
    ],
)
def test_generated_buckets(low: int, high: int, expected: tuple[int, ...]) -> None:
    assert generate_buckets(low, high) == expected


def test_without_bucketing_each_sub_model_has_its_limit() -> None:
    made = plan(seq_len=1000, max_context_length=600)
    assert made.context_encoding_model == (Bucket(600),)
    assert made.token_generation_model == (Bucket(1, 1000),)


def test_automatic_buckets_end_at_their_limits() -> None:
    made = plan(seq_len=1000, max_context_length=520, enable_bucketing=True)
    assert [b.active for b in made.context_encoding_model] == [128, 256, 520]
    assert [b.prefix for b in made.token_generation_model] == [128, 256, 512, 1000]


def test_listed_buckets_are_taken_as_given() -> None:
    made = plan(**TUTORIAL_A)
    assert [b.active for b in made.context_encoding_model] == [2048, 4096, 8192, 12288]
    assert [b.prefix for b in made.token_generation_model] == [2048, 4096, 8192, 12800]


def test_a_list_below_the_limit_gets_the_limit() -> None:
    made = plan(seq_len=1000, enable_bucketing=True, context_encoding_buckets=[256], token_generation_buckets=[512])
    assert [b.active for b in made.context_encoding_model] == [256, 1000]
    assert [b.prefix for b in made.token_generation_model] == [512, 1000]


def test_prefix_caching_plan_of_the_tutorial_has_twenty_and_five_buckets() -> None:
    made = plan(**TUTORIAL_B)
    assert len(made.context_encoding_model) == 20
    assert {b.prefix for b in made.context_encoding_model} == {0, 512, 1024, 2048}
    assert [b.prefix for b in made.token_generation_model] == [512, 1024, 2048, 4096, 8192]
    without = {k: v for k, v in TUTORIAL_B.items() if k not in ("prefix_buckets", "is_prefix_caching")}
    assert len(plan(**without).context_encoding_model) + len(plan(**without).token_generation_model) == 10


def test_prefix_caching_automatic_and_without_bucketing() -> None:
    made = plan(seq_len=2048, enable_bucketing=True, is_prefix_caching=True)
    assert {b.active for b in made.context_encoding_model} == {512, 1024, 2048}
    assert {b.prefix for b in made.context_encoding_model} == {0, 512, 1024, 2048}
    assert [b.prefix for b in made.token_generation_model] == [256, 512, 1024, 2048]
    single = plan(seq_len=2048, is_prefix_caching=True)
    assert single.context_encoding_model == (Bucket(2048, 0), Bucket(2048, 2048))
    assert single.token_generation_model == (Bucket(1, 2048),)


def test_context_list_without_prefix_list_gets_automatic_prefixes() -> None:
    made = plan(seq_len=1024, enable_bucketing=True, is_prefix_caching=True, context_encoding_buckets=[256, 1024])
    assert {b.prefix for b in made.context_encoding_model} == {0, 512, 1024}


def test_fused_speculation_takes_the_place_of_token_generation() -> None:
    config = NeuronConfig.from_dict(TUTORIAL_A)
    fused = plan_buckets(config, fused_speculation=True)
    assert fused.token_generation_model == ()
    assert fused.fused_speculation_model == plan_buckets(config).token_generation_model


def test_the_flag_alone_plans_no_fused_speculation() -> None:
    asked = plan(**TUTORIAL_A, enable_fused_speculation=True, speculation_length=7)
    assert asked == plan(**TUTORIAL_A)
    assert asked.fused_speculation_model == () and FUSED_SPECULATION not in str(asked)


def test_batch_buckets_largest_first_and_the_maximum_always_there() -> None:
    made = plan(batch_size=8, seq_len=256, enable_bucketing=True, token_generation_batches=[1, 4])
    assert [(b.batch, b.prefix) for b in made.token_generation_model] == [
        (8, 128), (8, 256), (4, 128), (4, 256), (1, 128), (1, 256),
    ]  # fmt: skip


def test_prompt_length() -> None:
    config = NeuronConfig(seq_len=100, max_context_length=64)
    assert check_prompt_length(64, config) == 64
    with pytest.raises(ConfigError) as caught:
        check_prompt_length(65, config)
    assert str(caught.value) == (
        "Inputs supplied (65 tokens) are longer than max_context_length (64 tokens). "
        "To truncate inputs, set allow_input_truncation=True."
    )
    truncating = NeuronConfig(seq_len=100, max_context_length=64, allow_input_truncation=True)
    assert check_prompt_length(65, truncating) == 64


def test_plans_survive_json_and_print_readably() -> None:
    for settings in (
        TUTORIAL_A,
        TUTORIAL_B,
        {"seq_len": 256, "enable_bucketing": True, "token_generation_batches": [1]},
    ):
        made = plan(**settings)
        assert BucketPlan.from_json(json.loads(json.dumps(made.to_json()))) == made
    assert str(plan(**TUTORIAL_A)) == (
        "context_encoding_model: new tokens 2048 4096 8192 12288\n"
        "token_generation_model: sequence length 2048 4096 8192 12800"
    )
    assert "(512, 2048)" in str(plan(**TUTORIAL_B))


def test_a_damaged_plan_is_one_clear_line() -> None:
    with pytest.raises(ArtifactError, match="compile the artifact again"):
        BucketPlan.from_json({"context_encoding_model": [[1]]})
