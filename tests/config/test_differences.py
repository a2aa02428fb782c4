"""Requested settings beside an artifact's."""

from __future__ import annotations

import pytest

from forerun.config import (
    NeuronConfig,
    difference_table,
    needs_recompile,
    render_differences,
    require_match,
    with_run_time,
)
from forerun.errors import ArtifactError, ConfigError

STORED = NeuronConfig.from_dict(
    {
        "seq_len": 512,
        "enable_bucketing": True,
        "context_encoding_buckets": [256, 512],
        "on_device_sampling_config": {"top_k": 20, "do_sample": True},
    }
)


def test_each_kind_of_difference() -> None:
    rows = difference_table(
        {
            "seq_len": 1024,
            "batch_size": 1,
            "fused_qkv": True,
            "allow_input_truncation": True,
            "context_encoding_buckets": [512, 256],
            "on_device_sampling_config": {"top_k": 5, "do_sample": True},
            "chunked_prefill_config": {"max_num_seqs": 2},
        },
        STORED,
    )
    assert {row.setting: row.verdict for row in rows} == {
        "seq_len": "needs a recompile",
        "batch_size": "equal",
        "fused_qkv": "no effect here",
        "allow_input_truncation": "run-time setting",
        "context_encoding_buckets": "equal",
        "on_device_sampling_config.top_k": "run-time setting",
        "on_device_sampling_config.do_sample": "equal",
        "chunked_prefill_config.max_num_seqs": "run-time setting",
    }
    assert [row.setting for row in needs_recompile(rows)] == ["seq_len"]
    with pytest.raises(ArtifactError, match=r"/a was compiled with other settings: seq_len 1024 \(stored 512\)"):
        require_match(rows, "/a")


def test_nothing_to_complain_about() -> None:
    rows = difference_table({"seq_len": 512, "torch_dtype": None}, STORED)
    assert render_differences(rows) == ""
    require_match(rows, "/a")


def test_the_table_is_aligned_and_leaves_equal_rows_out() -> None:
    rows = difference_table(
        {"seq_len": 1024, "enable_bucketing": True, "token_generation_buckets": [128, 512], "quantized": True}, STORED
    )
    assert render_differences(rows).splitlines() == [
        "setting                   requested  artifact",
        "seq_len                   1024       512       needs a recompile",
        "token_generation_buckets  128 512    -         needs a recompile",
        "quantized                 true       false     needs a recompile",
    ]


def test_wrong_requests_are_refused() -> None:
    with pytest.raises(ConfigError, match="did you mean 'seq_len'"):
        difference_table({"seq_lenn": 3}, STORED)
    with pytest.raises(ConfigError, match="must be at least 1"):
        difference_table({"seq_len": 0}, STORED)


def test_run_time_settings_are_put_in_and_others_kept() -> None:
    merged = with_run_time(
        STORED, {"on_device_sampling_config": {"temperature": 0.5}, "allow_input_truncation": True, "fused_qkv": True}
    )
    assert merged.sampling.temperature == 0.5 and merged.sampling.top_k == 20 and merged.sampling.do_sample
    assert merged.allow_input_truncation and not merged.fused_qkv
    assert merged.context_encoding_buckets == STORED.context_encoding_buckets
