"""Whole plans: the tutorials' numbers, what fits, drafts, and a rank that really runs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from forerun.checkpoint import open_checkpoint
from forerun.compiler.compile import plan_compile
from forerun.errors import CheckpointError, ConfigError
from forerun.host.machine import read_host
from forerun.opening import ModelRequest, new_config
from forerun.planner.curve import Curve
from forerun.planner.machine import Machine, machine_values, read_machine
from forerun.planner.one_rank import rank_group, run_rank
from forerun.planner.placement import place
from forerun.planner.plan import Draft, Plan, make_plan
from forerun.planner.random_executor import random_executor
from forerun.planner.slices import slice_of
from forerun.planner.subject import Subject, open_subject
from forerun.planner.sweep import points
from forerun.planner.this_host import this_host
from forerun.planner.traffic import tokens_per_step, traffic_for
from forerun.runtime.memory import memory_plan
from forerun.runtime.ranks import all_local
from tests.planner.test_machine import rounded
from tests.support.artifacts import tiny_artifact
from tests.support.tiny_checkpoints import tiny_config, write_tiny

EXAMPLES = Path(__file__).parents[2] / "examples"
LARGE, SMALL = (str(EXAMPLES / name) for name in ("llama-3.3-70b.json", "llama-3.2-1b.json"))
DESK = Machine(
    name="desk",
    units=1,
    memory=32e9,
    bandwidth={"default": 40e9},
    operations={"default": Curve.flat(1e12)},
    attention=Curve.flat(1e12),
    columns=Curve.flat(1e9),
)
SPECULATION = {
    "tp_degree": 64, "torch_dtype": "bfloat16", "batch_size": 1, "max_context_length": 12288, "seq_len": 12800,
    "enable_bucketing": True, "context_encoding_buckets": [2048, 4096, 8192, 12288],
    "token_generation_buckets": [2048, 4096, 8192, 12800],
}  # fmt: skip
CACHING = {
    "tp_degree": 64, "torch_dtype": "bfloat16", "batch_size": 4, "seq_len": 8192, "enable_bucketing": True,
    "is_block_kv_layout": True, "is_prefix_caching": True, "pa_num_blocks": 2048, "pa_block_size": 32,
    "context_encoding_buckets": [512, 1024, 2048, 4096, 8192], "prefix_buckets": [512, 1024, 2048],
    "token_generation_buckets": [512, 1024, 2048, 4096, 8192],
}  # fmt: skip


def planned(model: str, settings: dict[str, object], machine: Machine, **traffic: float) -> Plan:
    subject = open_subject(model, settings, {"batch_size": 1})
    return make_plan(subject, machine, traffic_for(subject.config, None, None, **traffic))


def test_the_speculation_tutorial_against_what_was_published() -> None:
    trn2 = read_machine("trn2.48xlarge")
    target = open_subject(LARGE, SPECULATION, {"batch_size": 1})
    draft = open_subject(SMALL, {"torch_dtype": "bfloat16", "seq_len": 12800, "tp_degree": 64}, {"batch_size": 1})
    traffic = traffic_for(target.config, 10000, 1500, acceptance=0.98)
    plan = make_plan(target, trn2, traffic, Draft(draft, trn2, 7, 64))
    plain, fast = plan.speeds["one sequence"], plan.speeds["one, speculating"]
    assert plain.ttft.seconds == pytest.approx(0.8142, rel=0.1) and plain.tpot == pytest.approx(0.0196, rel=0.1)
    assert fast.ttft.seconds == pytest.approx(0.8701, rel=0.1) and fast.tpot == pytest.approx(0.0053, rel=0.2)
    assert plan.limits["one sequence"].tpot < 0.4 * plain.tpot
    assert plain.step.memory > 141e9 / 46.4e12, "the weights alone"
    assert plan.member.draft is not None
    assert plan.member.draft.kv.block_bytes == 2 * 16 * 1 * 64 * 2 * 32, "each block takes room in the draft's pool too"


def test_the_caching_tutorial() -> None:
    plan = planned(LARGE, dict(CACHING), read_machine("trn2.48xlarge"), prefix_hit=0.9)
    values = plan.to_json()
    memory = values["memory"]
    assert (memory["minimum_pa_num_blocks"], memory["recommended_pa_num_blocks"], memory["pa_num_blocks"]) == (
        1024,
        2048,
        2048,
    )
    assert memory["full_sequences"] == 8 and memory["blocks_of_one_sequence"] == 256
    assert values["compile"]["programs"] == {"context_encoding_model": 20, "token_generation_model": 5}
    assert values["rank"]["kv_bytes_per_token"] == 80 * 2 * 128 * 2
    fitting = (1649e9 / 64 - values["rank"]["weights_bytes"]) * 0.8 / (80 * 2 * 128 * 2 * 32)
    assert memory["blocks_that_fit"] == int(fitting)
    hit, miss = plan.speeds["4 with prefix hits"], plan.speeds["4 sequences"]
    assert hit.ttft.seconds < miss.ttft.seconds and hit.throughput > miss.throughput
    json.dumps(values, default=list)


def test_a_derived_cache_takes_its_share_of_what_the_weights_leave() -> None:
    subject = open_subject(SMALL, {"seq_len": 8192, "batch_size": 64, "torch_dtype": "bfloat16"})
    plan = make_plan(subject, replace(DESK, memory=6e9), traffic_for(subject.config, None, None))
    block = 2 * 16 * 8 * 64 * 2 * 32
    assert plan.fits and plan.blocks == int((6e9 - plan.member.weight_bytes) * 0.8) // block
    assert plan.blocks < plan.member.recommended_blocks
    given = open_subject(SMALL, {"seq_len": 8192, "pa_num_blocks": 4000, "torch_dtype": "bfloat16"})
    tight = make_plan(given, replace(DESK, memory=6e9), traffic_for(given.config, None, None))
    assert tight.blocks == 4000 and not tight.fits, "4.2 GB and 2.5 GB of weights"


def test_what_does_not_fit_is_a_result() -> None:
    plan = planned(SMALL, {"seq_len": 8192, "torch_dtype": "float32"}, replace(DESK, memory=4e9))
    assert not plan.fits and plan.blocks == plan.member.minimum_blocks and plan.largest < 1.2e9
    fine = planned(SMALL, {"seq_len": 8192}, DESK)
    assert fine.fits and fine.largest > 1.2e9
    half = make_plan(fine.subject, replace(DESK, memory=16e9), fine.traffic)
    assert half.largest == pytest.approx(fine.largest - 16e9 / 2, rel=1e-6), "two bytes a parameter"


def test_ranks_of_one_machine_share_it_and_others_need_a_link() -> None:
    subject = open_subject(SMALL, {"tp_degree": 4, "seq_len": 1024})
    shared = place(subject.config, DESK)
    assert shared.group.alone and shared.share == 1.0
    apart = open_subject(SMALL, {"tp_degree": 4, "seq_len": 1024, "local_ranks_size": 2})
    with pytest.raises(ConfigError, match="has no link"):
        place(apart.config, DESK)
    linked = replace(DESK, link=read_machine("trn2.48xlarge").link)
    assert place(apart.config, linked).group.begins == (0, 2, 4)
    units = place(subject.config, replace(linked, units=8))
    assert units.group.begins == (0, 1, 2, 3, 4) and units.share == 1 / 8
    wide = open_subject(SMALL, {"tp_degree": 16, "seq_len": 1024})
    assert place(wide.config, replace(linked, units=8)).share == 1 / 16


def test_tokens_of_a_step() -> None:
    assert tokens_per_step(0.5, 3) == 1 + 0.5 + 0.25
    assert tokens_per_step(1.0, 7) == 7 and tokens_per_step(0.0, 7) == 1


def test_drafts_that_never_are_right_are_best_left_out() -> None:
    target, draft = (open_subject(model, {"seq_len": 1024, "batch_size": 1}) for model in (LARGE, SMALL))
    balance = round(DESK.operations["default"].at(1) / DESK.bandwidth["default"])
    """Rows that take as long to multiply as the weights take to read."""
    for acceptance, expected in ((0.0, 1), (1.0, balance)):
        traffic = traffic_for(target.config, None, None, acceptance=acceptance)
        plan = make_plan(target, replace(DESK, memory=2e11), traffic, Draft(draft, DESK, 5, 1))
        assert plan.best == expected


def test_a_config_alone_plans_what_the_checkpoint_plans(tmp_path: Path) -> None:
    folder = write_tiny(tmp_path / "model", "qwen2", seed=2)
    checkpoint = open_checkpoint(str(folder))
    whole = plan_compile(checkpoint, new_config(checkpoint, ModelRequest(str(folder))))
    for source in (folder / "config.json", folder):
        alone = open_subject(str(source), {})
        assert alone.program == whole.program and alone.buckets == whole.buckets
        if source.is_file():
            (folder / "model.safetensors").unlink()


def test_a_config_has_no_weights_to_compile(tmp_path: Path) -> None:
    from forerun.checkpoint.bare_config import open_config

    file = tmp_path / "config.json"
    file.write_text(json.dumps(tiny_config("llama", seed=1)))
    with pytest.raises(CheckpointError, match="comes without weights"):
        next(iter(open_config(file).tensors.values())).load()
    file.write_text(json.dumps(tiny_config("llama", seed=1, torch_dtype="float8")))
    with pytest.raises(CheckpointError, match="torch_dtype 'float8'"):
        open_config(file)


def test_an_artifact_is_planned_as_it_is(tmp_path: Path) -> None:
    artifact = tiny_artifact(tmp_path, quantized=True, quantization_dtype="int8")
    subject = open_subject(str(artifact.path), {})
    assert subject.program == artifact.program and subject.config == artifact.neuron_config
    plan = make_plan(subject, DESK, traffic_for(subject.config, None, None))
    assert plan.member.weights == memory_plan(artifact.program, artifact.neuron_config).weights


def tiny_subject(tmp_path: Path, **settings: object) -> Subject:
    file = tmp_path / "config.json"
    values = tiny_config(
        "llama", seed=1, hidden_size=256, head_dim=64, num_hidden_layers=5, max_position_embeddings=4096
    )
    file.write_text(json.dumps(values))
    return open_subject(str(file), {"seq_len": 2048, **settings})


@pytest.mark.parametrize("settings", [{}, {"quantized": True, "quantization_dtype": "int4"}, {"kv_cache_quant": True}])
def test_this_host_is_measured_once(tmp_path: Path, settings: dict[str, object]) -> None:
    subject, kept = tiny_subject(tmp_path, **settings), tmp_path / "kept.json"
    told: list[str] = []
    measure = lambda: this_host(  # noqa: E731
        subject.program, all_local(), subject.config.kv_cache_dtype, kept, lambda what, done, total: told.append(what)
    )
    machine, count = measure(), len(told)
    formats = {weight.format for weight in subject.program.weights.values() if len(weight.shape) == 2}
    assert set(machine.operations) == {*formats, "default"} and count > 10
    assert min(machine.operations["default"].speeds.values()) > 0 and machine.call > 0
    again = measure()
    assert len(told) == count, "nothing was measured again"
    assert rounded(machine_values(replace(again, memory=machine.memory))) == rounded(machine_values(machine))


def test_a_slice_has_every_format_and_few_layers() -> None:
    subject = open_subject(LARGE, {"seq_len": 1024, "quantized": True, "quantization_dtype": "int4"})
    part = slice_of(subject.program, all_local().ranks)
    assert part.kv_layout.layers == 1 and part.vocab_size == 32768, "a layer alone is larger than caches"
    assert [step.attrs["layer"] for step in part.instructions if step.op == "attention"] == [0]
    assert {w.format for w in part.weights.values()} == {w.format for w in subject.program.weights.values()}


@pytest.mark.parametrize("rank", [0, 2])
def test_a_rank_of_many_runs_alone(tmp_path: Path, rank: int) -> None:
    subject = tiny_subject(tmp_path, tp_degree=3)
    found = run_rank(subject, rank_group(subject, rank), DESK, depth=100)
    plan = memory_plan(subject.program, subject.config, rank_group(subject, rank))
    assert (found.rank, found.of, found.weights) == (rank, 3, plan.weight_bytes)
    assert found.decode[1] > 0 and found.prompt[1] > 0
    assert found.memory[0] == found.weights + found.kv
    with pytest.raises(ConfigError, match=r"must be within 0\.\.2"):
        rank_group(subject, 3)


def test_what_has_no_room_here_is_not_tried() -> None:
    subject = open_subject(LARGE, {"seq_len": 1024, "torch_dtype": "bfloat16"})
    little = replace(read_host(), memory_available=8 << 30)
    with pytest.raises(ConfigError, match=r"needs \d+ MiB, 8192 MiB are available"):
        random_executor(subject.program, all_local(), little, length=64, sequences=1, kv_dtype="bfloat16")


def test_points_of_a_sweep() -> None:
    assert points(["tp-degree=1,2,batch_size=4"]) == (
        {"tp-degree": 1, "batch-size": 4},
        {"tp-degree": 2, "batch-size": 4},
    )
    assert len(points(["acceptance=0.5,0.7", "seq-len=64,128,256"])) == 6


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("tp=1", "'tp' cannot be swept"),
        ("1,2", "give NAME=VALUE"),
        ("tp-degree=1,tp_degree=2", "given twice"),
        ("tp-degree=one", "'one' is no number"),
        ("tp-degree=", "'' is no number"),
        ("tp-degree=-1", "must be within 1.."),
        ("acceptance=nan", "must be within 0..1"),
        ("tp-degree=" + ",".join(["1"] * 30) + ",batch-size=" + ",".join(["1"] * 30), "900 combinations"),
    ],
)
def test_sweeps_that_are_none(text: str, said: str) -> None:
    with pytest.raises(ConfigError) as refused:
        points([text])
    assert said in str(refused.value)
