"""``forerun plan``: the table, the JSON, sweeps and charts, the examples' script, and mistakes in one line."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from forerun.cli.main import main
from tests.support.artifacts import tiny_artifact

EXAMPLES = Path(__file__).parents[2] / "examples"
LARGE, SMALL = (str(EXAMPLES / name) for name in ("llama-3.3-70b.json", "llama-3.2-1b.json"))


def plan(*words: str) -> int:
    return main(["plan", *words])


def as_json(capsys: pytest.CaptureFixture[str], *words: str) -> Any:
    assert plan(*words, "--json", "-") == 0
    return json.loads(capsys.readouterr().out)


def test_the_table_says_what_the_json_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "plan.json"
    words = (SMALL, "--machine", "epyc-9654", "--quantization-dtype", "int4", "--batch-size", "8")
    assert plan(*words, "--prefix-hit", "0.5", "--json", str(file)) == 0
    table = capsys.readouterr().out
    values = json.loads(file.read_text())
    memory, speed = values["memory"], values["speed"]
    assert f"minimum {memory['minimum_pa_num_blocks']} (8 x {memory['blocks_of_one_sequence']}" in table
    assert list(speed) == ["one sequence", "8 sequences", "8 with prefix hits"]
    for name, one in speed.items():
        (line,) = (line for line in table.splitlines() if re.match(rf"{name}  ", line))
        assert f"{one['ttft']['ms']:.1f}" in line and f"{one['tpot_ms']:.2f}" in line and one["step"]["bound"] in line
    assert values["settings"]["quantization_dtype"] == "int4" and values["traffic"]["prefix_hit"] == 0.5
    assert set(values["rank"]["weights_by_format"]) == {"int4_f16_min", "int8_f16", "vectors"}


def test_one_is_said_in_the_singular(capsys: pytest.CaptureFixture[str]) -> None:
    assert plan(SMALL, "--machine", "epyc-9654", "--batch-size", "1", "--pa-num-blocks", "300") == 0
    table = " ".join(capsys.readouterr().out.split())
    assert "1 rank, 1 sequence of" in table and "pa_num_blocks 300 = 1 full sequence fits" in table


def test_the_plan_of_an_artifact_and_what_inspect_shows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    artifact = tiny_artifact(tmp_path, quantized=True, quantization_dtype="int8", pa_num_blocks=11)
    planned = as_json(capsys, str(artifact.path), "--machine", "ryzen-7950x")
    assert main(["inspect", str(artifact.path), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert planned["rank"]["weights_by_format"] == shown["weights"]
    memory, cache = planned["memory"], shown["kv_cache"]
    assert memory["bytes_per_block"] == cache["bytes_per_block"]
    assert planned["rank"]["kv_bytes_per_token"] == cache["bytes_per_token"]
    assert memory["minimum_pa_num_blocks"] == cache["full_batch_blocks"]
    assert memory["blocks_of_one_sequence"] == cache["minimum_blocks"]
    assert memory["pa_num_blocks"] == 11
    assert planned["compile"]["buckets"] == shown["buckets"]


def test_settings_as_scripts_print_them_have_the_defaults_of_scripts(capsys: pytest.CaptureFixture[str]) -> None:
    words = ("--machine", "trn2.48xlarge", "--tp-degree", "32", "--seq-len", "4096", "--prompt", "What is it?")
    script = as_json(capsys, "--model-path", SMALL, "--compiled-model-path", "nowhere", *words)
    assert script["settings"]["batch_size"] == 1 and not script["settings"]["is_prefix_caching"]
    native = as_json(capsys, SMALL, *words)
    assert native["settings"]["batch_size"] == 4 and native["settings"]["is_prefix_caching"]
    assert script["settings"]["tp_degree"] == 32 and script["rank"]["rank"] == 31


def test_drafts(capsys: pytest.CaptureFixture[str]) -> None:
    words = (LARGE, "--machine", "trn2.48xlarge", "--tp-degree", "64", "--batch-size", "1")
    drafts = ("--draft", SMALL, "--speculation-length", "7", "--acceptance", "0.9", "--enable-fused-speculation")
    values = as_json(capsys, *words, *drafts)
    assert values["speed"]["one, speculating"]["tokens_per_step"] == pytest.approx((1 - 0.9**7) / 0.1)
    assert values["speculation"]["length"] == 7 and values["speculation"]["best_length"] >= 2
    assert set(values["compile"]["programs"]) == {"context_encoding_model", "fused_speculation_model"}


def test_a_sweep_and_its_chart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    chart, file = tmp_path / "sweep.png", tmp_path / "sweep.json"
    words = (
        LARGE,
        "--machine",
        "trn2.48xlarge",
        "--torch-dtype",
        "bfloat16",
        "--plot",
        str(chart),
        "--json",
        str(file),
    )
    assert plan(*words, "--sweep", "tp-degree=1,16,64,batch-size=1,4") == 0
    assert chart.read_bytes().startswith(b"\x89PNG")
    lines = capsys.readouterr().out.splitlines()
    swept = json.loads(file.read_text())
    assert [one["point"] for one in swept] == [
        {"tp-degree": degree, "batch-size": batch} for degree in (1, 16, 64) for batch in (1, 4)
    ]
    cells = [line.split() for line in lines if re.match(r"(1|16|64) ", line)]
    assert [line[7] for line in cells] == ["no", "no", *["yes"] * 4]
    assert [line[7] == "yes" for line in cells] == [one["memory"]["fits"] for one in swept]
    for line, one in zip(cells, swept, strict=True):
        fastest = max(one["speed"].values(), key=lambda speed: speed["throughput_tokens_per_s"])
        assert line[-2:] == [f"{fastest['throughput_tokens_per_s']:.1f}", f"{fastest['tpot_ms']:.2f}"]
    assert float(cells[-1][-1]) > float(cells[-2][-1]), "four sequences take longer for a token than one"


def test_without_matplotlib_a_line_says_how_to_get_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    words = (SMALL, "--machine", "epyc-9654", "--sweep", "batch-size=1,2", "--plot", str(tmp_path / "chart.png"))
    assert plan(*words) == 1
    assert capsys.readouterr().err == "error: --plot needs matplotlib: pip install 'forerun[bench]'\n"


def test_this_host_is_the_default(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    monkeypatch.setenv("FORERUN_CACHE", str(tmp_path / "cache"))
    artifact = tiny_artifact(tmp_path)
    values = as_json(capsys, str(artifact.path))
    assert values["machine"]["source"].startswith("measured on")
    assert values["speed"]["one sequence"]["tpot_ms"] > 0
    assert (tmp_path / "cache" / "machine.json").is_file()
    mine = tmp_path / "mine.json"
    mine.write_text(json.dumps(values["machine"]))
    again = as_json(capsys, str(artifact.path), "--machine", str(mine))
    assert again["speed"]["one sequence"]["tpot_ms"] == pytest.approx(values["speed"]["one sequence"]["tpot_ms"])


def test_one_rank_of_many(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    monkeypatch.setenv("FORERUN_CACHE", str(tmp_path / "cache"))
    artifact = tiny_artifact(tmp_path, seq_len=512)
    source = str(tmp_path / "model" / "config.json")
    assert artifact.path.is_dir()
    assert plan(source, "--tp-degree", "2", "--seq-len", "512", "--run-rank", "1") == 0
    shown = capsys.readouterr().out
    assert "rank 1 of 2" in shown and "planned / found" in shown
    most = str(64)  # more than there are heads or panels: some ranks have no part of some matrices
    assert plan(source, "--tp-degree", most, "--seq-len", "512", "--run-rank", "0") == 0
    assert "rank 0 of 64" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("nothing.json",), "'nothing.json' does not exist"),
        ((), "name one model"),
        ((SMALL, "--model-path", SMALL), "name one model"),
        ((SMALL, "--machine", "trn9"), "no machine is called 'trn9'"),
        ((SMALL, "--machine", "epyc-9654", "--plot", "x.png"), "--plot draws a sweep"),
        ((SMALL, "--machine", "epyc-9654", "--sweep", "ranks=2"), "'ranks' cannot be swept"),
        ((SMALL, "--machine", "epyc-9654", "--sweep", "tp-degree=0"), "tp-degree 0 must be within 1.."),
        ((SMALL, "--machine", "epyc-9654", "--input-tokens", "8192"), "--input-tokens 8192 must be within 1..8191"),
        ((SMALL, "--machine", "epyc-9654", "--output-tokens", "9000"), "--output-tokens 9000 must be within"),
        ((SMALL, "--machine", "epyc-9654", "--prefix-hit", "1.5"), "--prefix-hit 1.5 must be within 0..1"),
        ((SMALL, "--machine", "epyc-9654", "--acceptance", "nan"), "--acceptance nan must be within 0..1"),
        ((SMALL, "--machine", "epyc-9654", "--draft", SMALL), "--draft-model-path needs --speculation-length"),
        ((SMALL, "--machine", "epyc-9654", "--is-medusa"), "--is-medusa is refused"),
        ((SMALL, "--machine", "epyc-9654", "--quantization-dtype", "int3"), "--quantization-dtype int3 is none of"),
        ((SMALL, "--machine", "epyc-9654", "--tp-degree", "4", "--local_ranks_size", "2"), "has no link"),
        ((SMALL, "--machine", "epyc-9654", "--json", "/nowhere/x.json"), "--json /nowhere/x.json cannot be written"),
        ((SMALL, "--run-rank", "0", "--sweep", "tp-degree=1"), "leave --sweep out"),
        (
            (
                SMALL,
                "--machine",
                "epyc-9654",
                "--draft",
                SMALL,
                "--speculation-length",
                "4",
                "--draft-model-tp-degree",
                "0",
            ),
            "tp-degree 0 must be at least 1",
        ),
        ((SMALL, "--run-rank", "1"), "--run-rank 1 must be within 0..0"),
        ((SMALL, "--seq-len", "200000", "--machine", "epyc-9654"), "longer than the model's"),
    ],
)
def test_mistakes_are_said_in_one_line(words: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert plan(*words) == 1
    error = capsys.readouterr().err
    assert said in error and error.startswith("error: ") and error.count("\n") == 1


def test_the_script_plans_both_tutorials() -> None:
    done = subprocess.run(
        ["bash", EXAMPLES / "llama3_70b_plan.sh"],
        env=os.environ | {"PYTHON": sys.executable},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("===") == 4 and done.stdout.count("weights        2.50 GB") == 4
    assert "minimum 1024 (4 x 256 of a full sequence), recommended 2048" in done.stdout
    assert "one program for 25 buckets" in done.stdout and "one, speculating" in done.stdout
